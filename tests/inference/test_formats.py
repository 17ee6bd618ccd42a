"""Rows of windows and events in every form, as the programs that read them expect."""

from __future__ import annotations

import csv
import io
import json

import pytest

from earsight.inference.classifier import Prediction
from earsight.inference.events import Event
from earsight.inference.formats import Table

FOUND = Prediction("a, b.wav", ("dog", "cat"), (0.75, 0.25))
STRANGE = Prediction("a, b.wav", ("dog", "cat"), (0.75, 0.25), unknown=True, novelty=-1.5, plausible=("dog", "cat"))
EVENT = Event("dog\tbark", 4.0, 7.25, 0.9, 0.8, 3)


def _table(form, what, rows):
    table = Table(form, what, top=2, calibrated=True)
    lines = [table.header()]
    for row in rows:
        if isinstance(row, Event):
            lines.append(table.event("a, b.wav", row, high_hz=11025.0))
        elif isinstance(row, str):
            lines.append(table.problem("a, b.wav", row))
        else:
            lines.append(table.prediction(row, (1.5, 6.5), high_hz=11025.0))
    assert all(line.endswith("\n") or not line for line in lines), "a row is a whole line"
    return "".join(lines)


def test_events_as_csv():
    (row, bad) = csv.DictReader(io.StringIO(_table("csv", "events", [EVENT, "cut, short"])), strict=True)
    assert row == {
        **{"path": "a, b.wav", "begin_s": "4.000", "end_s": "7.250", "label": "dog\tbark"},
        **{"score": "0.900000", "mean": "0.800000", "windows": "3", "error": ""},
    }
    assert (bad["path"], bad["error"], bad["label"]) == ("a, b.wav", "cut, short", "")


def test_windows_as_csv():
    (row, strange, bad) = csv.DictReader(
        io.StringIO(_table("csv", "windows", [FOUND, STRANGE, "cut, short"])), strict=True
    )
    assert (row["begin_s"], row["end_s"], row["label"], row["probability_2"]) == ("1.500", "6.500", "dog", "0.250000")
    assert (strange["unknown"], strange["novelty"], strange["plausible"]) == ("true", "-1.5", "dog;cat")
    assert (bad["error"], bad["label"], None in bad) == ("cut, short", "", False)


def test_json_lines():
    event, bad = map(json.loads, _table("jsonl", "events", [EVENT, "cut"]).splitlines())
    assert event == {
        **{"path": "a, b.wav", "begin_s": 4.0, "end_s": 7.25, "label": "dog\tbark"},
        **{"score": 0.9, "mean": 0.8, "windows": 3},
    }
    assert bad == {"path": "a, b.wav", "error": "cut"}
    (window,) = map(json.loads, _table("jsonl", "windows", [STRANGE]).splitlines())
    assert window == {
        **{"path": "a, b.wav", "begin_s": 1.5, "end_s": 6.5, "classes": {"dog": 0.75, "cat": 0.25}},
        **{"unknown": True, "novelty": -1.5, "plausible": ["dog", "cat"]},
    }


def test_audacity_labels():
    """Start and end in seconds and a label, parted by tabs, no header (Audacity's manual, Label Tracks)."""
    assert _table("audacity", "events", [EVENT]) == "4.000000\t7.250000\tdog bark 0.90\n"
    found = _table("audacity", "windows", [FOUND, STRANGE]).splitlines()
    assert found == ["1.500000\t6.500000\tdog 0.75", "1.500000\t6.500000\tunknown 0.75"]
    assert _table("audacity", "events", ["cut"]) == ""


def test_raven_selections():
    rows = list(csv.DictReader(io.StringIO(_table("raven", "events", [EVENT, EVENT])), delimiter="\t", strict=True))
    assert list(rows[0].items()) == [
        *(("Selection", "1"), ("View", "Spectrogram 1"), ("Channel", "1")),
        *(("Begin Time (s)", "4.000000"), ("End Time (s)", "7.250000")),
        *(("Low Freq (Hz)", "0.0"), ("High Freq (Hz)", "11025.0"), ("Class", "dog bark"), ("Score", "0.9000")),
    ]
    assert rows[1]["Selection"] == "2"


@pytest.mark.parametrize("what", ["windows", "events"])
def test_text(what):
    found = _table("text", what, [FOUND, STRANGE] if what == "windows" else [EVENT]).splitlines()
    wanted = {
        "windows": [
            "a, b.wav\t1.500\t6.500\tdog 75.0 %\tcat 25.0 %",
            "a, b.wav\t1.500\t6.500\tunknown (nearest: dog 75.0 %)\tcat 25.0 %",
        ],
        "events": ["a, b.wav\t4.000\t7.250\tdog\tbark 90.0 %"],
    }
    assert found == wanted[what]
    assert _table("text", what, ["cut"]) == "a, b.wav\terror: cut\n"
