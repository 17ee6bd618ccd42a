"""Sounds longer than a window: classified whole in every way of asking, in constant memory, and told so."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from long_clips import RATE, write_long
from rich.console import Console
from scipy.special import softmax

from earsight.calibration.apply import Pool, Raw, fits_pools
from earsight.calibration.fit import score_of
from earsight.data import audio
from earsight.data.layouts import open_dataset
from earsight.errors import DataError
from earsight.evaluation.summary import read_predictions
from earsight.inference import observation
from earsight.inference.classifier import Classifier, load_classifier
from earsight.inference.explanation import bands_of, strongest_window
from earsight.inference.scoring import evaluate
from earsight.models.card import ensemble_card
from earsight.recipe import Recipe
from earsight.reports.tables import print_evaluation
from earsight.training.heldout import HeldOut
from earsight.training.preparation import prepare
from earsight.training.trial import Trial, run_trial
from test_cli import invoke

TRIAL = Trial(fold=1, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Clips of 5.5 s of noise with a tone at 4.6 s, for windows of 2 s."""
    folder = write_long(tmp_path_factory.mktemp("long") / "data", clips=6, seconds=5.5, at=4.6, lasts=0.4)
    generator = np.random.default_rng(1)
    for path in sorted(folder.rglob("*.wav")):
        wave, rate = soundfile.read(path)
        soundfile.write(path, wave + generator.normal(0, generator.uniform(0.01, 0.2), len(wave)), rate)
    return folder


@pytest.fixture(scope="module", params=["all", "first"])
def run(request, folder, tmp_path_factory):
    """A run whose held-out clips were judged by all of their windows, and one where by their first."""
    recipe = Recipe().override(
        [
            *("features.clip_seconds=2", "features.frames=32", "features.bands=32", "backbone.name=test_resnet"),
            *("backbone.weights=none", "augment.pitch_semitones=0", "training.batch_size=8", "training.epochs=2"),
            *("training.precision=float32", f"training.windows={request.param}"),
        ]
    )
    ready = prepare(open_dataset(folder, folds=2), recipe, cache=tmp_path_factory.mktemp("cache"))
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run")
    run_trial(ready, TRIAL, run=out, device=torch.device("cpu"))
    return TRIAL.folder(out)


@pytest.fixture
def classifier(run):
    return load_classifier(run / "model.safetensors")


def calibrated(classifier, *, score="doubt", temperature=2.0):
    parts = {
        "unknown": {"score": score, "threshold": 0.4, "rate": 0.05},
        "sets": {"method": "lac", "threshold": 0.6, "coverage": 0.9},
    }
    card = replace(classifier.card, calibration=parts, temperature=temperature)
    return Classifier(card, classifier.model)


@pytest.fixture
def long(folder):
    return folder / "high" / "0.wav"


def parts_of(classifier, path):
    wave = audio.read(path, sample_rate_hz=classifier.sample_rate_hz)
    size = classifier.samples
    return np.stack([wave[start : start + size] for start in audio.windows(len(wave), size)])


def as_row(classifier, found):
    shares = dict(zip(found.classes, found.probabilities, strict=True))
    return np.array([shares[name] for name in classifier.classes])


def test_the_answer_is_the_mean_of_the_windows(classifier, long):
    expected = classifier.probabilities(parts_of(classifier, long))
    assert expected.shape == (3, 2)
    found = classifier.predict(long)
    np.testing.assert_allclose(as_row(classifier, found), expected.mean(axis=0), atol=1e-5)
    label = classifier.classes.index(found.label)
    assert found.windows == 3
    assert found.agreement == pytest.approx((expected.argmax(axis=1) == label).mean())
    assert found.calibrated is None  # the model has no calibration


def test_every_way_of_asking_says_the_same(classifier, long):
    found = classifier.predict(long)
    wave, rate = soundfile.read(long, dtype="float32")
    ways = [
        classifier.predict(long.read_bytes()),
        classifier.predict(wave, rate=rate),
        next(classifier.predict_files([long])),
    ]
    for other in ways:
        assert (other.windows, other.agreement) == (found.windows, found.agreement)
        assert other.probabilities == pytest.approx(found.probabilities, abs=1e-5)


def test_first_is_the_first_window_alone(classifier, long):
    found = classifier.predict(long, first=True)
    expected = classifier.probabilities(parts_of(classifier, long)[:1])[0]
    np.testing.assert_allclose(as_row(classifier, found), expected, atol=1e-6)
    assert (found.windows, found.agreement) == (1, 1.0)
    assert next(classifier.predict_files([long], first=True)).probabilities == pytest.approx(found.probabilities)


