"""Integrated Gradients against closed forms and captum itself; Grad-CAM against a computation by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients
from torch import nn

from earsight.analysis.attribution import Attribution, grad_cam, integrated_gradients, last_spatial_layer
from earsight.errors import ModelError
from earsight.models.backbones import build

SHAPE = (1, 3, 8, 10)


class Scores(nn.Module):
    """Two scores of a spectrogram, the second by a function; it writes down how many spectrograms came at a time."""

    def __init__(self, function):
        super().__init__()
        self.function, self.batches = function, []

    def forward(self, spectrograms):
        self.batches.append(len(spectrograms))
        found = self.function(spectrograms)
        return torch.stack([-found, found], dim=1)


def draw(seed, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_linear_score_is_shared_out_exactly():
    weights, spectrogram, silence = draw(0), draw(1), draw(2)
    found = integrated_gradients(
        Scores(lambda x: (weights * x).sum(dim=(1, 2, 3)) + 7), spectrogram, silence=silence, target=1
    )
    np.testing.assert_allclose(found.values, (weights * (spectrogram - silence))[0].numpy(), atol=1e-5)
    assert found.complete
    assert found.steps == 16
    assert found.score - found.silence_score == pytest.approx(
        float((weights * (spectrogram - silence)).sum()), rel=1e-4
    )
    assert found.score == pytest.approx(float((weights * spectrogram).sum()) + 7, rel=1e-4)


def test_a_quadratic_score_is_shared_out_exactly():
    # Its gradient is linear along the path, for which the trapezoidal rule is exact: w (x^2 - b^2).
    weights, spectrogram, silence = draw(0), draw(1), draw(2)
    score = Scores(lambda x: (weights * x.square()).sum(dim=(1, 2, 3)))
    found = integrated_gradients(score, spectrogram, silence=silence, target=1)
    np.testing.assert_allclose(found.values, (weights * (spectrogram.square() - silence.square()))[0], atol=1e-4)


def test_the_class_is_the_one_that_was_asked_for():
    spectrogram, silence = draw(1), torch.zeros(SHAPE)
    score = Scores(lambda x: x.sum(dim=(1, 2, 3)))
    for_it = integrated_gradients(score, spectrogram, silence=silence, target=1)
    against = integrated_gradients(score, spectrogram, silence=silence, target=0)
    np.testing.assert_allclose(for_it.values, -against.values, atol=1e-6)
    assert for_it.score == pytest.approx(-against.score, rel=1e-5)


def steep(x):
    """A score with sharp steps along the path."""
    return torch.sigmoid(400 * (x.mean(dim=(1, 2, 3)) - 0.731)) + x.mean(dim=(1, 2, 3))


def test_steps_are_doubled_until_it_is_complete_and_memory_is_bounded():
    score, spectrogram, silence = Scores(steep), torch.ones(SHAPE), torch.zeros(SHAPE)
    found = integrated_gradients(score, spectrogram, silence=silence, target=1, batch_size=5)
    assert found.complete
    assert found.steps in (64, 128, 256, 512)
    assert max(score.batches) <= 5
    # The ends of the first rule, one evaluation of each later middle, the two scores.
    assert sum(score.batches) == 16 + found.steps + 2
    fewer = integrated_gradients(score, spectrogram, silence=silence, target=1, most_steps=found.steps // 2)
    assert not fewer.complete
    assert fewer.steps == found.steps // 2
    assert fewer.error > fewer.tolerance


def test_a_bound_that_is_too_low_is_kept_and_told():
    found = integrated_gradients(Scores(steep), torch.ones(SHAPE), silence=torch.zeros(SHAPE), target=1, most_steps=16)
    assert (found.steps, found.complete) == (16, False)


def test_a_time_allows_as_many_steps_as_fit_and_some_at_least(monkeypatch):
    """A clock that goes on by a second each time that it is looked at."""
    clock = iter(range(1000))
    ticking = SimpleNamespace(monotonic=lambda: float(next(clock)))
    monkeypatch.setattr("earsight.analysis.attribution.time", ticking)
    given = {"silence": torch.zeros(SHAPE), "target": 1, "most_steps": 1 << 20, "tolerance": 1e-9}
    steps = []
    for seconds in (0.1, 5.0, 9.0):
        clock = iter(range(1000))
        found = integrated_gradients(Scores(steep), torch.ones(SHAPE), **given, most_seconds=seconds)
        assert not found.complete
        steps.append(found.steps)
    # It is looked at from 256 steps on: after 1, 2, 3 ... seconds, and the next doubling takes as long again.
    assert steps == [256, 1024, 4096]


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_a_network_gets_what_captum_gives_with_many_steps(name):
    model = build(name, classes=4, weights="none", seed=1).eval()
    spectrogram, silence = draw(3, (1, 3, 64, 96)), torch.full((1, 3, 64, 96), -2.0)
    found = integrated_gradients(model, spectrogram, silence=silence, target=2)
    wanted = IntegratedGradients(model).attribute(spectrogram, silence, target=2, n_steps=300, internal_batch_size=50)
    with torch.no_grad():
        difference = float((model(spectrogram) - model(silence))[0, 2])
    assert found.difference == pytest.approx(difference, rel=1e-4)
    assert abs(found.values.sum(dtype=np.float64) - difference) <= 0.01 * abs(difference)
    assert np.corrcoef(found.values.ravel(), wanted[0].detach().numpy().ravel())[0, 1] > 0.98
    assert found.values.dtype == np.float32


def test_nothing_between_two_equal_spectrograms():
    spectrogram = draw(1)
    found = integrated_gradients(Scores(steep), spectrogram, silence=spectrogram.clone(), target=1)
    assert (found.total, found.difference, found.error, found.complete) == (0, 0, 0, True)
    assert Attribution(np.ones(3, dtype=np.float32), 1.0, 1.0, 16).error == float("inf")


def by_hand(model, layer, spectrogram, target):
    """Selvaraju et al. 2017, equations 1 and 2, by hooks and autograd."""
    kept = {}

    def keep(module, inputs, output):
        kept["maps"] = output.clone()
        return kept["maps"].clone()  # the next layer may overwrite what it is given

    handle = layer.register_forward_hook(keep)
    score = model(spectrogram)[0, target]
    handle.remove()
    gradient = torch.autograd.grad(score, kept["maps"])[0]
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    coarse = F.relu((weights * kept["maps"]).sum(dim=1, keepdim=True))
    return (
        F.interpolate(coarse, size=spectrogram.shape[2:], mode="bilinear", align_corners=False)[0, 0].detach().numpy()
    )


@pytest.mark.parametrize(
    ("name", "layer"), [("test_resnet", "layer4"), ("test_efficientnet", "bn2"), ("densenet121", "features.norm5")]
)
def test_grad_cam_is_what_the_paper_says(name, layer):
    model = build(name, classes=4, weights="none", seed=1).eval()
    spectrogram = draw(5, (1, 3, 64, 96))
    where = last_spatial_layer(model, lambda: model(spectrogram))
    assert where is model.get_submodule(layer)
    maps = [grad_cam(model, spectrogram, target=target, layers=[where]) for target in range(4)]
    for target, found in enumerate(maps):
        np.testing.assert_allclose(found, by_hand(model, where, spectrogram, target), atol=1e-6)
        assert found.shape == (64, 96)
    assert np.max(maps) > 0
    assert np.min(maps) >= 0
    assert not where._forward_hooks


def test_grad_cam_where_the_next_layer_overwrites_its_input():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2)
    )
    spectrogram = draw(1, (1, 3, 16, 20))
    found = grad_cam(model, spectrogram, target=0, layers=[model[0]])
    np.testing.assert_allclose(found, by_hand(model, model[0], spectrogram, 0), atol=1e-6)
    assert found.max() > 0


def test_grad_cam_of_several_layers_is_their_mean():
    model = build("test_resnet", classes=4, weights="none", seed=1).eval()
    spectrogram = draw(5, (1, 3, 64, 96))
    layers = [model.layer3, model.layer4]
    alone = [grad_cam(model, spectrogram, target=1, layers=[layer]) for layer in layers]
    np.testing.assert_allclose(grad_cam(model, spectrogram, target=1, layers=layers), np.mean(alone, axis=0), atol=1e-6)


def test_a_network_without_stages_is_looked_at_module_by_module():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2))
    spectrogram = draw(1, (1, 3, 16, 20))
    assert last_spatial_layer(model, lambda: model(spectrogram)) is model[1]


def test_a_layer_with_one_position_is_none():
    model = build("test_resnet", classes=4, weights="none").eval()
    small = draw(5, (1, 3, 32, 32))
    assert last_spatial_layer(model, lambda: model(small)) is model.layer3
    with pytest.raises(ModelError, match="no Grad-CAM"):
        last_spatial_layer(model, lambda: model(draw(5, (1, 3, 1, 1))))
