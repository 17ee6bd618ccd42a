"""The quickstart: make synthetic sounds, train on them, predict one and draw its spectrogram.

Comes in: a folder to work in. Goes out, in it: the synthetic data set, a run with its model file, and a spectrogram of
one sound. The ImageNet weights come out of an installed package.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from earsight.console import bar, out, say

_RECIPE = ("augment.pitch_semitones=0", "augment.mixup=0", "training.batch_size=16")


def run_quickstart(folder: Path, *, epochs: int) -> None:
    """Write the sounds into a folder, train on four folds, test on the fifth, predict one file and draw it.

    What an earlier quickstart left in the folder is gone over again.
    """
    import torch

    from earsight.data.layouts import open_dataset
    from earsight.data.synthetic import write_synthetic
    from earsight.evaluation.summary import write_summary
    from earsight.execution.schedule import publish_model, run_trials
    from earsight.files import publish_folder
    from earsight.recipe import load_recipe
    from earsight.training.device import describe_machine
    from earsight.training.preparation import prepare
    from earsight.training.trial import Trial

    started = time.monotonic()
    sounds = folder / "synthetic"
    if not sounds.is_dir():  # written once: new modification times would mean new spectrograms and another run
        publish_folder(write_synthetic(folder / "synthetic.part"), sounds)
    dataset = open_dataset(sounds)
    say(f"1. {dataset.describe()}, in {sounds}")
    recipe = load_recipe(overrides=[*_RECIPE, f"training.epochs={epochs}"])
    with bar("2. spectrograms") as shown:
        ready = prepare(dataset, recipe, cache=folder / "spectrograms", progress=shown)
    trial = Trial(fold=1, seed=0)
    run = folder / f"run-{ready.recipe.digest}-{ready.identity}"
    cpu = torch.device("cpu")
    with bar("3. training") as shown:
        run_trials(ready, [trial], run=run, device=cpu, progress=shown, say=lambda line: None)
    _tell_accuracy(write_summary(run, machine=describe_machine(cpu)), chance=1 / len(dataset.classes))
    model = publish_model(run, trial)
    row = int((dataset.folds == trial.fold).nonzero()[0][0])
    drawing = folder / "spectrogram.png"
    _show_one(model, dataset.file(row), label=dataset.clips[row].label, drawing=drawing)
    out.print(
        f"spectrogram: {drawing}\nmodel:       {model}\n"
        f"all in {time.monotonic() - started:.0f} s. Now your own sounds, one folder a class:",
        markup=False,
    )
    out.print("  earsight check my_sounds/\n  earsight train my_sounds/ --out runs/mine", markup=False)


def _tell_accuracy(result: dict[str, Any], *, chance: float) -> None:
    """Print the held-out accuracy of a summary of one fold, beside chance."""
    low, high = result["accuracy"]["ci95"]
    out.print(
        f"held-out accuracy on the synthetic set: {100 * result['accuracy']['mean']:.1f} % of "
        f"{result['folds'][0]['clips']} clips (95 % interval {100 * low:.1f} to {100 * high:.1f} %); "
        f"chance is {100 * chance:.1f} %"
    )


def _show_one(model: Path, file: Path, *, label: str, drawing: Path) -> None:
    """Predict one held-out file and draw its spectrogram as the network sees it."""
    import torch

    from earsight.data import audio
    from earsight.inference.classifier import load_classifier
    from earsight.inference.predictions import share_words
    from earsight.reports.figures import spectrogram_figure

    classifier = load_classifier(model)
    found = classifier.predict(file)
    out.print(
        f"predicted {file.name}: {found.label} with {share_words(found.probabilities[0])}; it is {label}", markup=False
    )
    features = classifier.card.recipe.features
    wave = audio.fit(audio.read(file, sample_rate_hz=features.rate), features.samples)
    spectrogram_figure(
        classifier.front_end(torch.from_numpy(wave)[None])[0].numpy(),
        path=drawing,
        seconds=float(features.clip_seconds),
        band_hz=features.band_hz,
        windows_ms=features.windows_ms,
        title=f"{label} (synthetic)",
        wave=wave,
    )
