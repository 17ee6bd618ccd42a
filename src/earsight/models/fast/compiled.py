"""Networks compiled by OpenVINO, for inference alone: the same logits within rounding, in half the time on a CPU.

Comes in: a network, or an ensemble of such. Goes out: a module that answers the same, with `CompiledNetwork` in each
network's place; where OpenVINO is not installed, cannot read a network, or answers otherwise than it, that one's batch
norms are folded. (OpenVINO folds them itself: doing so before costs a quarter of a second and gains nothing.)

OpenVINO reports to a server that it was imported, through a package of its own that it is installed with
(`openvino_telemetry`) and can do without: that one is kept out here, so that nothing is sent.
"""

from __future__ import annotations

import copy
import importlib
import logging
import os
import sys
import threading
import warnings
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from earsight.models.ensemble import Ensemble
from earsight.models.fast.folding import TOLERANCE, folded
from earsight.models.mahalanobis import has_features, logits_and_features
from earsight.models.weights import one_line

_TELEMETRY = "openvino_telemetry"
_log = logging.getLogger(__name__)
CHUNK = 4
"""Spectrograms that are computed at once: more are no faster, and each takes memory for its feature maps."""


def why_not_reduced() -> str | None:
    """Why bfloat16 cannot be had on this machine's processor; None if it can."""
    try:
        core = _core()
    except ImportError as error:
        return f"openvino cannot be imported ({one_line(error)})"
    found = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return None if "BF16" in found else "this processor has no such arithmetic (AVX-512 BF16 or AMX)"


def bfloat16_pays() -> bool:
    """Whether networks are faster in bfloat16: by AMX, or on AMD's Zen. Other Xeons that have it take longer."""
    import llvmlite.binding  # in a twentieth of a second, which one file is not to wait for

    name, found = llvmlite.binding.get_host_cpu_name(), llvmlite.binding.get_host_cpu_features()
    return name.startswith("znver") or bool(found.get("amx-bf16"))


def with_compiled(model: nn.Module, *, spectrogram: Tensor, reduced: bool = False) -> nn.Module:
    """A network or ensemble in eval mode on the CPU with its networks compiled, or folded where they cannot be.

    ``model`` stays unchanged. ``spectrogram`` is (1, channels, bands, frames), best of noise: networks are traced with
    it, and compiled ones compared with their originals. ``reduced`` computes in bfloat16, where that is faster; logits
    are then off by some percent, and not compared.
    """
    try:
        _core()
    except ImportError:
        return folded(model, spectrogram=spectrogram)
    if not isinstance(model, Ensemble):
        return _compiled(model, spectrogram, reduced=reduced)
    networks = model.networks
    model.networks = nn.ModuleList()  # so that no weights are copied
    try:
        found = copy.deepcopy(model)
    finally:
        model.networks = networks
    found.networks = nn.ModuleList(
        _compiled(network, model.normalised(spectrogram, place), reduced=reduced)
        for place, network in enumerate(networks)
    )
    return found


def _openvino() -> Any:
    """OpenVINO, imported without the package by which it would send usage data."""
    if "openvino" not in sys.modules and _TELEMETRY not in sys.modules:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
        try:
            return importlib.import_module("openvino")
        finally:
            del sys.modules[_TELEMETRY]
    return importlib.import_module("openvino")


@cache
def _core() -> Any:
    """OpenVINO's core, one for the life of the process.

    It gives the thread in which it loads its CPU code a stack for signals, and frees that with itself, in whichever
    thread that is: the next signal, such as Ctrl-C's, would then end the process.
    """
    return _openvino().Core()


class CompiledNetwork(nn.Module):
    """A network by OpenVINO, without gradients: spectrograms (batch, channels, bands, frames) to logits.

    A call takes as many threads as `torch.get_num_threads` says; calls by several threads with one each run side by
    side.
    """

    def __init__(self, network: nn.Module, spectrogram: Tensor, *, reduced: bool = False) -> None:
        super().__init__()
        self._graph = _graph(network, spectrogram)
        precision = "bf16" if reduced and bfloat16_pays() else "f32"
        self._settings = {"INFERENCE_PRECISION_HINT": precision, "ENABLE_CPU_PINNING": False}
        self._by_threads: dict[int, Any] = {}
        self._compiling = threading.Lock()
        self._requests = threading.local()

    def forward(self, spectrograms: Tensor) -> Tensor:
        """Logits (batch, classes) float32."""
        return self.logits_and_features(spectrograms)[0]

    def logits_and_features(self, spectrograms: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and the features (batch, channels) behind them; without columns where the network names none."""
        values = np.ascontiguousarray(spectrograms.numpy(), dtype=np.float32)
        request = self._request(torch.get_num_threads())
        parts = []
        for start in range(0, len(values), CHUNK):
            request.infer([values[start : start + CHUNK]], share_inputs=True)
            parts.append([request.get_output_tensor(place).data.copy() for place in range(2)])
        logits, features = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))
        return logits, features

    def _request(self, threads: int) -> Any:
        """The calling thread's request for so many threads."""
        mine: dict[Any, Any] = self._requests.__dict__
        if threads not in mine:
            with self._compiling:
                if threads not in self._by_threads:
                    # A stream computes for one caller at a time: of callers with one thread there may be one a core.
                    streams = (os.cpu_count() or 1) if threads == 1 else 1
                    counts = {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": streams * threads}
                    settings = self._settings | counts
                    self._by_threads[threads] = _core().compile_model(self._graph, "CPU", settings)
            mine[threads] = self._by_threads[threads].create_infer_request()
        return mine[threads]


class _Both(nn.Module):
    """Logits and features of a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, spectrograms: Tensor) -> tuple[Tensor, Tensor]:
        if has_features(self.network):
            return logits_and_features(self.network, spectrograms)
        logits = self.network(spectrograms)
        return logits, logits[:, :0]


def _graph(network: nn.Module, spectrogram: Tensor) -> Any:
    """OpenVINO's graph of a network, for any number of spectrograms of this shape."""
    runtime = _openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of every check of a shape
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            _Both(network), spectrogram.clone(), check_trace=False
        )
        reader, decoder = FrontEndManager().load_by_framework("pytorch"), TorchScriptPythonDecoder(traced)
        graph = reader.convert(reader.load(decoder))  # the decoder must live until then
    graph.reshape({graph.inputs[0]: runtime.PartialShape([-1, *spectrogram.shape[1:]])})
    return graph


def _compiled(network: nn.Module, spectrogram: Tensor, *, reduced: bool) -> nn.Module:
    with torch.inference_mode():
        wanted = network(spectrogram)
    if not bool(torch.isfinite(wanted).all()):  # compiled, it may hide that
        return folded(network, spectrogram=spectrogram)
    from openvino import frontend as fe

    failures = [fe.GeneralFailure, fe.InitializationFailure, fe.NotImplementedFailure]
    failures += [fe.OpConversionFailure, fe.OpValidationFailure]
    try:
        found = CompiledNetwork(network, spectrogram, reduced=reduced)
        got = found(spectrogram)
    except (RuntimeError, *failures) as error:  # such as an operation that OpenVINO does not know
        _log.info("OpenVINO cannot compile this network, which PyTorch computes (%s)", one_line(error))
        return folded(network, spectrogram=spectrogram)
    if not reduced and float((wanted - got).abs().max()) > TOLERANCE * max(1.0, float(wanted.abs().max())):
        return folded(network, spectrogram=spectrogram)
    for name, value in vars(network).items():
        if name.startswith("_earsight"):
            setattr(found, name, value)
    return found