def test_the_held_out_clips_are_answered_as_they_were_judged(run, classifier, folder):
    """Where training judged clips by all their windows, the model file gives the saved predictions again."""
    stored = read_predictions(run / "predictions.npz")
    whole = classifier.card.recipe.training.windows == "all"
    found = list(classifier.predict_files([folder / clip for clip in stored.clips], first=not whole))
    rows = np.array([as_row(classifier, one) for one in found])
    np.testing.assert_allclose(rows, softmax(stored.logits.astype(np.float64), axis=1), atol=1e-3)
    assert {one.windows for one in found} == {3 if whole else 1}


def test_short_files_have_the_bits_that_they_have_beside_short_ones(classifier, folder, tmp_path):
    """That another file of the batch is long changes nothing for them, nor does asking for first windows."""
    wave = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)
    names = []
    for number, seconds in enumerate([0.5, 1.99, 2.0, 2.05, 2.19, 2.2]):
        names.append(tmp_path / f"{number}.flac")
        soundfile.write(names[-1], wave[: round(seconds * RATE)], RATE)
    soundfile.write(tmp_path / "long.flac", wave, RATE)
    mixed = [*names[:3], tmp_path / "long.flac", *names[3:]]
    before = list(classifier.predict_files(mixed, first=True))
    now = list(classifier.predict_files(mixed))
    assert [one.windows for one in now] == [1, 1, 1, 2, 1, 1, 1]
    assert [one for one in now if one.windows == 1] == [
        replace(one, calibrated=new.calibrated) for one, new in zip(before, now, strict=True) if new.windows == 1
    ]


def test_a_calibration_is_for_the_answers_that_it_was_fitted_to(classifier, long, tmp_path):
    ours = calibrated(classifier)
    assert fits_pools(ours.card) is (ours.card.recipe.training.windows == "all")
    found = ours.predict(long)
    logits = ours.logits(parts_of(ours, long)).astype(np.float64)
    if fits_pools(ours.card):
        # As the held-out clips were: the mean probabilities, and then the temperature.
        shares = softmax(np.log(softmax(logits, axis=1).mean(axis=0)) / 2.0)
    else:
        shares = softmax(logits / 2.0, axis=1).mean(axis=0)
    np.testing.assert_allclose(as_row(ours, found), shares, atol=1e-5)
    assert found.calibrated is fits_pools(ours.card)
    assert found.novelty == pytest.approx(1 - shares.max(), abs=1e-5)
    assert found.unknown is (found.novelty > 0.4)
    assert set(found.plausible) == {ours.classes[place] for place in np.flatnonzero(1 - shares <= 0.6 + 1e-6)}
    first = ours.predict(long, first=True)
    assert first.calibrated is not fits_pools(ours.card)
    soundfile.write(tmp_path / "short.wav", np.zeros(RATE) + 0.1, RATE)
    assert ours.predict(tmp_path / "short.wav").calibrated is True


def test_a_calibration_by_clips_of_one_window_is_for_one_window(classifier, long, tmp_path):
    """Whatever `training.windows` says: one long clip in forty makes it `all`."""
    ours = calibrated(classifier)
    ours = Classifier(replace(ours.card, calibration=ours.card.calibration | {"pools": False}), ours.model)
    found = ours.predict(long)
    assert (found.windows, found.calibrated) == (3, False)
    each = ours.probabilities(parts_of(ours, long))  # at the temperature of one window
    np.testing.assert_allclose(as_row(ours, found), each.mean(axis=0), atol=1e-5)
    assert ours.predict(long, first=True).calibrated is True


def test_predictions_say_how_many_clips_have_several_windows(run):
    stored = read_predictions(run / "predictions.npz")
    assert stored.about.get("pooled") == (len(stored.clips) if stored.about["windows"] == "all" else None)


def test_notebooks_show_how_many_windows_answer(classifier, long):
    found = classifier.predict(long)
    told = f"({found.windows} windows, {100 * found.agreement:.0f} % agree)"
    assert (found.windows, told in repr(found), told in found._repr_html_()) == (3, True, True)
    first = classifier.predict(long, first=True)
    assert "windows" not in repr(first) + first._repr_html_()


def test_a_rate_that_is_none_is_refused_beside_a_file_too(classifier, long):
    for rate in ("44100", -1, True):
        with pytest.raises(DataError, match="rate is"):
            classifier.predict(long, rate=rate)


def test_what_no_pool_is_calibrated_for(classifier):
    """Energies of mean probabilities are 0, and members with temperatures of their own were averaged otherwise."""
    assert not fits_pools(calibrated(classifier, score="energy").card)
    card = classifier.card
    pooled = ensemble_card([card, card], trained_on={})
    assert fits_pools(pooled) is fits_pools(card)
    assert not fits_pools(ensemble_card([replace(card, temperature=2.0), card], trained_on={}))


def test_energies_are_not_fitted_to_clips_of_several_windows(run):
    stored = read_predictions(run / "predictions.npz")
    if stored.about["windows"] == "all":
        with pytest.raises(DataError, match="several windows"):
            score_of([stored], "energy")
    else:
        assert score_of([stored], "energy") == "energy"


