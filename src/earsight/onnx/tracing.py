"""A model as one ONNX file: waves in, probabilities out, the front end inside.

Comes in: the `Graphs` of `earsight.onnx.tracing`. Goes out: by `joined`, an ONNX model with

- input ``waves`` (batch, samples) float32, mono at the model's rate; batch and samples are free, from 1 on. A wave is
  cut at the model's clip length, or padded with zeros at its end, as `earsight.data.audio.fit` does;
- outputs ``probabilities`` (batch, classes) float32 at the calibrated temperature, ``logits`` (batch, classes) float32
  without it, and of a model that was calibrated to say unknown ``novelty`` (batch,) float64;
- metadata: ``earsight_version``, ``classes``, ``sample_rate_hz``, ``clip_seconds``, ``unknown_above`` (where there is a
  novelty: above it a sound is unknown) and ``card``, all JSON texts.

`quantised` turns the network alone into int8; the front end stays as exact as it is. Needs the extra ``onnx``.

A model traced into ONNX: three graphs that follow one another.

Comes in: a model card and its network. Goes out: `Graphs`, each an ``onnx.ModelProto`` of opset 18 whose batch is free:

- ``front_end``: waves (batch, samples) float32 of any length from 1 on, cut or padded with zeros to the clip as
  `earsight.data.audio.fit` does, to raw spectrograms (batch, 3, bands, frames). It is the model's own `Spectrogram` with
  its FFTs as matrix products (`earsight.onnx.dft`);
- ``network``: raw spectrograms to logits (batch, classes), and to the features that a distance is measured on;
- ``answers``: those to probabilities (batch, classes) at the calibrated temperature, and where the model was calibrated
  to say unknown to the novelty (batch,) float64.

Needs the extra ``onnx``.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from earsight.errors import ModelError
from earsight.features.spectrogram import Spectrogram
from earsight.models.card import ModelCard, described
from earsight.models.ensemble import Ensemble
from earsight.models.mahalanobis import Reference, references_of, seen_by
from earsight.models.weights import one_line
from earsight.onnx.dft import in_products

OPSET = 18
"""ONNX Runtime has run it since 1.14."""
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
_FOLDED_BYTES = 1024  # the exporter computes no larger constants in advance: the runtime does, and the file stays small
_BATCH = {0: "batch"}


class Graphs(NamedTuple):
    """ONNX models that follow one another: waves to spectrograms, to logits and features, to probabilities and novelty."""

    front_end: Any
    network: Any
    answers: Any


def check_installed() -> None:
    """Refuse to go on without the packages of the extra.

    Raises
    ------
    ModelError
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(f"export to ONNX needs {', '.join(missing)}: python -m pip install 'earsight[onnx]'")


