"""Soups: the mean of weights, and batch-norm statistics that fit it, by computations in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from earsight.ensembles.soups import average_states, measure_norms, measured_norms
from earsight.errors import ModelError
from earsight.models.backbones import build


def _network(seed: int) -> nn.Module:
    return build("test_resnet", classes=3, weights="none", seed=seed).eval()


@settings(max_examples=20, deadline=None)
@given(values=st.lists(st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4), min_size=1, max_size=5))
def test_the_mean_is_numpys(values):
    states = [{"w": torch.tensor(row).reshape(2, 2), "n": torch.tensor(7 + place)} for place, row in enumerate(values)]
    found = average_states(states)
    np.testing.assert_allclose(
        found["w"].numpy().ravel(), np.mean(np.array(values, dtype=np.float64), axis=0).astype(np.float32), rtol=1e-6
    )
    assert found["w"].dtype == torch.float32
    assert int(found["n"]) == 7


def test_a_linear_network_is_its_own_ensemble_and_the_states_stay_as_they_were():
    layers = [nn.Linear(5, 3) for _ in range(4)]
    before = [{key: value.clone() for key, value in layer.state_dict().items()} for layer in layers]
    soup = nn.Linear(5, 3)
    soup.load_state_dict(average_states([layer.state_dict() for layer in layers]))
    x = torch.randn(6, 5)
    torch.testing.assert_close(soup(x), torch.stack([layer(x) for layer in layers]).mean(0))
    for layer, kept in zip(layers, before, strict=True):
        assert all(torch.equal(layer.state_dict()[key], kept[key]) for key in kept)


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ([], "no members"),
        ([{"w": torch.zeros(2)}, {"w": torch.zeros(3)}], "member 2 differs from the first in w"),
        ([{"w": torch.zeros(2)}, {"w": torch.zeros(2)}, {"v": torch.zeros(2)}], "member 3 differs from the first in v"),
        ([{"w": torch.zeros(2)}, {"w": torch.zeros(2).double()}], "member 2 differs"),
    ],
)
def test_states_of_other_networks(states, words):
    with pytest.raises(ModelError, match=words):
        average_states(states)


def test_statistics_are_those_of_the_spectrograms_under_the_new_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(0.5))
    batches = [torch.randn(size, 3, 8, 8) * 3 + 1 for size in (6, 6, 6)]
    measure_norms(model, batches, names=["1"])
    with torch.no_grad():
        outputs = [model[0](batch).numpy() for batch in batches]
    means = [out.mean(axis=(0, 2, 3)) for out in outputs]
    variances = [out.var(axis=(0, 2, 3), ddof=1) for out in outputs]
    np.testing.assert_allclose(model[1].running_mean.numpy(), np.mean(means, axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model[1].running_var.numpy(), np.mean(variances, axis=0), rtol=1e-4)
    assert model[1].momentum == 0.3
    assert not any(module.training for module in model.modules())


def test_only_the_norms_that_are_named_are_measured_and_weights_stay():
    model = _network(0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    names = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    measure_norms(model, [torch.randn(4, 3, 32, 32) for _ in range(2)], names=names[2:])
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.rsplit(".", 1)[0] in names[2:] for key in changed)
    assert all("running" in key or "num_batches" in key for key in changed)


def test_statistics_that_all_members_share_are_right_as_they_are():
    states = [dict(_network(seed).state_dict()) for seed in (0, 1)]
    model = _network(0)
    assert measured_norms(model, states) == [], "untrained networks have one set of statistics"
    names = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    states[1][f"{names[-1]}.running_mean"] = states[1][f"{names[-1]}.running_mean"] + 1
    assert measured_norms(model, states) == [names[-1]]
    assert measured_norms(model, states[:1]) == []


def test_a_soup_of_one_measured_on_its_own_spectrograms_is_much_the_same():
    """Under the same weights, statistics measured anew are those that a long training's running mean approaches."""
    torch.manual_seed(1)
    model = _network(3)
    batches = [torch.randn(16, 3, 32, 32) for _ in range(8)]
    names = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    model.train()
    with torch.no_grad():
        for _ in range(12):
            for batch in batches:
                model(batch)
    model.eval()
    with torch.no_grad():
        expected = model(batches[0])
    measure_norms(model, batches, names=names)
    with torch.no_grad():
        found = model(batches[0])
        measure_norms(model, [3 * batch for batch in batches], names=names)
        other = model(batches[0])
    assert float((found - expected).abs().max()) < 0.25 * float(expected.std())
    assert float((other - expected).abs().max()) > float(expected.std()), "other spectrograms have other statistics"
