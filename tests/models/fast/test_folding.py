"""Networks with folded norms say what they said, and where folding would change that, nothing is folded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from earsight.models.backbones import build
from earsight.models.ensemble import Ensemble, Member
from earsight.models.fast.folding import folded


def _lived_in(model: nn.Module) -> nn.Module:
    """Norms with statistics and weights that are not those of the first day."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_mean, -0.5), (module.running_var, 0.5), (module.weight, 0.5)):
                tensor.data.copy_(low + torch.rand(tensor.shape, generator=generator))
            module.bias.data.normal_(0, 0.2, generator=generator)
    return model.eval()


def _norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def _spectrogram(seed: int = 1, frames: int = 64, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, 64, frames, generator=torch.Generator().manual_seed(seed))


# In a DenseNet only the first norm and every second one of its 58 layers come after a convolution.
@pytest.mark.parametrize(
    ("name", "left"),
    [("test_resnet", 0), ("test_efficientnet", 0), ("test_mambaout", 0), ("soundnet8", 0), ("densenet121", 62)],
)
def test_the_copy_says_the_same(name, left):
    model = _lived_in(build(name, classes=5, weights="none"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fast = folded(model, spectrogram=_spectrogram())
    if _norms(model):
        assert fast is not model
        assert _norms(fast) == left
    with torch.inference_mode():
        for frames, batch in ((64, 1), (96, 3)):
            x = _spectrogram(2, frames, batch)
            torch.testing.assert_close(fast(x), model(x), atol=1e-4, rtol=1e-4)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items()), "the model itself was changed"


def test_an_ensemble():
    members = [
        Member(_lived_in(build("test_resnet", classes=4, weights="none", seed=seed)), (0, 1, 2), (1, 2, 1), 1.5, 0.5)
        for seed in range(2)
    ]
    model = Ensemble(members).eval()
    fast = folded(model, spectrogram=_spectrogram())
    assert _norms(fast) == 0
    with torch.inference_mode():
        torch.testing.assert_close(fast(_spectrogram(2)), model(_spectrogram(2)), atol=1e-4, rtol=1e-4)


class _Twice(nn.Module):
    """A convolution whose output is taken by a norm and by something else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv(x)
        return self.head((out + self.norm(out)).mean(dim=(2, 3)))


class _Shared(_Twice):
    """A convolution that is used for two norms."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((self.norm(self.conv(x)) + self.norm(self.conv(2 * x))).mean(dim=(2, 3)))


@pytest.mark.parametrize("kind", [_Twice, _Shared])
def test_what_cannot_be_folded_stays(kind):
    torch.manual_seed(0)
    model = _lived_in(kind())
    fast = folded(model, spectrogram=_spectrogram())
    assert _norms(fast) == 1
    with torch.inference_mode():
        torch.testing.assert_close(fast(_spectrogram(2)), model(_spectrogram(2)))
