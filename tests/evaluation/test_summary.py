"""A run's summary: its keys, its figures by an independent computation, and run folders that do not fit."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import t
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from earsight.errors import RunError
from earsight.evaluation.statistics import paired_difference
from earsight.evaluation.summary import (
    SOURCES_UNKNOWN,
    Predictions,
    read_predictions,
    read_run,
    summarize,
    write_summary,
)
from earsight.files import save_arrays
from test_cli import invoke

BASE = Path(__file__).parents[1] / "written_by_base"
CLASSES = ("cat", "dog", "owl")
DATASET = {"name": "mine", "clips": 12, "classes": 3, "digest": "d" * 12, "skipped": []}


def _trial(fold, seed, labels, logits, **about):
    return Predictions(
        clips=np.array([f"f{fold}/{n}.wav" for n in range(len(labels))]),
        labels=np.asarray(labels, dtype=np.int64),
        logits=np.asarray(logits, dtype=np.float32),
        classes=CLASSES,
        about={
            **{"fold": fold, "seed": seed, "seconds": 1.5, "epoch": 3, "protocol": "last", "recipe_digest": "r"},
            **{"dataset": DATASET, **about},
        },
    )


def _drawn(folds, seeds, *, generator, clips=7):
    out = []
    for fold in range(1, folds + 1):
        labels = generator.integers(3, size=clips + fold)  # folds of unequal sizes
        out += [_trial(fold, seed, labels, generator.normal(size=(len(labels), 3))) for seed in range(seeds)]
    return out


def _write(run: Path, trial: Predictions, *, done=True) -> Path:
    folder = run / f"fold-{trial.about['fold']}" / f"seed-{trial.about['seed']}"
    folder.mkdir(parents=True)
    np.savez(
        folder / "predictions.npz",
        **{"clip": trial.clips, "label": trial.labels, "logits": trial.logits, "classes": np.array(trial.classes)},
        about=np.array(json.dumps(trial.about)),
    )
    if done:
        (folder / "DONE").touch()
    return folder / "predictions.npz"


@settings(max_examples=12, deadline=None)
@given(folds=st.integers(1, 4), seeds=st.integers(1, 3), draw=st.integers(0, 10**6))
def test_figures_by_another_computation(folds, seeds, draw):
    trials = _drawn(folds, seeds, generator=np.random.default_rng(draw))
    found = summarize(trials, machine={})
    table = {(t.about["fold"], t.about["seed"]): accuracy_score(t.labels, t.logits.argmax(1)) for t in trials}
    grid = np.array([[table[fold, seed] for seed in range(seeds)] for fold in range(1, folds + 1)])
    by_fold = grid.mean(axis=1)
    assert found["accuracy"]["mean"] == pytest.approx(grid.mean())
    assert found["accuracy"]["std"] == pytest.approx(by_fold.std(ddof=1) if folds > 1 else 0.0)
    low, high = found["accuracy"]["ci95"]
    assert 0 <= low <= grid.mean() + 1e-9
    assert grid.mean() - 1e-9 <= high <= 1
    truth = np.concatenate([t.labels for t in trials])
    guess = np.concatenate([t.logits.argmax(1) for t in trials])
    seen = np.union1d(truth, guess)  # as scikit-learn does by default: no class that occurs nowhere
    assert found["macro_f1"] == pytest.approx(f1_score(truth, guess, average="macro", labels=seen, zero_division=0))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, guess))
    assert found["never_predicted"] == [CLASSES[n] for n in sorted(set(truth.tolist()) - set(guess.tolist()))]
    shares = [np.bincount(t.labels, minlength=3) / len(t.labels) for t in trials if t.about["seed"] == 0]
    assert found["majority"]["share"] == pytest.approx(np.mean(shares, axis=0).max())
    assert found["majority"]["label"] == CLASSES[int(np.round(np.mean(shares, axis=0), 9).argmax())]
    assert found["majority"]["difference"] == pytest.approx(grid.mean() - found["majority"]["share"], abs=1e-9)
    for row in found["folds"]:
        assert row["accuracy"] == pytest.approx(table[row["fold"], row["seed"]])
    if seeds == 1:
        assert "ensemble" not in found
        assert "std_over_seeds" not in found["accuracy"]
        return
    assert found["accuracy"]["std_over_seeds"] == pytest.approx(grid.mean(axis=0).std(ddof=1))
    if folds > 1:
        parts = found["accuracy"]["std_parts"]
        within = np.mean(np.var(grid, axis=1, ddof=1))
        assert parts["seeds"] ** 2 == pytest.approx(within)
        assert parts["folds"] ** 2 == pytest.approx(max(0.0, np.var(by_fold, ddof=1) - within / seeds))
    shares, right, single = [], [], []
    for fold in range(1, folds + 1):
        members = [t for t in trials if t.about["fold"] == fold]
        mixed = sum(softmax(t.logits.astype(np.float64), axis=1) for t in members)
        shares.append(accuracy_score(members[0].labels, mixed.argmax(1)))
        right.append(mixed.argmax(1) == members[0].labels)
        single.append(np.mean([t.correct for t in members], axis=0))
    assert found["ensemble"]["accuracy"] == pytest.approx(np.mean(shares))
    assert found["ensemble"]["members"] == seeds
    gain = found["ensemble"]["gain"]
    assert gain["difference"] == pytest.approx(np.mean(shares) - grid.mean(), abs=1e-9)
    owners = np.concatenate([np.full(len(part), fold) for fold, part in enumerate(right)])
    by_hand = paired_difference(np.concatenate(right), np.concatenate(single), folds=owners)
    assert (gain["ci95"], gain["p_value"]) == (
        pytest.approx([by_hand.low, by_hand.high]),
        pytest.approx(by_hand.p_value),
    )


def test_an_ensemble_averages_probabilities_and_not_votes_or_logits():
    # One sure member outweighs two that waver; by votes or by the other class's logits the answer would differ.
    sure, wavering = [[6.0, 0.0, 0.0]], [[0.0, 0.3, 0.0]]
    trials = [_trial(1, 0, [0], sure), _trial(1, 1, [0], wavering), _trial(1, 2, [0], wavering)]
    assert summarize(trials, machine={})["ensemble"]["accuracy"] == 1.0
    # Logits of -100 in one member would veto the class if logits were averaged.
    trials = [_trial(1, 0, [0], [[-100.0, 0.0, 0.0]]), _trial(1, 1, [0], [[9.0, 0.0, 0.0]])]
    assert summarize(trials, machine={})["ensemble"]["accuracy"] == 1.0


def test_a_clip_of_several_seeds_counts_once_in_the_interval():
    generator = np.random.default_rng(3)
    labels, logits = generator.integers(3, size=30), generator.normal(size=(30, 3))
    one = summarize([_trial(1, 0, labels, logits)], machine={})["accuracy"]["ci95"]
    same = summarize([_trial(1, seed, labels, logits) for seed in range(5)], machine={})["accuracy"]["ci95"]
    assert same == pytest.approx(one)


def test_keys_and_types_of_the_contract(tmp_path):
    run = tmp_path / "run"
    for trial in _drawn(2, 2, generator=np.random.default_rng(0)):
        _write(run, trial)
    returned = write_summary(run, machine={"cores": 2})
    found = json.loads((run / "summary.json").read_text())
    assert len(found.pop("digest")) == 16  # of the file
    assert found == returned
    assert set(found) == {
        *("accuracy", "macro_f1", "folds", "ensemble", "protocol", "recipe_digest", "dataset", "machine"),
        *("balanced_accuracy", "majority", "never_predicted", "groups"),
    }
    assert set(found["accuracy"]) == {"mean", "std", "ci95", "std_over_seeds", "std_parts"}
    assert set(found["ensemble"]) == {"accuracy", "ci95", "gain", "members"}
    assert [type(value) for value in found["accuracy"]["ci95"]] == [float, float]
    kinds = {"fold": int, "seed": int, "accuracy": float, "clips": int, "epoch": int, "seconds": float}
    assert [{name: type(value) for name, value in row.items()} for row in found["folds"]] == [kinds] * 4
    assert [(row["fold"], row["seed"]) for row in found["folds"]] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert (found["protocol"], found["recipe_digest"], found["dataset"]) == ("last", "r", DATASET)
    assert found["machine"] == {"cores": 2}


def _hungry(right_of_others, *, groups=None):
    """Two folds of 100 clips, 83.5 % of them of one class: all of those right, and some of the others."""
    labels = np.repeat([1, 0, 2], [167, 18, 15])
    guess = np.ones(200, dtype=int)
    guess[167 : 167 + right_of_others] = labels[167 : 167 + right_of_others]
    trials = []
    for fold in (1, 2):
        rows = np.arange(fold - 1, 200, 2)
        one = _trial(fold, 0, labels[rows], np.eye(3)[guess[rows]])
        trials.append(dataclasses.replace(one, groups=None if groups is None else groups[rows]))
    return summarize(trials, machine={})


def test_an_accuracy_below_the_commonest_class_is_not_said_to_be_any_good():
    found = _hungry(0)
    assert found["accuracy"]["mean"] == pytest.approx(found["majority"]["share"]) == pytest.approx(0.835)
    assert (found["majority"]["label"], found["majority"]["beaten"]) == ("dog", False)
    assert found["never_predicted"] == ["cat", "owl"]
    assert found["balanced_accuracy"] == pytest.approx(1 / 3)
    assert found["groups"] is None
    better = _hungry(16)
    assert better["majority"]["beaten"]
    assert better["never_predicted"] == ["owl"]


def test_the_same_clips_from_four_sources_are_no_proof():
    groups = np.array([f"house {n}" for n in np.arange(200) % 4])
    found = _hungry(16, groups=groups)
    assert found["groups"] == {"count": 4, "few": True}
    assert not found["majority"]["beaten"]
    assert found["accuracy"]["ci95"][0] <= _hungry(16)["accuracy"]["ci95"][0]


def test_one_class_has_nothing_to_be_set_against():
    found = summarize([_trial(1, 0, [1] * 5, np.eye(3)[[1, 1, 1, 0, 1]])], machine={})
    assert (found["accuracy"]["mean"], found["balanced_accuracy"], found["majority"]) == (0.8, 0.8, None)
    assert found["never_predicted"] == []


def test_groups_are_read_from_the_predictions(tmp_path):
    for trial in _drawn(2, 1, generator=np.random.default_rng(2)):
        path = _write(tmp_path, trial)
        arrays = dict(np.load(path))
        np.savez(path, **arrays, group=np.array([f"speaker {n // 3}" for n in range(len(trial.clips))]))
    assert summarize(read_run(tmp_path), machine={})["groups"]["count"] == 3


def _old_run(home: Path, *, seeds=(0,)) -> Path:
    """A run without sources on a csv of six speakers with two folds, as an earlier version wrote it."""
    speakers = [f"s{n % 6}" for n in range(48)]
    (home / "data").mkdir()
    rows = [f"{n:02}.wav,{CLASSES[n // 6 % 2]},{1 + n % 6 // 3},{speakers[n]}" for n in range(48)]
    (home / "data" / "clips.csv").write_text("\n".join(["path,label,fold,group", *rows]))
    (home / "data" / "another.csv").write_text("\n".join(["path,label,group", "00.wav,cat,x", "01.wav,dog,x"]))
    for n in range(48):
        soundfile.write(home / "data" / f"{n:02}.wav", np.full(80, 0.1), 8000)
    for fold in (1, 2):
        numbers = np.array([n for n in range(48) if 1 + n % 6 // 3 == fold])
        for seed in seeds:
            right = np.isin(numbers % 6, (0, 1, 3, 5))
            labels = numbers // 6 % 2
            trial = _trial(fold, seed, labels, 5.0 * np.eye(3)[np.where(right, labels, 2)])
            trial = dataclasses.replace(trial, clips=np.array([f"{n:02}.wav" for n in numbers]))
            path = _write(home / "run", trial)
            root = {"root": str((home / "data").absolute())}
            (path.parent / "trial.json").write_text(json.dumps(root))
    return home / "run"


def test_the_sources_of_an_old_run_are_those_of_its_data_set(tmp_path):
    run = _old_run(tmp_path)
    trials = read_run(run)
    for trial in trials:
        assert trial.groups.tolist() == [f"s{int(clip[:2]) % 6}" for clip in trial.clips.tolist()]
        assert not trial.sources_unknown
    found = summarize(trials, machine={})
    assert found["groups"] == {"count": 6, "few": True}
    shares = np.array([1, 1, 0, 1, 0, 1])
    reach = t.ppf(0.975, 5) * shares.std(ddof=1) / 6**0.5
    assert found["accuracy"]["ci95"] == pytest.approx([max(0, 2 / 3 - reach), 1])
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    trials = read_run(run)
    assert all(trial.groups is None and trial.sources_unknown for trial in trials)
    assert "kept no sources, and its data set is not where it was" in SOURCES_UNKNOWN
    assert summarize(trials, machine={})["groups"] is None


def test_labels_that_have_changed_give_no_sources(tmp_path):
    run = _old_run(tmp_path)
    table = tmp_path / "data" / "clips.csv"
    table.write_text(table.read_text().replace("47.wav,dog", "47.wav,cat"))
    assert [trial.groups is None for trial in read_run(run)] == [False, True]


def test_seeds_that_were_added_to_an_old_run_know_its_sources(tmp_path):
    run = _old_run(tmp_path, seeds=(0, 1))
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    for path in run.glob("fold-*/seed-1/predictions.npz"):
        arrays = dict(np.load(path))
        arrays["group"] = np.array([f"s{int(clip[:2]) % 6}" for clip in arrays["clip"].tolist()])
        np.savez(path, **arrays)
    for trial in read_run(run):
        assert trial.groups.tolist() == [f"s{int(clip[:2]) % 6}" for clip in trial.clips.tolist()]


def test_a_run_that_knows_of_no_sources_does_not_look_for_any(tmp_path):
    run = _old_run(tmp_path)
    for path in run.glob("fold-*/seed-*/predictions.npz"):
        arrays = dict(np.load(path))
        about = json.loads(str(arrays["about"]))
        about["dataset"]["held_out"] = None
        np.savez(path, **{**arrays, "about": np.array(json.dumps(about))})
    assert all(trial.groups is None and not trial.sources_unknown for trial in read_run(run))


def test_verbs_say_that_an_old_runs_sources_are_not_known(tmp_path):
    run = _old_run(tmp_path)
    invoke("summary", run)
    (tmp_path / "run2").mkdir()
    shutil.copytree(run, tmp_path / "run2", dirs_exist_ok=True)
    assert "sources" not in invoke("compare", run, tmp_path / "run2").stderr
    page = invoke("report", run) and (run / "report.html").read_text()
    assert "damaged" not in page
    assert "over 6" in page
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    for shown in (
        invoke("compare", run, tmp_path / "run2").stderr,
        invoke("report", run) and "",
        invoke("summary", run).stderr,
    ):
        assert "kept no sources" in shown or not shown
    page = (run / "report.html").read_text()
    assert "kept no sources" in page
    assert "damaged" not in page, "a summary with and one without sources are both the run's"


def test_a_summary_made_anew_has_the_same_bytes(tmp_path):
    for trial in _drawn(3, 2, generator=np.random.default_rng(1)):
        _write(tmp_path, trial)
    write_summary(tmp_path, machine={})
    before = (tmp_path / "summary.json").read_bytes()
    (tmp_path / "summary.json").unlink()
    write_summary(tmp_path, machine={})
    assert (tmp_path / "summary.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    "change",
    [{"recipe_digest": "other"}, {"protocol": "test"}, {"dataset": {**DATASET, "digest": "e" * 12}}],
)
def test_trials_that_do_not_belong_together(change, tmp_path):
    """Whoever reads them: a folder may have been exchanged with another run's."""
    trials = [_trial(1, 0, [0, 1], np.eye(3)[:2]), _trial(2, 0, [0, 1], np.eye(3)[:2], **change)]
    for trial in trials:
        _write(tmp_path, trial)
    for read in (lambda: summarize(trials, machine={}), lambda: read_run(tmp_path)):
        with pytest.raises(RunError, match=f"differ in {next(iter(change))}.*one run to a folder"):
            read()


