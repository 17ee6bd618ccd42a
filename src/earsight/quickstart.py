"""The quickstart: make synthetic sounds, train on them, predict one and draw its spectrogram.

Comes in: a folder to work in. Goes out, in it: the synthetic data set, a run with its model file, and a spectrogram of
one sound. The ImageNet weights come out of an installed package.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earsight.console import bar, say
from earsight.errors import counted
from earsight.inference.predictions import share_words

if TYPE_CHECKING:
    import torch
    from rich.console import Console

_RECIPE = ("augment.pitch_semitones=0", "augment.mixup=0", "training.batch_size=16")


def run_quickstart(folder: Path, *, epochs: int, device: torch.device) -> dict[str, Any]:
    """Write the sounds into a folder, train on four folds, test on the fifth, predict one file and draw it.

    What an earlier quickstart left in the folder is gone over again. Returns what `print_quickstart` prints.
    """
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
    with bar("2. spectrograms", "clips") as shown:
        ready = prepare(dataset, recipe, cache=folder / "spectrograms", progress=shown)
    trial = Trial(fold=1, seed=0)
    run = folder / f"run-{ready.recipe.digest}-{ready.identity}"
    with bar("3. training", "steps") as shown:
        run_trials(ready, [trial], run=run, device=device, progress=shown, say=lambda line: None)
    summary = write_summary(run, machine=describe_machine(device))
    model = publish_model(run, trial)
    row = int((dataset.folds == trial.fold).nonzero()[0][0])
    drawing = folder / "spectrogram.png"
    return {
        **{"accuracy": summary["accuracy"], "clips": summary["folds"][0]["clips"]},
        "chance": 1 / len(dataset.classes),
        "predicted": _show_one(model, dataset.file(row), label=dataset.clips[row].label, drawing=drawing),
        **{"spectrogram": str(drawing), "model": str(model), "seconds": time.monotonic() - started},
    }


def print_quickstart(result: dict[str, Any], *, console: Console) -> None:
    """Print what `run_quickstart` returned."""
    (low, high), one = result["accuracy"]["ci95"], result["predicted"]
    lines = [
        f"held-out accuracy on the synthetic set: {100 * result['accuracy']['mean']:.1f} % of "
        f"{counted(result['clips'], 'clip')} (95 % interval {100 * low:.1f} to {100 * high:.1f} %); "
        f"chance is {100 * result['chance']:.1f} %",
        f"predicted {one['file']}: {one['label']} with {share_words(one['probability'])}; it is {one['truth']}",
        f"spectrogram: {result['spectrogram']}",
        f"model:       {result['model']}",
        f"all in {result['seconds']:.0f} s. Now your own sounds, one folder a class:",
        "  earsight check my_sounds/",
        "  earsight train my_sounds/ --out runs/mine",
    ]
    console.print("\n".join(lines), markup=False)


def _show_one(model: Path, file: Path, *, label: str, drawing: Path) -> dict[str, Any]:
    """Predict one held-out file and draw its spectrogram as the network sees it."""
    import torch

    from earsight.data import audio
    from earsight.inference.classifier import load_classifier
    from earsight.reports.figures import spectrogram_figure

    classifier = load_classifier(model)
    found = classifier.predict(file)
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
    return {"file": file.name, "label": found.label, "probability": found.probabilities[0], "truth": label}
