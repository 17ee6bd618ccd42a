"""Sources of clips: what is printed of those known, and what names suggest where none are known."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from earsight.data.datasets import Clip, Dataset, Hints
from earsight.data.layouts import open_dataset
from earsight.data.sources import (
    HeldOutFolds,
    balance_line,
    guess_sources,
    with_same_sounds,
    write_sources,
)
from earsight.training.preparation import hold_out


def _dataset(names, labels, *, groups=None, folds=None):
    """Clips of these names, each in a folder of its class."""
    paths = [f"{label}/{name}" for label, name in zip(labels, names, strict=True)]
    folds = [0] * len(paths) if folds is None else folds
    clips = tuple(Clip(*row) for row in zip(paths, labels, folds, groups or paths, strict=True))
    return Dataset("mine", "folder", Path("sounds"), clips, tuple(sorted(set(labels))), Hints(8000, 1.0, 50))


def _app(app: int, n: int) -> str:
    """As the names of donated recordings: an app's id, a time, and what a user said."""
    return f"{app:08x}-6999-485b-97a2-913c1cbf099c-14307603{n:05}-1.7-m-26-hu.wav"


def _word(number: int) -> str:
    return "".join("abcdefghij"[int(digit)] for digit in f"{number:04}")


_CLASSES = [f"class{n % 3}" for n in range(60)]
CASES = {
    "app ids": ([_app(n % 11, n) for n in range(60)], [f"{n % 11:08x}" for n in range(60)]),
    "speakers": (
        [f"{n % 3}_{['ann', 'bob', 'eve', 'joe'][n // 15]}_{n}.wav" for n in range(60)],
        [["ann", "bob", "eve", "joe"][n // 15] for n in range(60)],
    ),
    "sound archive numbers": (
        [f"{1 + n % 5}-{100032 + 977 * (n // 4)}-{'ABCD'[n % 4]}-{n % 3}.wav" for n in range(60)],
        [str(100032 + 977 * (n // 4)) for n in range(60)],
    ),
    "hexadecimal": (
        [f"{0x0A7C2A8D + 7919 * (n // 5):08x}_nohash_{n % 5}.wav" for n in range(60)],
        [n // 5 for n in range(60)],
    ),
    "videos": (
        [f"-a_{n // 6:02}w1YA1H_{30 * n}000_{30 * n + 10}000.wav" for n in range(60)],
        [n // 6 for n in range(60)],
    ),
    "stems of unequal length": (
        [f"{['park', 'main street', 'at home late'][n // 3 % 3]} ({n}).wav" for n in range(60)],
        [n // 3 % 3 for n in range(60)],
    ),
    "a fifth of the clips": (
        [f"{_word(n // 3 if n < 12 else n)}_{n}.wav" for n in range(60)],
        [n // 3 if n < 12 else n for n in range(60)],
    ),
    "sequence numbers": ([f"rec{n // 10}_{n % 10:03}.wav" for n in range(60)], [n // 10 for n in range(60)]),
    "parts": ([f"class-rec{n // 4}_part{n % 4 + 1}.wav" for n in range(60)], [n // 4 for n in range(60)]),
    "parts of numbered recordings": (
        [f"class_{n // 4}_part{n % 4 + 1}.wav" for n in range(60)],
        [n // 4 for n in range(60)],
    ),
    "parts of stems of unequal length": (
        [f"{['dog', 'big dog'][n // 4 % 2]} {n // 4}_SEG{n % 4:02}.wav" for n in range(60)],
        [n // 4 for n in range(60)],
    ),
    "days": ([f"202305{n // 10:02}_12{n:02}00.WAV" for n in range(60)], [n // 10 for n in range(60)]),
    "folders": ([f"Actor_{n // 10}/{n:02}-01.wav" for n in range(60)], [n // 10 for n in range(60)]),
}


@pytest.mark.parametrize("case", list(CASES))
def test_names_that_tell_sources(case):
    names, truth = CASES[case]
    guess = guess_sources(_dataset(names, _CLASSES))
    assert guess is not None
    pairs = set(zip(guess.groups, map(str, truth), strict=True))
    assert len(pairs) == len(set(guess.groups)) == len(set(truth)), "each true source is one group"


@pytest.mark.parametrize(
    "names",
    [
        [f"{n:05}.wav" for n in range(60)],
        [f"class{n % 3}.{n:05}.wav" for n in range(60)],  # the genre and a number
        [f"class{n % 3}{n}.wav" for n in range(60)],
        [f"class{n % 3}_part{n // 3}.wav" for n in range(60)],
        [f"class{n % 3}_{n // 3 // 5}_part_{n}.wav" if n < 2 else f"{_word(n)}_clip{n}.wav" for n in range(60)],
        [f"class{n % 3}_{n // 3 + n // 6:04}.wav" for n in range(60)],  # takes, some of which were left out
        [f"{_word(max(n, 1))}_{n}.wav" for n in range(60)],  # two of sixty
        [f"{['left', 'right'][n % 2]}_{n * n * 31}x.wav" for n in range(60)],  # two words tell no sources apart
        [f"{chr(97 + n % 26)}{chr(97 + n * 7 % 26)}{n * n * 31}x.wav" for n in range(60)],
    ],
)
def test_names_that_tell_nothing(names):
    assert guess_sources(_dataset(names, _CLASSES)) is None


def test_known_sources_are_not_guessed_at():
    names, truth = CASES["speakers"]
    assert guess_sources(_dataset(names, _CLASSES, groups=truth)) is None


def test_what_a_drawn_split_tears_apart_is_counted():
    names, truth = CASES["app ids"]
    split = hold_out(_dataset(names, _CLASSES), seed=0)
    guess, held = guess_sources(split), split.folds == 1
    training = {one for one, out in zip(truth, held, strict=True) if not out}
    torn = sum(one in training for one, out in zip(truth, held, strict=True) if out)
    assert HeldOutFolds(split, [1]).shared(guess) == (torn, held.sum())
    line = HeldOutFolds(split, [1]).guess_line(data=Path("sounds"))
    assert f"{torn} of {held.sum()} held-out clips share theirs with training clips" in line
    assert "the clips would be from 11" in line
    assert "--sources sources.csv" in line
    assert split.groups.tolist() == [clip.path for clip in split.clips], "a guess enters no split"
    whole = _dataset(names, _CLASSES, folds=[1 + int(one, 16) % 2 for one in truth])
    assert HeldOutFolds(whole, [1, 2]).guess_line(data=Path("sounds")) == ""


def test_the_csv_is_a_data_set_with_those_sources(tmp_path):
    names, truth = CASES["speakers"]
    for label, name in zip(_CLASSES, names, strict=True):
        (tmp_path / "sounds" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "sounds" / label / name).write_bytes(b"")
    dataset = open_dataset(tmp_path / "sounds", folds=None)
    guess = guess_sources(dataset)
    for place in (tmp_path / "sources.csv", tmp_path / "elsewhere" / "sources.csv"):
        place.parent.mkdir(exist_ok=True)
        write_sources(dataset, guess.groups, place)
        again = open_dataset(place, folds=None)
        assert again.sources_known
        found = {(Path(clip.path).name, clip.label, clip.group) for clip in again.clips}
        assert found == set(zip(names, _CLASSES, truth, strict=True))
        assert np.isin(hold_out(again, seed=1).folds, (1, 2)).all()
    rows = list(csv.DictReader((tmp_path / "sources.csv").open()))
    assert rows[0]["path"].startswith("sounds/")


def test_sounds_that_are_the_same_join_sources():
    names, truth = CASES["speakers"]
    dataset = _dataset(names, _CLASSES)
    guess = guess_sources(dataset)
    path = [clip.path for clip in dataset.clips]
    alone = with_same_sounds(dataset, guess, [(path[0], path[1])])
    assert alone == (guess.groups, 0), "they have one source already"
    groups, count = with_same_sounds(dataset, guess, [(path[0], path[20]), (path[1], path[20], path[50])])
    assert groups == tuple("ann" if one in ("ann", "bob", "joe") else "eve" for one in truth)
    assert count == 1
    plain, count = with_same_sounds(dataset, None, [(path[7], path[3]), (path[9], path[8])])
    assert plain == tuple({path[7]: path[3], path[8]: path[9]}.get(one, one) for one in path)
    assert count == 2


def test_given_folds_go_into_the_csv(tmp_path):
    lines = ["path,label,fold"] + [f"{n}.wav,{'ab'[n % 2]},{1 + n // 2 % 2}" for n in range(8)]
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    for n in range(8):
        (tmp_path / f"{n}.wav").write_bytes(b"")
    dataset = open_dataset(tmp_path / "clips.csv", folds=None)
    groups, _ = with_same_sounds(dataset, None, [("1.wav", "5.wav")])
    write_sources(dataset, groups, tmp_path / "again.csv")
    again = open_dataset(tmp_path / "again.csv", folds=None)
    assert again.folds.tolist() == dataset.folds.tolist()
    assert again.groups.tolist() == [f"{1 if n == 5 else n}.wav" for n in range(8)]


def test_groups_held_out_are_named_where_they_are_few():
    names, truth = CASES["speakers"]
    folds = [1 + ["ann", "bob", "eve", "joe"].index(one) % 2 for one in truth]
    known = _dataset(names, _CLASSES, groups=truth, folds=folds)
    assert HeldOutFolds(known, [1, 2]).group_line() == "groups: 4; fold 1 holds out ann, eve; fold 2 holds out bob, joe"
    assert HeldOutFolds(known, [1]).clips_line(how="x") == "held out: 30 of 60 clips, 2 of 4 groups (ann, eve), x"
    many = _dataset(names, _CLASSES, groups=[str(n // 3) for n in range(60)], folds=[1 + n // 3 % 3 for n in range(60)])
    assert HeldOutFolds(many, [1, 2, 3]).group_line() == "groups: 20, of which each fold holds out 6 to 7"
    assert HeldOutFolds(_dataset(names, _CLASSES), [0]).group_line() == ""
    assert HeldOutFolds(_dataset(names, _CLASSES), [0]).clips_line(how="x") == "held out: 60 of 60 clips, x"


def test_imbalance_is_named():
    labels = ["hungry"] * 167 + ["tired"] * 18 + ["burping"] * 15
    line = balance_line(labels)
    assert "always saying 'hungry' would be right in 83.5 % of the clips (167; 'burping' has 15)" in line
    assert balance_line(_CLASSES) == ""
    rare = ["a"] * 20 + ["b"] * 20 + ["c"] * 20 + ["d"] * 3  # none has half more than its share
    assert "31.7 % of the clips (20; 'd' has 3)" in balance_line(rare)
    two = ["yes"] * 80 + ["no"] * 20
    assert "80.0 %" in balance_line(two)


@pytest.mark.real_audio
def test_sources_of_esc10_are_those_of_its_table(esc10):
    rows = list(csv.DictReader((esc10 / "meta" / "esc50.csv").open()))
    dataset = open_dataset(esc10)
    assert len({row["src_file"] for row in rows}) == len(set(dataset.groups.tolist())) == 304
    held = HeldOutFolds(dataset, dataset.fold_numbers)
    sizes = sorted(len({row["src_file"] for row in rows if row["fold"] == fold}) for fold in "12345")
    assert held.group_line() == f"groups: 304, of which each fold holds out {sizes[0]} to {sizes[-1]}"
    assert held.guess_line(data=esc10) == ""


def test_parts_of_a_split_are_no_sources():
    names = [f"{part}/{label}/{n}.wav" for part in ("train", "validation", "test") for label in "abc" for n in range(9)]
    clips = tuple(Clip(name, name.split("/")[1], len(name.split("/")[0]) % 3 + 1, name) for name in names)
    plain = Dataset("mine", "folder", Path("sounds"), clips, ("a", "b", "c"), Hints(8000, 1.0, 50))
    assert "folder" in guess_sources(plain).rule
    assert "folder" not in guess_sources(replace(plain, split=True)).rule