def test_only_what_is_done_counts(tmp_path):
    trials = _drawn(2, 1, generator=np.random.default_rng(2))
    _write(tmp_path, trials[0])
    _write(tmp_path, trials[1], done=False)
    assert [trial.about["fold"] for trial in read_run(tmp_path)] == [1]


@pytest.mark.parametrize("name", ["fold-1-old/seed-0", "fold-1/seed-0 (copy)", "fold-2/seed-0"])
def test_a_trial_that_was_copied_or_moved_within_its_run_does_not_count_twice(tmp_path, name):
    folder = _write(tmp_path / "run", _drawn(1, 1, generator=np.random.default_rng(2))[0]).parent
    shutil.copytree(folder, tmp_path / "run" / name)
    with pytest.raises(RunError, match=r"holds files of fold 1 seed 0, so folders were copied .*; put them back, or"):
        read_run(tmp_path / "run")
    shutil.copytree(folder, tmp_path / "backup")
    assert read_predictions(tmp_path / "backup" / "predictions.npz").about["fold"] == 1


def test_run_folders_that_are_none(tmp_path):
    with pytest.raises(RunError, match="no such run folder"):
        read_run(tmp_path / "absent")
    with pytest.raises(RunError, match="no finished trial"):
        read_run(tmp_path)


