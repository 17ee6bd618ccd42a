"""The observation's figure, table and numbers."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ElementTree

import pytest

from earsight.analysis.boundaries import NAMES
from earsight.inference.observation import KINDS
from earsight.reports.analysis_figures import boundaries_figure, boundary_rows, write_boundaries
from earsight.reports.tables import markdown


def _entry(mean):
    return {"mean": mean, "ci95": [mean - 0.02, mean + 0.03]}


@pytest.fixture
def found():
    means = {
        kind: {
            name: {"observed": _entry(0.1 * place), "shifted": _entry(0.0), "difference": _entry(0.1 * place)}
            for place, name in enumerate(NAMES)
        }
        for kind in KINDS
    }
    numbers = dict.fromkeys(NAMES, 0.25)
    row = {"fold": 1, "seed": 0, "clip": "a, b.wav", "label": "dog", "explained": "rain", "steps": 64, "error": 0.004}
    measured = {kind: {"observed": numbers, "shifted": numbers} for kind in KINDS}
    return {
        "clips": {"measured": 1, "left_out": ["c.wav: silent"], "not_complete": 0},
        "means": means,
        "verdict": ["It holds."],
        "rows": [row | measured, {"fold": 1, "seed": 0, "clip": "c.wav", "label": "dog", "left_out": "silent"}],
    }


def test_the_files(found, tmp_path):
    (tmp_path / "analysis").mkdir()
    files = write_boundaries(found, tmp_path)
    assert sorted(path.name for path in (tmp_path / "analysis").iterdir()) == [
        *("boundaries.csv", "boundaries.json", "boundaries.png")
    ]
    content = json.loads(files["json"].read_text())
    assert content["means"] == found["means"]
    assert "rows" not in content
    table = list(csv.DictReader(files["csv"].open(newline="")))
    assert [row["clip"] for row in table] == ["a, b.wav", "c.wav"]
    assert table[0]["attribution.observed.spearman_gradient"] == "0.25"
    assert table[1]["left_out"] == "silent"
    assert table[1]["sensitivity.shifted.density_inside"] == ""


def test_the_figure_says_what_everything_is(found, tmp_path):
    boundaries_figure(found, path=tmp_path / "x.svg")
    root = ElementTree.parse(tmp_path / "x.svg").getroot()
    said = " ".join("".join(node.itertext()) for node in root.iter() if node.tag.endswith("}text"))
    for expected in (
        *(
            "how fast the spectrogram changes",
            "how loud it is",
            "change, at a given loudness",
            "on the boundary",
            "inside",
        ),
        *("Spearman correlation", "95 % intervals", "as they are", "moved in time (chance)", "sensitivity"),
    ):
        assert expected in said, expected


def test_the_table(found):
    rows = boundary_rows(found)
    assert len(rows) == len(KINDS) * len(NAMES)
    assert rows[2] == {
        "of": "attribution",
        "with": "spearman: change, at a given loudness",
        "observed": "0.200 (0.180 to 0.230)",
        "shifted": "0.000 (-0.020 to 0.030)",
        "difference": "0.200 (0.180 to 0.230)",
    }
    assert markdown(rows).count("\n") == len(rows) + 2
