"""Rows of clips, windows and events in every format, as the programs that read them expect."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from pathlib import Path

import pytest

from earsight.files import json_text
from earsight.inference.formats import FORMATS, harmless
from earsight.inference.predictions import Event, Prediction, error_words, share_words

FOUND = Prediction("a, b.wav", ("dog", "cat"), (0.75, 0.25))
STRANGE = Prediction("a, b.wav", ("dog", "cat"), (0.75, 0.25), unknown=True, novelty=-1.5, plausible=("dog", "cat"))
EVENT = Event("dog\tbark", 4.0, 7.25, 0.9, 0.8, 3)


ODD = 'a, "b"\t(ü).wav'
CLIPS = [
    Prediction("one.wav", ("dog", "cat"), (0.75, 0.25)),
    Prediction("bad.wav", (), (), "a text file, not sound"),
    Prediction(ODD, ("cat", "dog"), (0.5, 0.5)),
]


def _clips(form, top=1, rows=CLIPS, calibrated=False):
    writer = FORMATS[form].writer("clips", top=top, calibrated=calibrated)
    return writer.header() + "".join(writer.prediction(row) for row in rows)


def _table(form, kind, rows, **options):
    writer = FORMATS[form].writer(kind, top=2, calibrated=True, high_hz=11025.0, **options)
    lines = [writer.header()]
    for row in rows:
        if isinstance(row, Event):
            lines.append(writer.event("a, b.wav", row))
        elif isinstance(row, str):
            lines.append(writer.problem("a, b.wav", row))
        else:
            lines.append(writer.prediction(row, (1.5, 6.5)))
    assert all(line.endswith("\n") or not line for line in lines), "a row is a whole line"
    return "".join(lines)


@pytest.mark.parametrize("form", FORMATS)
def test_rows_of_every_format_are_whole_lines(form):
    events, windows = _table(form, "events", [EVENT, EVENT]), _table(form, "windows", [FOUND, STRANGE])
    assert events.count("\n") == windows.count("\n") >= 2
    assert FORMATS[form].suffix.startswith(".")
    assert FORMATS[form].one_recording == ("a, b.wav" not in _table(form, "events", [EVENT], several_files=True))


def test_clips_as_text():
    assert _clips("text", top=2).splitlines() == [
        "one.wav\tdog 75.0 %\tcat 25.0 %",
        "bad.wav\terror: a text file, not sound",
        f"{ODD}\tcat 50.0 %\tdog 50.0 %",
    ]
    assert _clips("text").splitlines()[0] == "one.wav\tdog 75.0 %"


def test_clips_as_json_lines():
    text = _clips("jsonl", top=2)
    assert [json.loads(line) for line in text.splitlines()] == [
        {"path": "one.wav", "classes": {"dog": 0.75, "cat": 0.25}},
        {"path": "bad.wav", "classes": {}, "error": "a text file, not sound"},
        {"path": ODD, "classes": {"cat": 0.5, "dog": 0.5}},
    ]
    assert "ü" in text


def test_json_lines_of_names_that_are_not_utf8_are_json_all_the_same():
    text = _clips("jsonl", rows=[Prediction("caf\udce9.wav", ("dog",), (1.0,))])
    assert json.loads(text.encode("utf-8"))["path"] == "caf\udce9.wav"


@pytest.mark.parametrize("top", [1, 2, 4])
def test_clips_as_csv(top):
    rows = list(csv.DictReader(io.StringIO(_clips("csv", top=top)), strict=True))
    assert [row["path"] for row in rows] == ["one.wav", "bad.wav", ODD]
    assert [row["label"] for row in rows] == ["dog", "", "cat"]
    assert [row["probability"] for row in rows] == ["0.750000", "", "0.500000"]
    assert [row["error"] for row in rows] == ["", "a text file, not sound", ""]
    assert None not in rows[0], "more cells than columns"
    assert [name for name in rows[0] if name.startswith("label_")] == [f"label_{n}" for n in range(2, top + 1)]
    if top > 1:
        assert rows[0]["label_2"] == "cat"
        assert rows[0]["probability_2"] == "0.250000"


SURE = Prediction("a.wav", ("dog", "cat"), (0.75, 0.25), novelty=-4.5, plausible=("dog",))
UNSURE = Prediction("b.wav", ("dog", "cat"), (0.41, 0.39), unknown=True, novelty=-0.25, plausible=("dog", "cat"))


def test_an_unknown_sound_in_text_names_the_nearest_class():
    assert _clips("text", rows=[SURE, UNSURE]).splitlines() == [
        "a.wav\tdog 75.0 %",
        "b.wav\tunknown, OOD score -0.25 (nearest: dog 41.0 %)",
    ]
    assert _clips("text", rows=[UNSURE], top=2) == "b.wav\tunknown, OOD score -0.25 (nearest: dog 41.0 %)\tcat 39.0 %\n"
    assert (SURE.answer, UNSURE.answer, UNSURE.label) == ("dog", "unknown", "dog")


def test_beside_unknown_stands_the_ood_score_in_every_form():
    """And the probability stands beside the class that it is of: nearest class and `unknown` are never mixed."""
    (row,) = csv.DictReader(io.StringIO(_clips("csv", rows=[UNSURE], calibrated=True)), strict=True)
    assert (row["label"], row["probability"]) == ("dog", "0.410000")
    assert (row["unknown"], row["novelty"]) == ("true", "-0.25")
    (row,) = csv.DictReader(io.StringIO(_table("raven", "windows", [STRANGE])), delimiter="\t", strict=True)
    assert (row["Class"], row["Score"]) == ("unknown", "-1.5000")
    assert _table("audacity", "windows", [STRANGE]).endswith("\tunknown, OOD score -1.5\n")
    assert repr(UNSURE).startswith("<Prediction of b.wav: unknown, OOD score -0.25: dog 41.0 %")
    assert "<b>unknown, OOD score -0.25</b>" in UNSURE._repr_html_()
    unscored = Prediction("c.wav", ("dog",), (0.5,), unknown=True)
    (row,) = csv.DictReader(io.StringIO(_table("raven", "windows", [unscored])), delimiter="\t", strict=True)
    assert (row["Class"], row["Score"]) == ("unknown", "")


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        *((1.0, ">99.9 %"), (0.9996, ">99.9 %"), (0.9994, "99.9 %"), (0.5, "50.0 %")),
        *((0.0006, "0.1 %"), (0.0004, "<0.1 %"), (0.0, "<0.1 %")),
    ],
)
def test_people_are_told_of_no_certainty_and_programs_of_the_number(probability, words):
    assert share_words(probability) == words
    found = Prediction("a.wav", ("dog",), (probability,))
    assert _clips("text", rows=[found]) == f"a.wav\tdog {words}\n"
    assert words in html.unescape(found._repr_html_())
    assert f"{probability:.6f}" in _clips("csv", rows=[found])
    assert json.loads(_clips("jsonl", rows=[found]))["classes"] == {"dog": probability}


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.034, "3.4 %"), (0.01002, "1.002 %"), (0.00998, "0.998 %"), (0.009, "0.9 %"), (0.01, "1.0 %")],
)
def test_an_error_is_never_the_limit_that_it_breaks(share, words):
    assert error_words(share, 0.01) == words


def test_confidence_as_json_and_csv():
    found = [json.loads(line) for line in _clips("jsonl", rows=[SURE, UNSURE]).splitlines()]
    assert found[0] == {
        **{"path": "a.wav", "classes": {"dog": 0.75}},
        **{"unknown": False, "novelty": -4.5, "plausible": ["dog"]},
    }
    assert found[1]["unknown"] is True
    text = _clips("csv", rows=[SURE, UNSURE, CLIPS[1]], top=2, calibrated=True)
    rows = list(csv.DictReader(io.StringIO(text), strict=True))
    assert list(rows[0]) == [
        *("path", "label", "probability", "label_2", "probability_2"),
        *("unknown", "novelty", "plausible", "error", "windows", "agreement", "calibrated"),
    ]
    assert [row["unknown"] for row in rows] == ["false", "true", ""]
    assert [row["plausible"] for row in rows] == ["dog", "dog;cat", ""]
    assert [row["label"] for row in rows] == ["dog", "dog", ""]
    assert rows[1]["novelty"] == "-0.25"


LONG = Prediction("a.wav", ("dog", "cat"), (0.75, 0.25), windows=12, agreement=0.75)
WARNED = Prediction("a.wav", ("dog", "cat"), (0.75, 0.25), novelty=0.5, windows=3, agreement=1.0, calibrated=False)


def test_several_windows_are_told_in_every_form():
    assert _clips("text", rows=[LONG, WARNED]).splitlines() == [
        "a.wav\tdog 75.0 %\t9 of 12 windows agree",
        "a.wav\tdog 75.0 %\t3 of 3 windows agree, not calibrated",
    ]
    long, warned = (json.loads(line) for line in _clips("jsonl", rows=[LONG, WARNED]).splitlines())
    assert (long["windows"], long["agreement"], "calibrated" in long) == (12, 0.75, False)
    assert (warned["windows"], warned["agreement"], warned["calibrated"]) == (3, 1.0, False)
    rows = list(csv.DictReader(io.StringIO(_clips("csv", rows=[LONG, CLIPS[0], CLIPS[1]])), strict=True))
    assert [(row["windows"], row["agreement"]) for row in rows] == [("12", "0.750000"), ("1", "1.000000"), ("", "")]
    (row,) = csv.DictReader(io.StringIO(_clips("csv", rows=[WARNED], calibrated=True)), strict=True)
    assert row["calibrated"] == "false"


def test_first_windows_alone_have_the_columns_of_before():
    writer = FORMATS["csv"].writer("clips", calibrated=True, first=True)
    assert writer.header() == "path,label,probability,unknown,novelty,plausible,error\n"
    assert writer.prediction(SURE) == "a.wav,dog,0.750000,false,-4.5,dog,\n"


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
    assert found == ["1.500000\t6.500000\tdog 0.75", "1.500000\t6.500000\tunknown, OOD score -1.5"]
    assert _table("audacity", "events", ["cut"]) == ""


def test_raven_selections():
    rows = list(csv.DictReader(io.StringIO(_table("raven", "events", [EVENT, EVENT])), delimiter="\t", strict=True))
    assert list(rows[0].items()) == [
        *(("Selection", "1"), ("View", "Spectrogram 1"), ("Channel", "1")),
        *(("Begin Time (s)", "4.000000"), ("End Time (s)", "7.250000")),
        *(("Low Freq (Hz)", "0.0"), ("High Freq (Hz)", "11025.0"), ("Class", "dog bark"), ("Score", "0.9000")),
    ]
    assert rows[1]["Selection"] == "2"


def test_raven_selections_of_several_recordings():
    """Times count through all sounds, as Raven shows them in one window; `File Offset (s)` is within the file."""
    options = {"several_files": True, "before_seconds": 60.0}
    for kind, row in (("events", EVENT), ("windows", FOUND)):
        text = _table("raven", kind, [row], **options)
        (found,) = csv.DictReader(io.StringIO(text), delimiter="\t", strict=True)
        assert list(found)[-3:] == ["Begin File", "Begin Path", "File Offset (s)"]
        assert (found["Begin File"], found["Begin Path"]) == ("a, b.wav", str(Path("a, b.wav").absolute()))
        assert float(found["Begin Time (s)"]) - float(found["File Offset (s)"]) == 60
    assert (found["Begin Time (s)"], found["End Time (s)"]) == ("61.500000", "66.500000")
    plain = _table("raven", "events", [EVENT])
    assert "Begin Path" not in plain, "a table of one recording is as it was"


@pytest.mark.parametrize("what", ["windows", "events"])
def test_text(what):
    found = _table("text", what, [FOUND, STRANGE] if what == "windows" else [EVENT]).splitlines()
    wanted = {
        "windows": [
            "a, b.wav\t1.500\t6.500\tdog 75.0 %\tcat 25.0 %",
            "a, b.wav\t1.500\t6.500\tunknown, OOD score -1.5 (nearest: dog 75.0 %)\tcat 25.0 %",
        ],
        "events": ["a, b.wav\t4.000\t7.250\tdog bark 90.0 %"],
    }
    assert found == wanted[what]
    assert _table("text", what, ["cut"]) == "a, b.wav\terror: cut\n"


# A stranger's names, and results that are none

HOSTILE = "\x1b[31mdog\x07\tbark\r\n2\t3\tcat\x9b2J \u202egpj.exe\u2028"
COMMANDS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u202a-\u202e]")


def _json(line):
    return json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize("form", FORMATS)
def test_hostile_names_stay_in_their_cell(form):
    found = Prediction("a.wav", (HOSTILE, "cat"), (0.75, 0.25), novelty=1.0, plausible=(HOSTILE,))
    plain = Prediction("a.wav", ("dog", "cat"), (0.75, 0.25), novelty=1.0, plausible=("dog",))
    for kind, row, simple in (
        ("windows", found, plain),
        ("events", Event(HOSTILE, 0.0, 1.0, 0.5, 0.5, 1), Event("dog", 0.0, 1.0, 0.5, 0.5, 1)),
    ):
        text, wanted = _table(form, kind, [row, row]), _table(form, kind, [simple, simple])
        assert not COMMANDS.search(text)
        if form != "csv":  # whose quotes hold line breaks
            tabs = [[line.count("\t") for line in table.splitlines()] for table in (text, wanted)]
            assert tabs[0] == tabs[1]
        else:
            rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
            assert [one["label"].count("\r\n2\t3\t") for one in rows] == [1, 1]
        if form == "jsonl":
            names = [one.get("label") or next(iter(one["classes"])) for one in map(_json, text.splitlines())]
            assert names == [HOSTILE, HOSTILE]


def test_what_is_spelt_out():
    assert harmless("a\x1b[0m\tb\n\x85\u202e") == "a\\x1b[0m b \\x85\\u202e"
    assert harmless("a\tb\nc\rd", keep="\t\n") == "a\tb\nc d"
    assert harmless("réveil 鳥 \udcff") == "réveil 鳥 \udcff"


def test_a_window_without_a_prediction_has_its_error_in_every_format():
    broken = Prediction("a, b.wav", (), (), "not finite")
    assert _table("text", "windows", [broken]) == "a, b.wav\t1.500\t6.500\terror: not finite\n"
    assert _json(_table("jsonl", "windows", [broken])) == {
        **{"path": "a, b.wav", "begin_s": 1.5, "end_s": 6.5},
        **{"classes": {}, "error": "not finite"},
    }
    (row,) = csv.DictReader(io.StringIO(_table("csv", "windows", [broken])), strict=True)
    assert (row["begin_s"], row["label"], row["novelty"], row["error"]) == ("1.500", "", "", "not finite")
    assert _table("audacity", "windows", [broken]) == ""
    assert _table("raven", "windows", [broken, FOUND]).splitlines()[1].startswith("1\t")


def test_json_has_no_tokens_that_are_not_json():
    content = {"a": [1.0, float("nan"), (float("inf"), "NaN")], "b": {"c": -float("inf")}, "d\udcff": True}
    for indent in (None, 2):
        assert _json(json_text(content, indent=indent)) == {
            **{"a": [1.0, None, [None, "NaN"]], "b": {"c": None}},
            "d\udcff": True,
        }
