"""Windows cut out of recordings by boxes."""

import wave
from collections import Counter

import numpy as np
import pytest

from earsight.data import BoxRules, open_recordings
from earsight.data.boxes import grid
from earsight.errors import DataError

RATE = 8000
HEAD = "path,begin,end,label"


def recording(path, seconds=10.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        # Files of the same bytes are one source.
        number = np.frombuffer(path.as_posix().encode(), dtype=np.uint8).sum()
        sound.writeframes(np.full(round(seconds * RATE), number, dtype="<i2").tobytes())
    return path


def opened(tmp_path, rows, *, files=("a.wav", "b.wav"), seconds=10.0, head=HEAD, rules=None, **options):
    for name in files:
        recording(tmp_path / "rec" / name, seconds)
    table = tmp_path / "boxes.csv"
    table.write_text("\n".join([head, *rows]) + "\n")
    chosen = BoxRules(window_seconds=2, hop_seconds=1) if rules is None else rules
    return open_recordings(tmp_path / "rec", table, rules=chosen, **{"folds": 2, **options})


def windows(dataset, path="a.wav"):
    return {clip.begin: clip.label for clip in dataset.clips if clip.path == path}


def both(*rows):
    """The same boxes in two recordings."""
    return [f"{name}.wav,{row}" for name in "ab" for row in rows]


def test_the_grid_ends_with_the_recording():
    assert grid(10, 2000, 1000).tolist() == [0, 1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000]
    assert grid(10.5, 2000, 3000).tolist() == [0, 3000, 6000, 8500]
    assert grid(2, 2000, 1000).tolist() == grid(1, 2000, 1000).tolist() == [0]
    assert len(grid(86400, 2000, 500)) == 172797


def test_what_a_window_must_hold_of_a_box(tmp_path):
    """Of one that fits in: the share of it; of a longer one: the share of the window."""
    data = opened(tmp_path, both("3.25,4.25,owl", "6,10,wren"))
    # [2, 4] holds .75 of the owl, [3, 5] all, [4, 6] a quarter: an edge; [5, 7] is half wren.
    assert windows(data) == {2: "owl", 3: "owl", 5: "wren", 6: "wren", 7: "wren", 8: "wren"}
    assert data.clips[0].name == "a.wav@2.000-4.000"
    assert data.classes == ("owl", "wren")
    assert "one with less, but more than 0.05 of it, is left out: 2 windows at edges" in " ".join(data.notes)
    assert "outside all boxes: 4 windows, not used" in " ".join(data.notes)
    assert "windows a class: owl 4, wren 8" in data.notes
    assert not data.several
    assert data.background is None
    strict = BoxRules(window_seconds=2, hop_seconds=1, share=0.8)
    assert windows(opened(tmp_path, both("3.25,4.25,owl", "6,10,wren"), rules=strict)) == {
        3: "owl",
        6: "wren",
        7: "wren",
        8: "wren",
    }


def test_little_of_a_box_is_background_where_all_was_annotated(tmp_path):
    rules = BoxRules(window_seconds=2, hop_seconds=1, complete=True)
    data = opened(tmp_path, both("3,4.04,owl", "8,10,wren"), rules=rules)
    # [4, 6] holds 0.04 of 1.04 s of the owl, and counts as empty; [7, 9] half the wren.
    held = windows(data)
    assert {begin: label for begin, label in held.items() if label != "background"} == {
        2: "owl",
        3: "owl",
        7: "wren",
        8: "wren",
    }
    assert len(held) == 8
    assert set(held) - {2, 3, 7, 8} <= {0, 1, 4, 5, 6}
    labels = Counter(clip.label for clip in data.clips)
    assert labels == {"owl": 4, "wren": 4, "background": 8}
    assert data.background == "background"
    assert data.classes == ("owl", "wren", "background")
    assert any("outside all boxes: 10 windows, background by complete, 8 of them used" in note for note in data.notes)


def test_boxes_named_background_are_none_of_the_classes(tmp_path):
    data = opened(tmp_path, both("0,2,owl", "1.5,5,No Call", "8,10,wren"))
    # [1, 3] holds half the owl; [2, 4] to [4, 6] nothing else, and enough of the box.
    assert windows(data) == {0: "owl", 1: "owl", **dict.fromkeys((2, 3, 4), "background"), 7: "wren", 8: "wren"}
    assert data.background == "background"


def test_boxes_of_two_labels_that_overlap_make_several_labels(tmp_path):
    data = opened(tmp_path, both("2,4,owl", "3,5,wren"))
    assert data.several
    assert data.classes == ("owl", "wren")
    # [1, 3] holds half the owl; [3, 5] all of the wren and half the owl.
    assert windows(data) == {1: "owl", 2: "owl;wren", 3: "owl;wren", 4: "wren"}
    single = BoxRules(window_seconds=2, hop_seconds=1, labels="single")
    data = opened(tmp_path, both("2,4,owl", "3,5,wren"), rules=single)
    assert not data.several
    assert windows(data) == {1: "owl", 4: "wren"}
    assert "windows with several labels, left out: 4" in data.notes


def test_of_several_labels_an_edge_says_nothing_of_its_own(tmp_path):
    data = opened(tmp_path, both("2,4,owl", "2,4,wren", "3.5,5.5,lark"))
    held = {clip.begin: (clip.label, clip.unknown) for clip in data.clips if clip.path == "a.wav"}
    assert held == {
        1: ("owl;wren", ()),
        2: ("owl;wren", ("lark",)),
        3: ("lark;owl;wren", ()),
        4: ("lark", ()),
    }


def test_of_several_labels_background_has_none(tmp_path):
    rules = BoxRules(window_seconds=2, hop_seconds=1, complete=True)
    data = opened(tmp_path, both("2,4,owl", "2,4,wren"), rules=rules)
    assert data.classes == ("owl", "wren")
    assert data.background == "background"
    assert Counter(clip.label for clip in data.clips) == {"owl;wren": 6, "": 6}


def test_where_annotators_disagree_nothing_is_cut(tmp_path):
    head = HEAD + ",annotator"
    rows = both("2,4,owl,ann", "2,4,wren,bob", "6,8,owl,ann", "0,1,wren,ann")
    rules = BoxRules(window_seconds=2, hop_seconds=1, complete=True)
    data = opened(tmp_path, rows, head=head, rules=rules)
    assert not {1, 2, 3} & set(windows(data))
    assert any("disputed or of labels left out, not used: 6" in note for note in data.notes)


def test_the_length_of_windows_comes_from_the_boxes(tmp_path):
    rows = [
        f"{name},{begin},{begin + 0.73},{label}"
        for name in ("a.wav", "b.wav")
        for begin, label in ((1, "owl"), (5, "wren"))
    ]
    data = opened(tmp_path, rows, rules=BoxRules())
    assert data.hints.clip_seconds == 0.8
    assert {round(clip.end - clip.begin, 6) for clip in data.clips} == {0.8}
    assert any(
        note.startswith("windows of 0.8 s, which nine boxes in ten fit in, one every 0.4 s") for note in data.notes
    )
    assert data.hints.frames == 50
    assert data.hints.sample_rate_hz == RATE


def test_a_recording_shorter_than_a_window_is_one(tmp_path):
    data = opened(tmp_path, both("0.2,0.9,owl"), seconds=1.0, testing=True, folds=None)
    assert [(clip.begin, clip.end) for clip in data.clips] == [(0, 1), (0, 1)]


def test_folds_cut_neither_a_recording_nor_a_group(tmp_path):
    files = [f"{name}.wav" for name in "abcdef"]
    rows = [
        f"{name},{begin},{begin + 1},{label},{group}"
        for name, group in zip(files, ("x", "x", "y", "", "", ""), strict=True)
        for begin, label in ((1, "owl"), (6, "wren"))
    ]
    data = opened(tmp_path, rows, files=files, head=HEAD + ",group", folds=4)
    folds = {}
    for clip in data.clips:
        folds.setdefault(clip.path, set()).add(clip.fold)
    assert all(len(found) == 1 for found in folds.values())
    assert folds["a.wav"] == folds["b.wav"]
    assert set.union(*folds.values()) == {1, 2, 3, 4}
    assert data.sources_known
    assert data.digest == opened(tmp_path, rows, files=files, head=HEAD + ",group", folds=4).digest


@pytest.mark.parametrize(
    ("rows", "folds", "message"),
    [
        (["a.wav,1,2,owl", "a.wav,3,4,wren"], 2, "1 recording, nothing can be held out of one source: folds never cut"),
        (
            both("1,2,owl", "4,5,wren"),
            5,
            "2 recordings, fewer than 5 folds: folds never cut a recording; give splits 2",
        ),
        ([*both("1,2,owl"), "a.wav,4,5,wren"], 2, "too few recordings .* in 2 folds: 'wren' in 1; give skip_rare"),
        (both("1,2,owl"), 2, "only one class, 'owl'.*add complete .* or boxes named 'background'"),
    ],
)
def test_too_few_recordings_or_classes(tmp_path, rows, folds, message):
    files = sorted({row.split(",")[0] for row in rows})
    with pytest.raises(DataError, match=message):
        opened(tmp_path, rows, files=files, folds=folds)


def test_one_class_and_background_are_enough(tmp_path):
    rules = BoxRules(window_seconds=2, hop_seconds=1, complete=True)
    data = opened(tmp_path, both("1,2,owl"), rules=rules)
    assert data.classes == ("owl", "background")


def test_rare_labels_are_left_out_if_asked(tmp_path):
    rules = BoxRules(window_seconds=2, hop_seconds=1, skip_rare=True)
    data = opened(tmp_path, [*both("1,2,owl", "7,8,lark"), "a.wav,4,5,wren"], rules=rules)
    assert data.classes == ("lark", "owl")
    assert set(windows(data).values()) == {"owl", "lark"}


def test_given_folds(tmp_path):
    head = HEAD + ",fold"
    rows = ["a.wav,1,2,owl,1", "a.wav,5,6,wren,1", "b.wav,1,2,owl,2", "b.wav,5,6,wren,2"]
    data = opened(tmp_path, rows, head=head, folds=5)
    assert {(clip.path, clip.fold) for clip in data.clips} == {("a.wav", 1), ("b.wav", 2)}
    with pytest.raises(DataError, match=r"line 3: recording a.wav in fold 2, and in fold 1 by line 2; folds never cut"):
        opened(tmp_path, ["a.wav,1,2,owl,1", "a.wav,5,6,wren,2", *rows[2:]], head=head)
    with pytest.raises(DataError, match=r"line \d: no fold, which other lines have"):
        opened(tmp_path, [*rows[:3], "b.wav,5,6,wren,"], head=head)
    with pytest.raises(DataError, match="every box is in fold 1"):
        opened(tmp_path, [row[:-1] + "1" for row in rows], head=head)


def test_with_complete_a_recording_without_a_box_is_background(tmp_path):
    rules = BoxRules(window_seconds=2, hop_seconds=2, complete=True, background=100)
    rows = both("0,2,owl", "2,4,wren")
    data = opened(tmp_path, rows, files=("a.wav", "b.wav", "quiet.wav"), rules=rules)
    assert windows(data, "quiet.wav") == dict.fromkeys((0, 2, 4, 6, 8), "background")
    data = opened(tmp_path, rows, files=("a.wav", "b.wav", "quiet.wav"))
    assert "recordings that no table names, not used: 1 (quiet.wav)" in data.notes


def test_the_number_of_windows_is_bounded(tmp_path):
    rules = BoxRules(window_seconds=1, hop_seconds=0.1, most_windows=30)
    data = opened(tmp_path, both("0,6,owl", "8.95,10,wren"), rules=rules)
    sizes = Counter(clip.label for clip in data.clips)
    assert sizes == {"owl": 18, "wren": 12}
    assert any("most_windows" in note for note in data.notes)


def test_of_several_labels_the_rarest_of_a_window_counts_where_their_number_is_bounded(tmp_path):
    """Not each set of labels for itself: of many sets background would be next to nothing."""
    rows = [f"{n},{n + 2},{name}" for n, name in enumerate(("owl", "wren", "owl", "tit", "wren", "owl"))]
    rules = BoxRules(window_seconds=1, hop_seconds=0.1, most_windows=40, complete=True)
    data = opened(tmp_path, both(*rows), rules=rules)
    assert data.several
    labels = [clip.labels for clip in data.clips]
    assert Counter(found == () for found in labels) == {False: 30, True: 10}
    assert sum("tit" in found for found in labels) == 10


@pytest.mark.parametrize(
    "rules",
    [{"window_seconds": 0}, {"hop_seconds": -1}, {"share": 0}, {"share": 1.5}, {"most_windows": 0}, {"labels": "x"}],
)
def test_rules_that_cannot_be(rules):
    with pytest.raises(DataError):
        BoxRules(**rules)


def test_boxes_that_no_window_holds_are_counted(tmp_path):
    rules = BoxRules(window_seconds=1, hop_seconds=4)
    data = opened(tmp_path, both("0,1,owl", "4,5,wren", "2,3,owl"), rules=rules)
    assert any(note.startswith("boxes that no window holds 0.5 of: 2") for note in data.notes)
