"""The same sound twice: together where folds are drawn, named where it is on both sides; old runs keep their split."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from tiny_model import TINY_MODEL

from earsight.data import duplicates
from earsight.data.layouts import open_dataset
from earsight.data.splits import group_folds, holdout
from earsight.errors import DataError
from earsight.files import write_state
from earsight.training import preparation
from earsight.training.preparation import APART, ONE_CLIP, TOGETHER, hold_out, kept_splits, prepare
from earsight.training.trial import Trial, inner_split, run_trial
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
        monkeypatch.setattr(module, "same_sounds", lambda files: [])


def test_copies_are_in_one_fold_whatever_the_draw(sounds):
    for seed in range(8):
        dataset = open_dataset(sounds, folds=4, seed=seed)
        assert whole(dataset)
        assert whole(hold_out(open_dataset(sounds, folds=None), seed=seed))
    (note,) = [note for note in dataset.notes if "are 3 sounds" in note]
    assert note.startswith("7 files are 3 sounds, 1 of them under two labels (a/00.wav = a/x0.wav = a/x1.wav, ")
    assert note.endswith(": those of a sound are in one fold")


def test_copies_are_held_out_no_sooner_than_other_clips(tmp_path):
    """They are the larger groups, which are dealt first; and a class of one sound stays on the other side."""
    for label, first, twice in (("a", 0, 8), ("b", 30, 7)):
        (tmp_path / label).mkdir()
        for number in range(first, first + 30):
            soundfile.write(tmp_path / label / f"{number}.wav", noise(number), RATE)
            if number < first + twice:
                shutil.copy(tmp_path / label / f"{number}.wav", tmp_path / label / f"{number}x.wav")
    shutil.copy(tmp_path / "a" / "20.wav", tmp_path / "b" / "other.wav")
    drawn = [hold_out(open_dataset(tmp_path, folds=None), seed=seed) for seed in range(12)]
    held = [{clip.path for clip in dataset.clips if clip.fold == 1} for dataset in drawn]
    assert all(len(found - {path for path in found if "x" in path or "other" in path}) == 12 for found in held)
    copies = np.array([sum("x" in path for path in found) for found in held])
    assert 12 * 15 * 0.1 < copies.sum() < 12 * 15 * 0.3  # 15 of the 60 sounds, of which a fifth is held out
    assert len(set(map(frozenset, held))) == 12
    assert 0 < sum("b/other.wav" in found for found in held) < 7
    (tmp_path / "c").mkdir()
    shutil.copy(tmp_path / "a" / "21.wav", tmp_path / "c" / "21.wav")
    for seed in range(12):
        found = hold_out(open_dataset(tmp_path, folds=None), seed=seed)
        assert {clip.label for clip in found.clips if clip.fold == 2} == {"a", "b", "c"}


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


def other_codings(root):
    """The sounds of `sounds`, of which four come again in other bytes, one under the other label."""
    for copy, of, form in (
        ("a/x0", "a/00", "FLAC"),
        ("a/x1", "a/00", "stereo"),
        ("b/x2", "b/01", "24"),
        ("b/x3", "a/02", "FLAC"),
    ):
        wave, rate = soundfile.read(root / f"{of}.wav")
        (root / f"{copy}.wav").unlink()
        ending, coding = ("flac", "PCM_16") if form == "FLAC" else ("wav", "PCM_24" if form == "24" else "PCM_16")
        soundfile.write(
            root / f"{copy}.{ending}", np.stack([wave, wave], 1) if form == "stereo" else wave, rate, coding
        )
    return [{"a/00.wav", "a/x0.flac", "a/x1.wav"}, {"b/01.wav", "b/x2.wav"}, {"a/02.wav", "b/x3.flac"}]


def test_the_same_samples_in_other_bytes_are_in_one_fold(sounds, monkeypatch):
    lots = other_codings(sounds)
    for seed in range(8):
        for dataset in (
            open_dataset(sounds, folds=4, seed=seed),
            hold_out(open_dataset(sounds, folds=None), seed=seed),
        ):
            assert all(len({clip.fold for clip in dataset.clips if clip.path in lot}) == 1 for lot in lots)
    (note,) = [note for note in open_dataset(sounds, folds=4).notes if "are 3 sounds" in note]
    assert note.startswith("7 files are 3 sounds, 1 of them under two labels (a/00.wav = a/x0.flac = a/x1.wav, ")


@pytest.mark.parametrize("bytes_alone", [False, True])
def test_the_draws_of_earlier_versions_are_kept(sounds, bytes_alone):
    """Of the one that knew nothing of copies, of that which knew the same bytes alone, and that which counted each."""
    other_codings(sounds)
    shutil.copy(sounds / "b/03.wav", sounds / "b/y.wav")
    plain = open_dataset(sounds, folds=None)
    groups = plain.groups.copy()
    if bytes_alone:
        names = [clip.path for clip in plain.clips]
        groups[names.index("b/y.wav")] = "b/03.wav"
    old_folds = group_folds(plain.labels, groups, folds=4, seed=0)
    old_held = holdout(plain.labels, groups, fraction=0.2, seed=5)
    of_old = {}
    new, kept = open_dataset(sounds, folds=4), open_dataset(sounds, folds=4, kept=lambda: of_old)
    assert new.digest == kept.digest
    assert new.folds.tolist() != old_folds.tolist()
    of_old = {_with_folds(plain, old_folds).digest, _with_folds(plain, np.where(old_held, 1, 2)).digest}
    kept = open_dataset(sounds, folds=4, kept=lambda: of_old)
    assert kept.folds.tolist() == old_folds.tolist()
    assert any(note.startswith("LEAK: 9 files are 4 sounds") for note in kept.notes)
    assert ((hold_out(plain, seed=5, kept=lambda: of_old).folds == 1) == old_held).all()
    counted = holdout(plain.labels, duplicates.joined(plain.groups, copies_of(plain)), fraction=0.2, seed=5)
    of_old = {_with_folds(plain, np.where(counted, 1, 2)).digest}
    assert ((hold_out(plain, seed=5, kept=lambda: of_old).folds == 1) == counted).all()
    assert hold_out(plain, seed=5).digest not in of_old


def copies_of(dataset):
    return duplicates.same_sounds([dataset.file(row) for row in range(len(dataset.clips))])


def _with_folds(dataset, folds):
    rows = zip(dataset.clips, folds.tolist(), strict=True)
    return replace(dataset, clips=tuple(replace(clip, fold=fold) for clip, fold in rows))


def test_the_inner_split_keeps_a_sound_on_one_side(sounds, tmp_path, tiny_recipe, cpu):
    lots = other_codings(sounds)
    ready = prepare(open_dataset(sounds, folds=2), tiny_recipe)
    names = np.array([clip.path for clip in ready.dataset.clips])
    assert sorted(map(sorted, ({str(names[row]) for row in rows} for rows in ready.twins))) == sorted(map(sorted, lots))
    parted = 0
    for fraction in np.arange(0.1, 0.6, 0.05):
        recipe = ready.recipe.model_copy(
            update={"training": ready.recipe.training.model_copy(update={"inner_fraction": float(fraction)})}
        )
        for fold in (1, 2):
            train, inner = inner_split(replace(ready, recipe=recipe), fold)
            for lot in lots:
                assert not (lot & set(names[train].tolist()) and lot & set(names[inner].tolist()))
            old = [
                set(names[rows].tolist())
                for rows in inner_split(replace(ready, recipe=recipe, twins_drawn=APART), fold)
            ]
            parted += any(lot & old[0] and lot & old[1] for lot in lots)
    assert parted, "the earlier split parts some"


def test_the_inner_split_takes_copies_no_sooner_than_other_clips(tmp_path, tiny_recipe):
    """As larger groups they would be dealt first: all that is inner would be copies."""
    root = tmp_path / "set"
    for kind in "ab":
        (root / kind).mkdir(parents=True)
        for number in range(24):
            # Four sounds a class are there three times, and twelve once.
            sound = number % 4 if number < 12 else number
            wave = np.random.default_rng([ord(kind), sound]).normal(scale=0.1, size=8000)
            soundfile.write(root / kind / f"{number}.wav", wave, 8000)
    ready = prepare(open_dataset(root, folds=2), tiny_recipe)
    copied = {row for rows in ready.twins for row in rows}
    assert len(copied) == 24
    for fold in (1, 2):
        shares = {}
        for way in (ONE_CLIP, TOGETHER):
            train, inner = inner_split(replace(ready, twins_drawn=way), fold)
            assert not set(train) & set(inner)
            assert len(train) + len(inner) == 24
            for rows in ready.twins:
                assert not (set(rows) & set(train) and set(rows) & set(inner))
            shares[way] = np.mean([row in copied for row in inner])
        assert shares[TOGETHER] == 1
        assert shares[ONE_CLIP] <= 0.6


def test_a_run_that_was_begun_keeps_its_inner_split(sounds, tmp_path, tiny_recipe, cpu):
    data = open_dataset(sounds, folds=2)
    ready = prepare(data, tiny_recipe)
    for way, written in ((APART, None), (TOGETHER, "together"), (ONE_CLIP, "one clip")):
        run = tmp_path / way
        folder = run_trial(replace(ready, twins_drawn=way), Trial(1, 0), run=run, device=cpu)
        assert json.loads((folder / "trial.json").read_text()).get("twins") == written
        assert prepare(data, tiny_recipe, run=run).twins_drawn == way
    assert ready.twins_drawn == ONE_CLIP == prepare(data, tiny_recipe, run=tmp_path / "new").twins_drawn
    ensemble = run / "ensemble" / "fold-1" / "seed-0" / "trial.json"
    ensemble.parent.mkdir(parents=True)
    write_state(ensemble, {"recipe": "r", "dataset": "d", "fold": 1, "seed": 0, "ensemble": True})
    assert prepare(data, tiny_recipe, run=run).twins_drawn == ONE_CLIP, "its ensemble was not trained here"


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
