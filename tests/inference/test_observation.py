"""The observation over a run: each clip with the model that never saw it, and a stopped run goes on."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from earsight.analysis.boundaries import NAMES
from earsight.data.layouts import open_dataset
from earsight.errors import RunError
from earsight.inference import observation
from earsight.inference.observation import KINDS, observe_boundaries, verdict
from earsight.models.modelfile import load, save
from earsight.training.preparation import prepare
from earsight.training.trial import Trial, run_trial


@pytest.fixture(scope="module")
def run(synthetic, tiny_recipe, tmp_path_factory):
    """Folds 1 and 2 of the synthetic set."""
    ready = prepare(synthetic, tiny_recipe, workers=1)
    folder = tmp_path_factory.mktemp("observed")
    for fold in (1, 2):
        run_trial(ready, Trial(fold, 0), run=folder, device=torch.device("cpu"))
    return folder


@pytest.fixture(scope="module")
def found(run):
    return observe_boundaries(run, clips=3, most_steps=16)


@contextmanager
def same_time(path):
    """A file that is written in the block keeps its time of change."""
    status = path.stat()
    yield
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_held_out_clips_are_measured_and_averaged(run, found, synthetic):
    assert found["clips"]["measured"] == 6
    folds = {clip.path: clip.fold for clip in synthetic.clips}
    assert [(row["fold"], folds[row["clip"]]) for row in found["rows"]] == [(1, 1)] * 3 + [(2, 2)] * 3
    assert {row["label"] for row in found["rows"]} <= set(synthetic.classes)
    for kind in KINDS:
        for name in NAMES:
            values = np.array([row[kind]["observed"][name] for row in found["rows"]])
            chance = np.array([row[kind]["shifted"][name] for row in found["rows"]])
            means = found["means"][kind][name]
            assert means["observed"]["mean"] == pytest.approx(values.mean())
            assert means["difference"]["mean"] == pytest.approx((values - chance).mean())
            low, high = means["difference"]["ci95"]
            assert low <= means["difference"]["mean"] <= high
    assert len(found["verdict"]) == 2
    json.dumps(found, allow_nan=False)


def test_what_is_measured_is_not_measured_again(run, found, monkeypatch):
    def refuse(*arguments, **keywords):
        raise RuntimeError("a second time")

    monkeypatch.setattr(observation, "_measure", refuse)
    calls = []
    again = observe_boundaries(run, clips=3, most_steps=16, progress=lambda *call: calls.append(call[:2]))
    assert again == found
    assert calls == [(number, 6) for number in range(1, 7)]
    with pytest.raises(RuntimeError):
        observe_boundaries(run, clips=4, most_steps=16)


def test_a_stopped_run_goes_on_and_ends_with_the_same(run, found, tmp_path, monkeypatch):
    copy = shutil.copytree(run, tmp_path / "run", copy_function=shutil.copy2)
    kept = copy / "analysis" / "boundaries.jsonl"
    lines = kept.read_text().splitlines()
    kept.write_text("\n".join(lines[:3]) + "\n" + lines[3][: len(lines[3]) // 2])
    measured, real = [], observation._measure

    def note(classifier, trial, place, **keywords):
        measured.append(trial.clips[place])
        return real(classifier, trial, place, **keywords)

    monkeypatch.setattr(observation, "_measure", note)
    again = observe_boundaries(copy, clips=3, most_steps=16)
    assert again == found
    assert measured == [row["clip"] for row in found["rows"][2:]]


@pytest.mark.parametrize(
    ("place", "old", "new", "said", "again"),
    [
        (2, '"explained"', '"explaimed"', "1 row damaged; those clips are measured anew", 1),
        (2, '"row"', '"roz"', "1 row damaged", 1),
        (2, '"crc"', '"cqc"', "1 row damaged", 1),
        (2, "{", "[", "1 row damaged", 1),
        (0, "{", "[", "its settings cannot be read, so all clips are measured anew", 6),
    ],
)
def test_damaged_rows_are_said_and_measured_anew(
    run, found, tmp_path, monkeypatch, caplog, place, old, new, said, again
):
    copy = shutil.copytree(run, tmp_path / "run", copy_function=shutil.copy2)
    kept = copy / "analysis" / "boundaries.jsonl"
    lines = kept.read_text().splitlines()
    lines[place] = lines[place].replace(old, new, 1)
    kept.write_text("\n".join(lines) + "\n")
    measured, real = [], observation._measure
    monkeypatch.setattr(observation, "_measure", lambda *one, **named: measured.append(1) or real(*one, **named))
    assert observe_boundaries(copy, clips=3, most_steps=16) == found
    assert (len(measured), len(caplog.messages), said in caplog.text) == (again, 1, True)


def test_other_settings_or_another_model_begin_anew(run, found, tmp_path, monkeypatch):
    copy = shutil.copytree(run, tmp_path / "run", copy_function=shutil.copy2)
    path = copy / "fold-1" / "seed-0" / "model.safetensors"
    card, model = load(path)
    with same_time(path):
        save(path, state={key: value + value for key, value in model.state_dict().items()}, card=card)
    with np.load(path.with_name("predictions.npz")) as file:  # as of an earlier version, that knew no weights
        arrays = dict(file)
    about = {name: value for name, value in json.loads(str(arrays["about"])).items() if name != "weights"}
    np.savez(path.with_name("predictions.npz"), **arrays | {"about": json.dumps(about)})
    measured = []
    monkeypatch.setattr(observation, "_measure", lambda *arguments, **_: measured.append(1) or {"left_out": "x"})
    with pytest.raises(RunError, match=r"1 of 2 clips can be measured \(x\); at least 2") as caught:
        observe_boundaries(copy, clips=1, most_steps=16)
    assert "\n" not in str(caught.value)
    assert len(measured) == 1
    measured.clear()
    with pytest.raises(RunError):
        observe_boundaries(copy, clips=3, most_steps=32)
    assert len(measured) == 6


def test_sounds_that_were_exchanged_are_measured_anew(run, found, synthetic_folder, tmp_path, monkeypatch):
    """By their content; a copy, whose times are others, is known by it too."""
    copy = shutil.copytree(run, tmp_path / "run")
    sounds = shutil.copytree(synthetic_folder, tmp_path / "sounds")
    measured, real = [], observation._measure

    def note(model, trial, place, **keywords):
        measured.append(trial.clips[place])
        return real(model, trial, place, **keywords)

    monkeypatch.setattr(observation, "_measure", note)
    assert observe_boundaries(copy, data=sounds, clips=3, most_steps=16) == found
    assert not measured
    clips = [found["rows"][place]["clip"] for place in (1, 2)]
    places = [sounds / clip for clip in clips]
    contents = [place.read_bytes() for place in places]
    for place, content in zip(places, reversed(contents), strict=True):
        with same_time(place):
            place.write_bytes(content)
    again = observe_boundaries(copy, data=sounds, clips=3, most_steps=16)
    assert measured == clips
    names = ("explained", "attribution")
    assert [again["rows"][1][name] for name in names] == [found["rows"][2][name] for name in names]


def test_rows_of_an_earlier_version_are_taken_and_said_not_to_be_checked(run, found, tmp_path, monkeypatch, caplog):
    """They knew models by their times, and sounds by their names."""
    copy = shutil.copytree(run, tmp_path / "run", copy_function=shutil.copy2)
    kept = copy / "analysis" / "boundaries.jsonl"
    head, *lines = [json.loads(line) for line in kept.read_text().splitlines()]
    for line in lines:
        fold, seed, *_, clip = line["key"]
        time = (copy / f"fold-{fold}" / f"seed-{seed}" / "model.safetensors").stat().st_mtime_ns
        line["key"] = [fold, seed, time, clip]
        del line["crc"]
    kept.write_text("".join(json.dumps(line) + "\n" for line in (head, *lines)))
    monkeypatch.setattr(observation, "_measure", None)
    assert observe_boundaries(copy, clips=3, most_steps=16) == found
    assert "cannot be checked" in caplog.text


def test_clips_that_cannot_be_measured_are_listed(synthetic_folder, tiny_recipe, tmp_path):
    import soundfile

    sounds = shutil.copytree(synthetic_folder, tmp_path / "sounds")
    dataset = open_dataset(sounds)
    ready = prepare(dataset, tiny_recipe, cache=tmp_path, workers=1)
    run_trial(ready, Trial(1, 0), run=tmp_path / "run", device=torch.device("cpu"))
    rows = np.flatnonzero(dataset.folds == 1)[:4]
    soundfile.write(dataset.file(rows[0]), np.zeros(22050), 22050)
    dataset.file(rows[1]).write_text("hello")
    names = {dataset.clips[row].path for row in rows[:2]}
    found = observe_boundaries(tmp_path / "run", most_steps=16)
    assert {entry.split(": ")[0] for entry in found["clips"]["left_out"]} == names
    assert found["clips"]["measured"] == 18


def test_attributions_that_are_not_finite_leave_a_clip_out(run, tmp_path, monkeypatch):
    copy = shutil.copytree(run, tmp_path / "run", copy_function=shutil.copy2)
    (copy / "analysis" / "boundaries.jsonl").unlink(missing_ok=True)
    real = observation.integrated_gradients

    def broken(*arguments, **keywords):
        found = real(*arguments, **keywords)
        found.values.flat[0] = np.nan
        return found

    monkeypatch.setattr(observation, "integrated_gradients", broken)
    with pytest.raises(RunError, match="its attributions are not finite"):
        observe_boundaries(copy, clips=1, most_steps=16)
    text = (copy / "analysis" / "boundaries.jsonl").read_text()
    assert "NaN" not in text
    assert "its attributions are not finite" in text


def entry(mean, reach=0.01):
    return {"mean": mean, "ci95": [mean - reach, mean + reach]}


@pytest.mark.parametrize(("difference", "words"), [(0.2, "holds"), (-0.2, "is contradicted"), (0.005, "is not shown")])
def test_the_verdict_follows_the_interval(difference, words):
    partial = {"observed": entry(difference), "shifted": entry(0.0), "difference": entry(difference)}
    places = {
        f"density_{place}": {"observed": entry(size)}
        for place, size in (("boundary", 1.5), ("inside", 2.5), ("outside", 0.5))
    }
    lines = verdict({"attribution": {"spearman_gradient_given_energy": partial, **places}})
    assert f"changes: {words} (" in lines[0]
    assert "inside 2.500 (2.490 to 2.510), boundary" in lines[1]
    assert lines[1].endswith("most inside.")
