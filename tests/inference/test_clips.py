"""Which files are predicted, in which order, and the three forms of a row."""

from __future__ import annotations

import csv
import io
import json

import pytest

from earsight.errors import DataError
from earsight.inference.classifier import Prediction
from earsight.inference.clips import find_sounds, write_rows

ODD = 'a, "b"\t(ü).wav'
ROWS = [
    Prediction("one.wav", ("dog", "cat"), (0.75, 0.25)),
    Prediction("bad.wav", (), (), "a text file, not sound"),
    Prediction(ODD, ("cat", "dog"), (0.5, 0.5)),
]


def _written(form, top=1, rows=ROWS):
    stream = io.StringIO(newline="")
    return write_rows(rows, form=form, top=top, stream=stream), stream.getvalue()


def test_text():
    failed, text = _written("text", top=2)
    assert failed == 1
    assert text.splitlines() == [
        "one.wav\tdog 75.0 %\tcat 25.0 %",
        "bad.wav\terror: a text file, not sound",
        f"{ODD}\tcat 50.0 %\tdog 50.0 %",
    ]
    assert _written("text")[1].splitlines()[0] == "one.wav\tdog 75.0 %"


def test_json_lines():
    failed, text = _written("jsonl", top=2)
    assert failed == 1
    assert [json.loads(line) for line in text.splitlines()] == [
        {"path": "one.wav", "classes": {"dog": 0.75, "cat": 0.25}},
        {"path": "bad.wav", "classes": {}, "error": "a text file, not sound"},
        {"path": ODD, "classes": {"cat": 0.5, "dog": 0.5}},
    ]
    assert "ü" in text


def test_json_lines_of_names_that_are_not_utf8_are_json_all_the_same():
    _, text = _written("jsonl", rows=[Prediction("caf\udce9.wav", ("dog",), (1.0,))])
    assert json.loads(text.encode("utf-8"))["path"] == "caf\udce9.wav"


@pytest.mark.parametrize("top", [1, 2, 4])
def test_csv(top):
    failed, text = _written("csv", top=top)
    rows = list(csv.DictReader(io.StringIO(text), strict=True))
    assert failed == 1
    assert [row["path"] for row in rows] == ["one.wav", "bad.wav", ODD]
    assert [row["label"] for row in rows] == ["dog", "", "cat"]
    assert [row["probability"] for row in rows] == ["0.750000", "", "0.500000"]
    assert [row["error"] for row in rows] == ["", "a text file, not sound", ""]
    assert None not in rows[0], "more cells than columns"
    assert [name for name in rows[0] if name.startswith("label_")] == [f"label_{n}" for n in range(2, top + 1)]
    if top > 1:
        assert rows[0]["label_2"] == "cat"
        assert rows[0]["probability_2"] == "0.250000"


def test_rows_are_written_as_they_come():
    stream = io.StringIO()

    def rows():
        yield ROWS[0]
        assert stream.getvalue().startswith("one.wav")
        yield ROWS[2]

    assert write_rows(rows(), form="text", top=1, stream=stream) == 0


def test_names_folders_and_the_stream_in_their_order(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("deep/b.WAV", "deep/er/a.flac", "deep/notes.txt", "deep/er/Ü (1).ogg"):
        (tmp_path / name).touch()
    (tmp_path / "deep" / "folder.wav").mkdir()
    folder = str(tmp_path / "deep")
    found = list(find_sounds(["z.wav", "-", folder, "-odd.wav"], stdin=io.StringIO("x 1.wav\n\ny.wav\r\n  z.wav \n")))
    assert found == [
        *("z.wav", "x 1.wav", "y.wav", "  z.wav "),
        *(f"{folder}/b.WAV", f"{folder}/er/a.flac", f"{folder}/er/Ü (1).ogg", "-odd.wav"),
    ]


def test_a_folder_without_sound(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="no audio file below"):
        list(find_sounds([str(tmp_path)], stdin=io.StringIO()))


SURE = Prediction("a.wav", ("dog", "cat"), (0.75, 0.25), novelty=-4.5, plausible=("dog",))
STRANGE = Prediction("b.wav", ("dog", "cat"), (0.41, 0.39), unknown=True, novelty=-0.25, plausible=("dog", "cat"))


def test_an_unknown_sound_in_text_names_the_nearest_class():
    assert _written("text", rows=[SURE, STRANGE])[1].splitlines() == [
        "a.wav\tdog 75.0 %",
        "b.wav\tunknown (nearest: dog 41.0 %)",
    ]
    assert _written("text", rows=[STRANGE], top=2)[1] == "b.wav\tunknown (nearest: dog 41.0 %)\tcat 39.0 %\n"
    assert (SURE.answer, STRANGE.answer, STRANGE.label) == ("dog", "unknown", "dog")


def test_confidence_as_json_and_csv():
    found = [json.loads(line) for line in _written("jsonl", rows=[SURE, STRANGE])[1].splitlines()]
    assert found[0] == {
        **{"path": "a.wav", "classes": {"dog": 0.75}},
        **{"unknown": False, "novelty": -4.5, "plausible": ["dog"]},
    }
    assert found[1]["unknown"] is True
    stream = io.StringIO(newline="")
    write_rows([SURE, STRANGE, ROWS[1]], form="csv", top=2, stream=stream, calibrated=True)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue()), strict=True))
    assert list(rows[0]) == [
        *("path", "label", "probability", "label_2", "probability_2"),
        *("unknown", "novelty", "plausible", "error"),
    ]
    assert [row["unknown"] for row in rows] == ["false", "true", ""]
    assert [row["plausible"] for row in rows] == ["dog", "dog;cat", ""]
    assert [row["label"] for row in rows] == ["dog", "dog", ""]
    assert rows[1]["novelty"] == "-0.25"
