"""Copies of a sound: together where folds are drawn, named where they are on both sides; old runs keep their split."""

import shutil

import numpy as np
import pytest
import soundfile
from tiny_model import TINY_MODEL

from earsight.data import duplicates
from earsight.data.layouts import open_dataset
from earsight.data.splits import group_folds, holdout
from earsight.errors import DataError
from earsight.training import preparation
from earsight.training.preparation import hold_out, kept_splits, prepare
from test_cli import invoke

SETTINGS = [part for override in (*TINY_MODEL, "training.epochs=1") for part in ("--set", override)]
RATE = 8000


def noise(seed):
    return 0.1 * np.random.default_rng(seed).standard_normal(RATE // 2)


@pytest.fixture
def sounds(tmp_path):
    """Two classes of twelve; four more files are copies, one of them under the other label."""
    root = tmp_path / "sounds"
    for number in range(24):
        label = "ab"[number % 2]
        (root / label).mkdir(parents=True, exist_ok=True)
        soundfile.write(root / label / f"{number:02}.wav", noise(number), RATE)
    for copy, of in (("a/x0", "a/00"), ("a/x1", "a/00"), ("b/x2", "b/01"), ("b/x3", "a/02")):
        shutil.copy(root / f"{of}.wav", root / f"{copy}.wav")
    return root


LOTS = [{"a/00.wav", "a/x0.wav", "a/x1.wav"}, {"b/01.wav", "b/x2.wav"}, {"a/02.wav", "b/x3.wav"}]


def whole(dataset):
    """Whether each lot of copies is in one fold."""
    return all(len({clip.fold for clip in dataset.clips if clip.path in lot}) == 1 for lot in LOTS)


def of_base(monkeypatch):
    """As it was before: nothing is known of copies."""
    for module in (duplicates, preparation):
        monkeypatch.setattr(module, "identical_files", lambda files: [])


def test_copies_are_in_one_fold_whatever_the_draw(sounds):
    for seed in range(8):
        dataset = open_dataset(sounds, folds=4, seed=seed)
        assert whole(dataset)
        assert whole(hold_out(open_dataset(sounds, folds=None), seed=seed))
    (note,) = [note for note in dataset.notes if "are 3 sounds" in note]
    assert note.startswith("7 files are 3 sounds, 1 of them under two labels (a/00.wav = a/x0.wav = a/x1.wav, ")
    assert note.endswith(": those of a sound are in one fold")


def test_without_copies_the_draw_is_what_it_was(sounds):
    for copy in ("a/x0", "a/x1", "b/x2", "b/x3"):
        (sounds / f"{copy}.wav").unlink()
    dataset = open_dataset(sounds, folds=4, seed=1)
    labels = np.array([clip.label for clip in dataset.clips])
    assert dataset.folds.tolist() == group_folds(labels, dataset.groups, folds=4, seed=1).tolist()
    held = holdout(dataset.labels, dataset.groups, fraction=0.2, seed=3)
    assert ((hold_out(dataset, seed=3).folds == 1) == held).all()


def test_a_class_of_copies_alone_is_refused_with_the_reason(tmp_path):
    for label, seeds in (("a", (1, 2, 3)), ("b", (4, 4, 4))):
        (tmp_path / label).mkdir()
        for number, seed in enumerate(seeds):
            soundfile.write(tmp_path / label / f"{number}.wav", noise(seed), RATE)
    with pytest.raises(DataError, match=r"3 files are 1 sound \(b/0.wav = b/1.wav = b/2.wav\)"):
        open_dataset(tmp_path, folds=2)
    assert len(open_dataset(tmp_path, folds=None).clips) == 6  # so that `check` can say it all


def test_old_runs_keep_their_split(sounds, tmp_path, monkeypatch):
    arguments = ("crossval", sounds, "--splits", 2, "--threads", 1, *SETTINGS)
    with monkeypatch.context() as before:
        of_base(before)
        old = [open_dataset(sounds, folds=2).digest, hold_out(open_dataset(sounds, folds=None), seed=0).digest]
        invoke(*arguments, "--out", tmp_path / "run", "--folds", 1)
        invoke("train", sounds, "--out", tmp_path / "trained", "--threads", 1, *SETTINGS)
    assert not whole(open_dataset(sounds, folds=2, kept=lambda: old))
    shown = invoke(*arguments, "--out", tmp_path / "run")
    assert "done before" in shown.stderr
    assert "LEAK: 7 files are 3 sounds" in shown.stderr
    assert kept_splits(tmp_path / "run") == {old[0]}
    again = invoke("train", sounds, "--out", tmp_path / "trained", "--threads", 1, *SETTINGS)
    assert "done before" in again.stderr
    assert kept_splits(tmp_path / "trained") == {old[1]}
    model = tmp_path / "trained" / "model.safetensors"
    assert "held out" in invoke("evaluate", model, sounds).stdout.lower()
    new = invoke(*arguments, "--out", tmp_path / "new", "--folds", 1)
    assert "those of a sound are in one fold" in new.stderr
    assert "LEAK" not in new.stderr
    assert kept_splits(tmp_path / "new") == {open_dataset(sounds, folds=2).digest}


def official(root):
    """Folds that are given, with three copies across them, in other containers or under another label."""
    lines = ["path,label,fold"]
    rows = [(f"{n}.wav", "ab"[n % 2], 1 + n // 2 % 2, n) for n in range(16)]
    rows += [("x.flac", "a", 2, 0), ("y.wav", "b", 2, 4), ("z.aiff", "a", 1, 8)]
    root.mkdir()
    for name, label, fold, seed in rows:
        soundfile.write(root / name, np.round(noise(seed) * 2**15).astype(np.int16), RATE, subtype="PCM_16")
        lines.append(f"{name},{label},{fold}")
    (root / "clips.csv").write_text("\n".join(lines))
    return root / "clips.csv"


def test_in_given_folds_copies_are_named_and_not_moved(tmp_path, tiny_recipe):
    data = official(tmp_path / "given")
    shown = invoke("train", data, "--fold", 2, "--out", tmp_path / "run", "--threads", 1, *SETTINGS).stderr
    line = next(line for line in shown.splitlines() if "LEAK" in line)
    assert "2 of 10 held-out clips have the same sound in training, 1 of them under another label" in line
    assert "x.flac = 0.wav" in line
    assert "y.wav = 4.wav" in line
    ready = prepare(open_dataset(data), tiny_recipe)
    assert ready.leaks([1]) == [ready.leaks([1, 1])[0]]
    assert ready.leaks([1])[0].startswith("LEAK: 2 of 9 held-out")
    assert ready.leaks([1, 2])[0].startswith("LEAK: 4 of 19 held-out")
    assert [clip.fold for clip in ready.dataset.clips[-3:]] == [2, 2, 1]


def test_without_copies_nothing_is_named(prepared):
    assert prepared.leaks(prepared.dataset.fold_numbers) == []
