"""Figures and tables of the analyses: what is drawn is what was found."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from earsight.analysis.boundaries import NAMES
from earsight.inference.observation import KINDS
from earsight.reports import analysis_figures
from earsight.reports.analysis_figures import (
    boundaries_figure,
    boundary_rows,
    similarity_figure,
    similarity_notes,
    similarity_rows,
    transfer_figure,
    transfer_notes,
    transfer_rows,
    write_boundaries,
)
from earsight.reports.tables import csv_text, markdown


def point(stage: str, svcca: float | None, *, half: float | None = 0.05, uncertain: bool = False) -> dict[str, Any]:
    limits = None if half is None or svcca is None else [svcca - half, svcca + half]
    return {
        "stage": stage,
        "svcca": {"mean": svcca, "ci95": limits, "trials": 3},
        "cka": {"mean": 0.8, "ci95": None, "trials": 3},
        "chance": 0.125,
        "rows": 640,
        "kept": 33,
        "uncertain": uncertain,
    }


@pytest.fixture
def similarity() -> dict[str, Any]:
    first = [point("stem", 0.95), point("block1", 0.75), point("block2", 0.5, uncertain=True)]
    second = [point("stem", 0.4), point("block1", None, uncertain=True), point("block2", 0.25, half=None)]
    runs = [
        {"name": "esc10", "start": "pretrained", "points": first, "trials": []},
        {"name": "a $ b", "start": "random", "points": second, "trials": []},
    ]
    return {"analysis": "similarity", "backbone": "test_resnet", "rows": "positions", "runs": runs}


def sweep_point(stage: str, mean: float, gap: float | None) -> dict[str, Any]:
    difference = {"mean": gap, "ci95": [gap - 0.04, gap + 0.02], "p_value": 0.0125} if gap is not None else None
    return {
        "stage": stage,
        "run": stage,
        "accuracy": {"mean": mean, "ci95": [mean - 0.03, mean + 0.02]},
        "difference": difference,
        "parameters": 3_400_000,
        "trained": 1_250_000,
        "clips": 240,
        "seconds": 33.4,
    }


@pytest.fixture
def sweep() -> dict[str, Any]:
    points = [sweep_point("none", 0.95, None), sweep_point("block1", 0.96, 0.01), sweep_point("block2", 0.8, -0.15)]
    return {
        "analysis": "freeze",
        "backbone": "test_resnet",
        "dataset": "esc_$10$",
        "folds": [1, 2, 3],
        "seeds": [0],
        "classes": 10,
        "points": points,
    }


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    out: list[Figure] = []
    save = analysis_figures.write_figure

    def keep(figure: Figure, path: Path) -> None:
        out.append(figure)
        save(figure, path)

    monkeypatch.setattr(analysis_figures, "write_figure", keep)
    return out


def bars(axis: Any) -> list[tuple[str, np.ndarray, list[np.ndarray]]]:
    """Label, line (points, 2) and bar ends (bars, 2, 2) of each line with error bars."""
    found = [item for item in axis.containers if isinstance(item, ErrorbarContainer)]
    return [(item.get_label(), item.lines[0].get_xydata(), item.lines[2][0].get_segments()) for item in found]


def test_similarity_lines_and_bars_are_the_values(similarity, drawn, tmp_path):
    similarity_figure(similarity, path=tmp_path / "a.png")
    similarity_figure(similarity, path=tmp_path / "a.svg")
    svcca, cka = drawn[0].axes
    first, second = bars(svcca)
    assert first[0] == "pretrained start (esc10)"
    assert first[1][:, 1].tolist() == [0.95, 0.75, 0.5]
    np.testing.assert_allclose([segment[:, 1] for segment in first[2]], [[0.9, 1.0], [0.7, 0.8], [0.45, 0.55]])
    assert second[0] == "random start (a $ b)"
    assert second[1][:, 1].tolist() == [0.4, 0.25]
    assert np.round(second[1][:, 0]).tolist() == [0, 2]
    np.testing.assert_allclose(second[2][1][:, 1], [0.25, 0.25])
    assert [text.get_text() for text in cka.get_xticklabels()] == ["stem", "block1", "block2"]
    lines = [line for line in svcca.get_lines() if line.get_label() == "outputs that are independent"]
    assert lines[0].get_ydata().tolist() == [0.125] * 3
    styles = {(line.get_linestyle(), line.get_marker()) for line in cka.get_lines() if line.get_marker() in "os"}
    assert len(styles) == 2, "two runs must differ in more than colour"
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert "block2" in (tmp_path / "a.svg").read_text()


def test_similarity_table_and_notes(similarity):
    rows = similarity_rows(similarity)
    assert [row["stage"] for row in rows] == ["stem", "block1", "block2"]
    assert rows[0]["SVCCA esc10"] == "0.95 (0.90 to 1.00)"
    assert rows[2]["SVCCA esc10"] == "0.50 (0.45 to 0.55) ?"
    assert rows[1]["SVCCA a $ b"] == "too few rows"
    assert rows[2]["SVCCA a $ b"] == "0.25"
    assert (rows[0]["independent esc10"], rows[0]["rows"], rows[0]["kept esc10"]) == ("0.12", 640, 33)
    notes = " ".join(similarity_notes(similarity))
    for words in ("positions of held-out clips", "95 % of the mean over folds", "fewer than ten rows", "Too few rows"):
        assert words in notes
    similarity["runs"] = [{**similarity["runs"][0], "points": [point("stem", 0.5, half=None)]}]
    assert list(similarity_rows(similarity)[0])[1] == "SVCCA"
    (only,) = similarity_notes(similarity)
    assert only.startswith("Rows are positions")


def test_transfer_points_bars_and_reference(sweep, drawn, tmp_path):
    transfer_figure(sweep, path=tmp_path / "t.png", title="Weight freeze", axis_label="frozen up to this stage")
    (axis,) = drawn[0].axes
    ((label, line, ends),) = bars(axis)
    assert label == "accuracy and 95 % interval"
    np.testing.assert_allclose(line, [[0, 95], [1, 96], [2, 80]])
    np.testing.assert_allclose([segment[:, 1] for segment in ends], [[92, 97], [93, 98], [77, 82]])
    assert [text.get_text() for text in axis.texts] == ["95.0", "96.0", "80.0"]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["none", "block1", "block2"]
    assert axis.get_xlabel() == "frozen up to this stage"
    assert axis.get_ylabel() == "accuracy on held-out clips in %"
    assert axis.get_title() == "Weight freeze: test_resnet on esc_$10$, 3 folds, 1 seed"
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert legend == ["accuracy and 95 % interval", "nothing frozen", "its 95 % interval"]
    dashed = next(line for line in axis.get_lines() if line.get_label() == "nothing frozen")
    assert set(dashed.get_ydata()) == {95.0}
    (band,) = axis.patches
    assert (band.get_y(), band.get_y() + band.get_height()) == (92.0, 97.0)


def test_transfer_table_and_notes(sweep):
    rows = transfer_rows(sweep)
    assert rows[0]["stage"] == "none (reference)"
    assert rows[0]["difference"] is None
    assert rows[2] == {
        "stage": "block2",
        "accuracy %": "80.0",
        "95 % interval": "77.0 to 82.0",
        "difference": "-15.0",
        "its 95 % interval": "-19.0 to -13.0",
        "p": "0.013",
        "trained": "1.25 of 3.40 M",
        "seconds a trial": "33",
    }
    notes = transfer_notes(sweep)
    assert "240 held-out clips" in notes[0]
    assert "Chance is 10.0 %" in notes[0]
    # block1's interval, -3 to +3 points, holds 0: no winner is marked inside the noise.
    assert notes[1].startswith("Outside the noise of the clips: block2 (-15.0). One seed:")
    sweep["seeds"] = [0, 1]
    sweep["points"] = sweep["points"][:2]
    assert transfer_notes(sweep)[1] == "Outside the noise of the clips: none."


def test_csv_has_the_table_as_it_is(sweep):
    rows = transfer_rows(sweep)
    read = list(csv.DictReader(io.StringIO(csv_text(rows))))
    assert [row["accuracy %"] for row in read] == ["95.0", "96.0", "80.0"]
    assert read[0]["p"] == ""
    assert list(read[0]) == list(rows[0])
    assert csv_text([{"a": 'say "x", y'}]) == 'a\n"say ""x"", y"\n'


def test_many_stages_stay_readable(sweep, drawn, tmp_path):
    sweep["points"] = [sweep_point(f"block{n}", 0.9, None if n == 0 else -0.05) for n in range(15)]
    transfer_figure(sweep, path=tmp_path / "t.svg", title="x", axis_label="y")
    axis = drawn[0].axes[0]
    boxes = [text.get_window_extent() for text in axis.get_xticklabels()]
    centres = [(box.x0 + box.x1) / 2 for box in boxes]
    assert min(np.diff(centres)) > 20
    assert re.search("block14", (tmp_path / "t.svg").read_text())


def _entry(mean):
    return {"mean": mean, "ci95": [mean - 0.02, mean + 0.03]}


@pytest.fixture
def boundaries():
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


def test_the_files_of_boundaries(boundaries, tmp_path):
    (tmp_path / "analysis").mkdir()
    files = write_boundaries(boundaries, tmp_path)
    assert sorted(path.name for path in (tmp_path / "analysis").iterdir()) == [
        *("boundaries.csv", "boundaries.json", "boundaries.png")
    ]
    content = json.loads(files["json"].read_text())
    assert content["means"] == boundaries["means"]
    assert "rows" not in content
    table = list(csv.DictReader(files["csv"].open(newline="")))
    assert [row["clip"] for row in table] == ["a, b.wav", "c.wav"]
    assert table[0]["attribution.observed.spearman_gradient"] == "0.25"
    assert table[1]["left_out"] == "silent"
    assert table[1]["sensitivity.shifted.density_inside"] == ""


def test_the_figure_of_boundaries_says_what_everything_is(boundaries, tmp_path):
    boundaries_figure(boundaries, path=tmp_path / "x.svg")
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


def test_the_table_of_boundaries(boundaries):
    rows = boundary_rows(boundaries)
    assert len(rows) == len(KINDS) * len(NAMES)
    assert rows[2] == {
        "of": "attribution",
        "with": "spearman: change, at a given loudness",
        "observed": "0.200 (0.180 to 0.230)",
        "shifted": "0.000 (-0.020 to 0.030)",
        "difference": "0.200 (0.180 to 0.230)",
    }
    assert markdown(rows).count("\n") == len(rows) + 2
