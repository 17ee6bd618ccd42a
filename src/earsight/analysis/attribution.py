"""Attribution of a class score to the cells of a spectrogram: Integrated Gradients and Grad-CAM.

Comes in: a network from log powers (batch, windows, bands, frames) to scores (batch, classes), the log powers of one
sound, and those of silence. Goes out: attributions (windows, bands, frames) in units of the score, which add up to the
score's difference between sound and silence; and a Grad-CAM map (bands, frames), 0 and above.

The baseline is the spectrogram of a wave of zeros, so that silent cells get no attribution. Zeros after normalisation
would be the spectrogram of noise of average loudness.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from earsight.errors import ModelError
from earsight.library_output import load_tqdm
from earsight.models.backbones import stages

TOLERANCE = 0.01
FIRST_STEPS = 16
MOST_STEPS = 2048
TIMED_STEPS = 256
"""Steps that are taken whatever the time says."""
BATCH_SIZE = 16


@dataclass(frozen=True)
class Attribution:
    """Integrated Gradients ``values`` (windows, bands, frames), in units of the score, with ``steps`` on the path.

    ``score`` and ``silence_score`` are logits, or log probabilities of an ensemble. ``tolerance``: allowed error of the
    sum, as a share of their difference.
    """

    values: NDArray[np.float32]
    score: float
    silence_score: float
    steps: int
    tolerance: float = TOLERANCE

    @property
    def difference(self) -> float:
        """The score's difference between sound and silence, to which the attributions should add up."""
        return self.score - self.silence_score

    @property
    def total(self) -> float:
        """The sum of the attributions."""
        return float(self.values.sum(dtype=np.float64))

    @property
    def error(self) -> float:
        """The error of the sum, as a share of the difference."""
        gap = abs(self.total - self.difference)
        return gap / abs(self.difference) if self.difference else float("inf") if gap else 0.0

    @property
    def complete(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance


def integrated_gradients(
    network: nn.Module,
    spectrogram: Tensor,
    *,
    silence: Tensor,
    target: int,
    tolerance: float = TOLERANCE,
    most_steps: int = MOST_STEPS,
    most_seconds: float = math.inf,
    batch_size: int = BATCH_SIZE,
) -> Attribution:
    """Integrated Gradients from silence to the spectrogram, with as many steps as completeness needs.

    M. Sundararajan, A. Taly, Q. Yan, "Axiomatic Attribution for Deep Networks", ICML 2017. The integral is taken by the
    trapezoidal rule. Its steps are doubled until the attributions add up to the difference of the scores within
    ``tolerance``, a share of it; a doubling only adds the middles of the steps before it. With ``most_steps`` it stops,
    and the result is not `Attribution.complete`; so it does, from `TIMED_STEPS` on, before a doubling that would not
    end within ``most_seconds``: it takes as long as all before.

    The network is in eval mode; spectrogram and silence are float32 (1, windows, bands, frames) on its device;
    ``target`` is the class; ``batch_size`` spectrograms are in memory at a time.
    """
    load_tqdm()
    from captum.attr import IntegratedGradients

    method, began = IntegratedGradients(network), time.monotonic()

    def rule(name: str, points: int) -> Tensor:
        found: Tensor = method.attribute(
            spectrogram, silence, target=target, method=name, n_steps=points, internal_batch_size=batch_size
        )
        return found.detach().double()

    with _exact():
        with torch.no_grad():
            score, silent = network(torch.cat([spectrogram, silence]))[:, target].tolist()
        steps = min(FIRST_STEPS, most_steps)
        # Not captum's "riemann_trapezoid": the weights of its n points add up to (n - 1) / n (captum 0.9).
        values = (rule("riemann_left", steps) + rule("riemann_right", steps)) / 2
        while True:
            found = Attribution(values[0].float().cpu().numpy(), score, silent, steps, tolerance)
            late = steps >= TIMED_STEPS and 2 * (time.monotonic() - began) > most_seconds
            if found.complete or 2 * steps > most_steps or late:
                return found
            values = (values + rule("riemann_middle", steps)) / 2
            steps *= 2


@contextmanager
def _exact() -> Iterator[None]:
    """Switch TF32 off on GPUs: it is too coarse for sums of attributions that cancel."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def grad_cam(
    network: nn.Module, spectrogram: Tensor, *, target: int, layers: Sequence[nn.Module]
) -> NDArray[np.float32]:
    """Grad-CAM at some layers, each enlarged to the spectrogram's size; the mean over the layers.

    Takes a network in eval mode, a spectrogram (1, windows, bands, frames) float32, the class, and the network's
    `last_spatial_layer`, or that of each member of an ensemble. Returns (bands, frames), 0 and above, without a unit.
    R. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
    """
    load_tqdm()
    from captum.attr import LayerGradCam

    size = spectrogram.shape[2:]
    maps = []
    with _exact():
        for layer in layers:
            coarse: Tensor = LayerGradCam(network, layer).attribute(spectrogram, target=target, relu_attributions=True)
            maps.append(F.interpolate(coarse.detach(), size=size, mode="bilinear", align_corners=False)[0, 0])
    return np.asarray(torch.stack(maps).mean(dim=0).float().cpu().numpy())


def last_spatial_layer(backbone: nn.Module, run: Callable[[], object]) -> nn.Module:
    """The last module of a backbone's stages, or of all its modules, whose output has more than one position.

    ``run`` runs the backbone on a spectrogram. ModelError if there is no such module.
    """
    named = dict(backbone.named_modules())
    try:
        parts = [named[prefix] for prefixes in stages(backbone).values() for prefix in prefixes if prefix in named]
    except ModelError:
        parts = list(named.values())
    seen: list[nn.Module] = []

    def see(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            seen.append(module)

    handles = [part.register_forward_hook(see) for part in parts]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise ModelError(
            f"{type(backbone).__name__}: none of its stages has rows and columns left, so there is no Grad-CAM; "
            "train with more features.bands and features.frames"
        )
    return seen[-1]