def _object_array(path: Path) -> None:
    np.savez(path, clip=np.array([{"a": 1}], dtype=object), label=[0], logits=[[0.0]], classes=["a"], about="{}")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:200]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no archive"),
        lambda path: path.write_bytes(pickle.dumps({"clip": 1})),
        lambda path: np.savez(path, clip=np.array(["a"]), label=[0]),
        lambda path: np.savez(path, clip=["a"], label=[0], logits=[[0.0]], classes=["a"], about="no json"),
        lambda path: np.savez(path, clip=["a"], label=[0], logits=[[0.0]], classes=["a"], about="[1]"),
        _object_array,
    ],
    ids=["cut", "empty", "text", "pickle", "lacks arrays", "about is no JSON", "about is a list", "objects"],
)
def test_broken_predictions(tmp_path, spoil):
    path = _write(tmp_path, _drawn(1, 1, generator=np.random.default_rng(0))[0])
    spoil(path)
    with pytest.raises(RunError, match=r"not a predictions file of earsight.*run again") as caught:
        write_summary(tmp_path, machine={})
    assert str(path) in str(caught.value)
    assert not (tmp_path / "summary.json").exists()


def test_predictions_that_are_missing(tmp_path):
    path = _write(tmp_path, _drawn(1, 1, generator=np.random.default_rng(0))[0])
    path.unlink()
    with pytest.raises(RunError, match="run the same command again"):
        read_predictions(path)