def graphs_of(card: ModelCard, network: nn.Module) -> Graphs:
    """Trace a model into ONNX.

    Parameters
    ----------
    card : ModelCard
    network : nn.Module
        As `earsight.models.modelfile.load` gives it, on the CPU.

    Raises
    ------
    ModelError
        If the packages are missing, or the network does something that ONNX has no operator for.
    """
    check_installed()
    front_end = _FittedFrontEnd(Spectrogram(card.recipe.features))
    waves = torch.zeros(2, front_end.samples // 2)
    traced = _graph(front_end, (waves,), ({0: "batch", 1: "samples"},), inputs=["waves"], outputs=["spectrograms"])
    return Graphs(traced, *_graphs_behind(card, network))


def _graphs_behind(card: ModelCard, network: nn.Module) -> tuple[Any, Any]:
    """The graphs that follow the front end's."""
    features = card.recipe.features
    told, answers = _Network(card, network).eval(), _Answers(card, network)
    spectrograms = torch.zeros(2, 3, features.bands, features.columns)
    with torch.no_grad():
        logits, *seen = told(spectrograms)
    names = ["logits", *(f"features{place}" for place in range(len(seen)))]
    outputs = ["probabilities", "novelty"] if answers.score else ["probabilities"]
    return (
        _graph(told, (spectrograms,), (_BATCH,), inputs=["spectrograms"], outputs=names, folded=True),
        _graph(answers, (logits, seen), (_BATCH, [_BATCH] * len(seen)), inputs=names, outputs=outputs),
    )


@contextmanager
def hushed() -> Iterator[None]:
    """Without what exporter and quantiser warn their own developers of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _FittedFrontEnd(nn.Module):
    """Waves of any length to raw spectrograms."""

    def __init__(self, front_end: Spectrogram) -> None:
        super().__init__()
        self.samples = front_end.features.samples
        self.front_end = in_products(front_end)

    def forward(self, waves: Tensor) -> Tensor:
        spectrograms: Tensor = self.front_end(F.pad(waves, (0, self.samples))[:, : self.samples])
        return spectrograms


class _Network(nn.Module):
    """Raw spectrograms to logits, and where the novelty is a distance to the features that it is measured on."""

    def __init__(self, card: ModelCard, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.measured = _score(card) == "distance"
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(card, name), dtype=torch.float32)[:, None, None])

    def forward(self, spectrograms: Tensor) -> tuple[Tensor, ...]:
        network = self.network
        if not isinstance(network, Ensemble):
            spectrograms = (spectrograms - self.get_buffer("mean")) / self.get_buffer("std")
            if not self.measured:
                return (network(spectrograms).float(),)
            logits, seen = seen_by(network, spectrograms)
            return logits.float(), seen.float()
        if not self.measured:
            return (network(spectrograms),)
        found = [
            seen_by(member, network.normalised(spectrograms, place)) for place, member in enumerate(network.networks)
        ]
        features = tuple(seen.float() for _, seen in found)
        return network.combined([logits for logits, _ in found]), *features


class _Answers(nn.Module):
    """Logits and features to probabilities and, where the model is calibrated so, the novelty."""

    def __init__(self, card: ModelCard, network: nn.Module) -> None:
        super().__init__()
        self.temperature, self.score = card.temperature, _score(card)
        self.shares = card.weights or (1.0,)
        self.references: tuple[Reference | None, ...] = references_of(network)

    def forward(self, logits: Tensor, features: list[Tensor]) -> tuple[Tensor, ...]:
        exact = logits.double() / self.temperature
        probabilities = torch.softmax(exact, dim=1)
        shown = probabilities.float()
        if not self.score:
            return (shown,)
        if self.score == "doubt":
            return shown, 1 - probabilities.amax(dim=1)
        if self.score == "energy":
            return shown, -torch.logsumexp(logits.double(), dim=1)
        parts = zip(self.references, features, self.shares, strict=True)
        return shown, sum(share * one.distances(seen) for one, seen, share in parts if one)  # type: ignore[return-value]


def _score(card: ModelCard) -> str:
    """The name of the score that the model's novelty is; empty where it has none."""
    return str((card.calibration.get("unknown") or {}).get("score", ""))


def _graph(
    module: nn.Module, arguments: Any, free: Any, *, inputs: list[str], outputs: list[str], folded: bool = False
) -> Any:
    """One module as ONNX; ``free``: which dimensions of its inputs are; ``folded``: norms go into convolutions."""
    import onnxscript.optimizer

    try:
        with hushed(), torch.no_grad():
            program: Any = torch.onnx.export(
                module.eval(),
                arguments,
                dynamo=True,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=free,
                optimize=folded,
                verbose=False,
            )
            if not folded:
                onnxscript.optimizer.optimize(
                    program.model, input_size_limit=_FOLDED_BYTES, output_size_limit=_FOLDED_BYTES
                )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ModelError(
            f"the {type(module).__name__.strip('_').lower()} does not go into ONNX ({one_line(_root(error))}); "
            "choose another backbone, or serve the model file itself"
        ) from error
    return bare(program.model_proto)


def _root(error: BaseException) -> Exception:
    """What an exporter's error says last and meant first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error if isinstance(error, Exception) else RuntimeError(str(error))


def bare(model: Any) -> Any:
    """The model without the exporter's notes, which name files of this machine."""
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.initializer):
        del value.metadata_props[:]
    for node in model.graph.node:
        node.ClearField("doc_string")
    return model


