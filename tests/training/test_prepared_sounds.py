"""Spectrograms other than the default, from training to a loaded model file: one window, and each representation."""

import numpy as np
import pytest
import torch

from earsight.data import audio
from earsight.errors import RunError
from earsight.evaluation.summary import read_predictions
from earsight.inference.classifier import load_classifier
from earsight.training.preparation import prepare
from earsight.training.trial import Trial, run_trial


@pytest.mark.parametrize(
    "features",
    [
        ["features.windows_ms=[50]", "features.hops_ms=[25]"],
        ["features.representation=log_spectrogram"],
        ["features.representation=mfcc"],
        ["features.representation=gammatone"],
        ["features.representation=mfcc", "features.windows_ms=[50]", "features.hops_ms=[25]"],
    ],
    ids=lambda features: features[0].partition("=")[2],
)
def test_a_model_predicts_from_its_file_what_it_did_in_training(synthetic, tiny, cpu, tmp_path, features):
    recipe = tiny(*features, "training.epochs=1")
    folder = run_trial(prepare(synthetic, recipe), Trial(1, 0), run=tmp_path, device=cpu)
    found = read_predictions(folder / "predictions.npz")
    classifier = load_classifier(folder / "model.safetensors")
    assert classifier.card.recipe.features == recipe.features
    files = [synthetic.root / str(clip) for clip in found.clips]
    waves = [audio.fit(audio.read(file, sample_rate_hz=8000), classifier.samples) for file in files]
    again = classifier.probabilities(np.stack(waves))
    expected = torch.softmax(torch.from_numpy(found.logits), dim=1).numpy()
    np.testing.assert_allclose(again, expected, atol=1e-3)


def test_sounds_that_changed_since_do_not_count_as_done(synthetic_folder, tiny, cpu, tmp_path):
    import shutil

    from earsight.data.layouts import open_dataset

    own = shutil.copytree(synthetic_folder, tmp_path / "sounds")
    recipe = tiny("training.epochs=1")
    dataset = open_dataset(own)
    run_trial(prepare(dataset, recipe), Trial(1, 0), run=tmp_path / "run", device=cpu)
    shutil.copy(dataset.file(1), dataset.file(0))
    with pytest.raises(RunError, match="state of the sound files"):
        run_trial(prepare(open_dataset(own), recipe), Trial(1, 0), run=tmp_path / "run", device=cpu)


def test_the_same_sounds_elsewhere_and_later_do(synthetic_folder, tiny, cpu, tmp_path):
    import os
    import shutil

    from earsight.data.layouts import open_dataset

    recipe = tiny("training.epochs=1")
    first = shutil.copytree(synthetic_folder, tmp_path / "first")
    folder = run_trial(prepare(open_dataset(first), recipe), Trial(1, 0), run=tmp_path / "run", device=cpu)
    second = shutil.copytree(first, tmp_path / "second" / "first", copy_function=shutil.copyfile)
    for file in second.rglob("*.wav"):
        os.utime(file, ns=(0, 0))

    def no_training(*_):
        raise AssertionError("trained again")

    done = run_trial(
        prepare(open_dataset(second), recipe), Trial(1, 0), run=tmp_path / "run", device=cpu, on_step=no_training
    )
    assert done == folder
