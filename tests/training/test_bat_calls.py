"""Calls above all that ears hear are learnt at the rate that `auto` takes."""

import numpy as np
import soundfile

from earsight.data import open_dataset
from earsight.evaluation.summary import read_predictions
from earsight.recipe import Recipe
from earsight.training.preparation import prepare
from earsight.training.trial import Trial, run_trial

RATE = 256000


def test_calls_at_45_and_60_khz_are_told_apart(cpu, tmp_path):
    for seed in range(24):
        draws, size = np.random.default_rng(seed), RATE // 200
        label, hz = (("pip45", 45000), ("pip60", 60000))[seed % 2]
        wave = 0.1 * np.sin(2 * np.pi * 100 * np.arange(RATE // 2) / RATE) + 1e-5 * draws.standard_normal(RATE // 2)
        sweep = np.cumsum(np.linspace(1.05, 0.95, size) * hz * draws.uniform(0.98, 1.02)) / RATE
        for at in draws.integers(0, len(wave) - size, 8):
            wave[at : at + size] += 0.01 * np.hanning(size) * np.sin(2 * np.pi * sweep)
        (tmp_path / "set" / label).mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "set" / label / f"{seed}.wav", wave, RATE)
    dataset = open_dataset(tmp_path / "set", folds=3)
    quick = ["features.frames=50", "features.bands=32", "backbone.name=test_resnet", "backbone.weights=none"]
    quick += ["augment.pitch_semitones=0", "augment.mixup=0", "training.batch_size=4", "training.epochs=20"]
    prepared = prepare(dataset, Recipe().override(quick), cache=tmp_path / "cache")
    assert prepared.recipe.features.rate == 192000
    found = read_predictions(run_trial(prepared, Trial(1, 0), run=tmp_path / "run", device=cpu) / "predictions.npz")
    assert (len(found.clips), found.correct.mean()) == (8, 1)