# What has int8 kernels in ONNX Runtime on a CPU; all else of a network stays float32.
_QUANTISED = (
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "Concat", "Sigmoid"),
    *("MaxPool", "AveragePool", "GlobalAveragePool"),
)


def joined(graphs: Graphs, card: ModelCard, *, version: str) -> Any:
    """The graphs as one ONNX model, with what a user must know of it in its metadata."""
    import onnx
    from onnx import compose

    parts = [
        compose.add_prefix(part, f"{name}/", rename_inputs=False, rename_outputs=False)
        for name, part in zip(Graphs._fields, graphs, strict=True)
    ]
    for part in parts:
        part.ir_version = min(part.ir_version for part in parts)
    whole = compose.merge_models(parts[0], parts[1], io_map=[("spectrograms", "spectrograms")])
    passed = [value.name for value in parts[2].graph.input]
    wanted = ["probabilities", "logits", *(value.name for value in parts[2].graph.output[1:])]
    # The merge takes away what it connects; the logits are an output too.
    logits = next(value for value in whole.graph.output if value.name == "logits")
    whole = compose.merge_models(whole, parts[2], io_map=[(name, name) for name in passed])
    found = {value.name: value for value in [*whole.graph.output, logits]}
    del whole.graph.output[:]
    whole.graph.output.extend([found[name] for name in wanted])
    for value in whole.graph.output:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"  # the tracer counts a name up for each graph
    domains = {one.domain: one.version for one in whole.opset_import}  # the merge repeats them
    del whole.opset_import[:]
    whole.opset_import.extend(onnx.helper.make_opsetid(domain, number) for domain, number in domains.items())
    whole.graph.name = whole.producer_name = "earsight"
    whole.producer_version = version
    features = card.recipe.features
    whole.doc_string = (
        f"waves (batch, samples): mono float32 at {features.rate} Hz, any length; what is beyond "
        f"{float(features.clip_seconds):g} s is cut, what is shorter padded with zeros. probabilities (batch, classes)."
    )
    facts: dict[str, Any] = {
        "earsight_version": version,
        "classes": list(card.classes),
        "sample_rate_hz": features.rate,
        "clip_seconds": float(features.clip_seconds),
        "card": described(card),
    }
    if "novelty" in found:
        facts["unknown_above"] = card.calibration["unknown"]["threshold"]
    onnx.helper.set_model_props(whole, {key: json.dumps(value, sort_keys=True) for key, value in facts.items()})
    return whole


def quantised(graphs: Graphs, spectrograms: Iterable[NDArray[np.float32]]) -> Graphs:
    """The same graphs with a network that computes in int8: QDQ, its weights by channel.

    Parameters
    ----------
    graphs : Graphs
    spectrograms : iterable of ndarray, shape (batch, 3, bands, frames), float32
        What the network sees in use: its ranges are taken from them.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    import onnx

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(spectrograms)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self.left, None)
            return None if batch is None else {"spectrograms": batch}

    with tempfile.TemporaryDirectory() as folder, hushed():
        plain, ready, done = (str(Path(folder) / f"{name}.onnx") for name in ("plain", "ready", "done"))
        onnx.save(graphs.network, plain)
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        quantization.quantize_static(
            ready,
            done,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTISED),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        network = onnx.load(done)
    return graphs._replace(network=bare(network))


def as_bytes(model: Any) -> bytes:
    """What an ONNX file holds.

    Raises
    ------
    ModelError
        If it is beyond the 2 GB that one file can hold.
    """
    try:
        return bytes(model.SerializeToString())
    except Exception as error:  # protobuf's own class differs from version to version
        raise ModelError(
            f"the ONNX model does not go into one file, which holds 2 GB at most ({one_line(error)}); "
            "export a model with fewer members"
        ) from error