def test_a_distance_is_the_mean_of_the_windows(classifier):
    card = calibrated(classifier, score="distance").card
    raws = [(np.array([[1.0, 0.0]]), np.array([1.0])), (np.array([[0.0, 3.0]]), np.array([4.0]))]
    pool = Pool(card)
    for logits, distance in raws:
        pool.add(Raw(logits, distance))
    assert pool.outputs().ood_score.tolist() == [2.5]
    assert pool.agreement == 0.5


def test_the_bits_do_not_depend_on_who_goes_through_the_windows(classifier, tmp_path):
    """A file of many windows is begun by its batch's thread and ended by all of them."""
    wave = np.random.default_rng(3).normal(0, 0.1, 61 * RATE)
    soundfile.write(tmp_path / "x.wav", wave, RATE)
    found = next(classifier.predict_files([tmp_path / "x.wav"]))
    assert found.windows == 31
    assert replace(classifier.predict(tmp_path / "x.wav"), path=found.path) == found


def test_a_long_file_that_is_cut_is_an_error_and_not_an_answer(classifier, tmp_path):
    wave = np.random.default_rng(3).normal(0, 0.1, 61 * RATE)
    soundfile.write(tmp_path / "x.mp3", wave, RATE)
    soundfile.write(tmp_path / "y.wav", wave[: 2 * RATE], RATE)
    content = (tmp_path / "x.mp3").read_bytes()
    (tmp_path / "x.mp3").write_bytes(content[: len(content) // 2])
    cut, good = classifier.predict_files([tmp_path / "x.mp3", tmp_path / "y.wav"])
    assert "truncated" in cut.error
    assert (good.error, good.windows) == ("", 1)


def test_evaluate_hears_clips_whole(classifier, folder):
    dataset = open_dataset(folder, folds=2)
    found = evaluate(classifier, dataset, fold=1)
    held_out = int((dataset.folds == 1).sum())
    only_first = classifier.card.recipe.training.windows == "first"
    assert found["long"] == {
        **{"clips": held_out, "windows": 3 * held_out, "calibrated": None},
        "agreement": pytest.approx(found["long"]["agreement"]),
        **({"beyond": held_out, "most_seconds": 2.0} if only_first else {}),
    }
    assert "long" not in evaluate(classifier, dataset, fold=1, first=True)


def test_evaluate_says_where_clips_are_longer_than_what_training_used(run, folder, tmp_path, capsys):
    """Training judges a held-out clip by `training.most_seconds` of it, and evaluate by all."""
    whole = load_classifier(run / "model.safetensors")
    training = whole.card.recipe.training.model_copy(update={"most_seconds": 4.0})
    card = replace(whole.card, recipe=whole.card.recipe.model_copy(update={"training": training}))
    found = evaluate(Classifier(card, whole.model), open_dataset(folder, folds=2), fold=1)
    used = 4.0 if training.windows == "all" else 2.0
    assert (found["long"]["beyond"], found["long"]["most_seconds"]) == (found["clips"], used)
    console = Console(width=200)
    print_evaluation(found, console=console)
    shown = capsys.readouterr().out
    assert f"6 clips longer than the {used:g} s that training used of a clip and judged whole here" in shown


def test_the_window_that_speaks_most_is_explained(classifier, tmp_path):
    """Noise, and a tone in the third of four windows, the last of which overlaps the third."""
    wave = np.random.default_rng(5).normal(0, 0.02, 7 * RATE)
    wave[4 * RATE : 5 * RATE] += 0.5 * np.sin(2 * np.pi * 1200 * np.arange(RATE) / RATE)
    path = tmp_path / "x.wav"
    soundfile.write(path, wave, RATE)
    shares = classifier.probabilities(parts_of(classifier, path))
    found = classifier.predict(path)
    for column in range(2):
        with classifier.opened(path) as heard:
            begin, _, windows, top = strongest_window(classifier, heard.windows, column, first=False, name="x")
        assert begin / RATE == [0, 2, 4, 5][int(shares[:, column].argmax())]
        assert (windows, classifier.classes[top]) == (4, found.label)
    for label in (None, found.label):
        told = classifier.explain(path, label=label, curves=False, most_steps=1 << 14)
        column = classifier.classes.index(found.label)
        best = int(shares[:, column].argmax())
        assert told.begin_seconds == [0, 2, 4, 5][best]
        assert told.end_seconds == told.begin_seconds + 2
        assert (told.windows, told.top_label) == (4, found.label)
        assert told.probability == pytest.approx(float(shares[best, column]), abs=1e-5)
        assert told.to_dict()["begin_seconds"] == told.begin_seconds
    with classifier.opened(path) as heard:
        assert strongest_window(classifier, heard.windows, 0, first=True, name="x")[0::2] == (0, 1)


def test_boundaries_are_of_the_window_that_speaks_most(run, classifier, tmp_path, monkeypatch):
    """Of a run that was trained on first windows, of the first."""
    wave = np.random.default_rng(5).normal(0, 0.02, 7 * RATE)
    wave[4 * RATE : 5 * RATE] += 0.5 * np.sin(2 * np.pi * 1200 * np.arange(RATE) / RATE)
    soundfile.write(tmp_path / "x.wav", wave, RATE)
    windows = parts_of(classifier, tmp_path / "x.wav")
    label = classifier.classes.index(classifier.predict(tmp_path / "x.wav").label)
    best = int(classifier.probabilities(windows)[:, label].argmax())
    whole = classifier.card.recipe.training.windows == "all"
    seen = []
    monkeypatch.setattr(observation, "bands_of", lambda model, wave: seen.append(wave) or bands_of(model, wave))
    held = HeldOut(1, 0, run, ("x.wav",), (tmp_path / "x.wav",), np.array([0]), classifier.classes)
    row = observation._measure(classifier, held, 0, most_steps=64)
    np.testing.assert_array_equal(seen[0], windows[best if whole else 0])
    assert not whole or row["explained"] == classifier.classes[label]


def test_predict_says_it_once_and_first_is_as_before(run, folder, tmp_path):
    model = run / "model.safetensors"
    shown = invoke("predict", model, folder / "high", "--csv")
    assert shown.stdout.splitlines()[0] == "path,label,probability,error,windows,agreement,left_out"
    assert all(",3," in line for line in shown.stdout.splitlines()[1:])
    assert shown.stderr.count("classified whole") == 1
    assert "6 files longer than the model's window of 2 s" in shown.stderr
    old = invoke("predict", model, folder / "high", "--csv", "--first")
    assert old.stdout.splitlines()[0] == "path,label,probability,error,left_out"
    assert "classified whole" not in old.stderr
    lines = [json.loads(line) for line in invoke("predict", model, folder / "high", "--json").stdout.splitlines()]
    assert {line["windows"] for line in lines} == {3}
    refused = invoke("predict", model, folder / "high", "--first", "--hop", 1, code=2)
    assert "--first and --hop" in refused.stderr


def test_an_output_goes_on_with_the_windows_that_it_was_begun_with(run, folder, tmp_path):
    model, out = run / "model.safetensors", tmp_path / "rows.csv"
    invoke("predict", model, folder / "high", "--csv", "--first", "--out", out)
    again = invoke("predict", model, folder / "high", "--csv", "--out", out, "--resume")
    assert "begun with the first window" in again.stderr
    assert "nothing to do" in again.stderr
    out = tmp_path / "whole.csv"
    invoke("predict", model, folder / "high", "--csv", "--out", out)
    assert "nothing to do" in invoke("predict", model, folder / "high", "--csv", "--out", out, "--resume").stderr
    refused = invoke("predict", model, folder / "high", "--csv", "--first", "--out", out, "--resume", code=2)
    assert "whole" in refused.stderr


def test_rows_without_a_journal_are_counted_and_not_called_whole(run, folder, tmp_path):
    """As where a prediction was killed, and its journal removed: rows end at a line's end, and some are missing."""
    model, out = run / "model.safetensors", tmp_path / "rows.csv"
    command = ("predict", model, folder / "high", "--csv", "--first", "--out", out)
    invoke(*command)
    (tmp_path / ".rows.csv.finished").unlink()
    shown = invoke(*command, "--resume").stderr
    assert "nothing to do" not in shown
    assert "whether it is whole is not known" in shown
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:-2]))
    refused = invoke(*command, "--resume", code=2).stderr
    assert "has 4 rows for 6 files, and no journal to go on from" in refused
    assert out.read_text() == "".join(lines[:-2])


def test_the_memory_does_not_grow_with_the_length(run, tmp_path):
    """Twenty minutes take what a minute does, within a few megabytes."""
    for minutes in (1, 20):
        with soundfile.SoundFile(tmp_path / f"{minutes}.wav", "w", RATE, 1, subtype="PCM_16") as file:
            for _ in range(minutes):
                file.write(np.random.default_rng(0).normal(0, 0.1, 60 * RATE))
    code = (
        "import resource, sys; from earsight.inference.classifier import load_classifier; "
        "model = load_classifier(sys.argv[1])\n"
        "for name in sys.argv[2:]:\n"
        "    (found,) = model.predict_files([name])\n"
        "    print(found.windows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, run / "model.safetensors", tmp_path / "1.wav", tmp_path / "20.wav"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (short, before), (long, after) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (short, long) == (30, 600)
    assert after - before < 1200 * RATE * 4 / 1024 / 4, "kilobytes"