def _read_to_the_last_bit(path: Path) -> object:
    found = read_predictions(path)
    arrays = (found.clips, found.labels, found.logits, found.distance, found.groups, found.targets)
    held = [None if one is None else (one.tobytes(), str(one.dtype), one.shape) for one in arrays]
    return held, found.classes, found.about


@pytest.mark.parametrize("written", ["now", "base"])
def test_no_flipped_bit_of_predictions_is_silent(tmp_path, written):
    """Each byte of the zip format's directory, which has no checksum; what it lists has them."""
    path = tmp_path / "predictions.npz"
    old = read_predictions(BASE / "run/fold-1/seed-0/predictions.npz")
    if written == "base":
        shutil.copy(BASE / "run/fold-1/seed-0/predictions.npz", path)
    else:
        arrays = {"clip": old.clips, "label": old.labels, "logits": old.logits, "classes": np.array(old.classes)}
        save_arrays(path, old.about, {**arrays, "distance": old.distance, "group": old.clips})
    expected, data = _read_to_the_last_bit(path), path.read_bytes()
    outcomes = set()
    for place in range(data.index(b"PK\x01\x02"), len(data)):
        for bit in (place % 8, (place + 3) % 8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                assert _read_to_the_last_bit(path) == expected, (place, bit)
                outcomes.add("same")
            except RunError:
                outcomes.add("named")
    assert outcomes == {"same", "named"}
