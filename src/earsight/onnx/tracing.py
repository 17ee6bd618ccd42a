"""Trace a model into three ONNX graphs and join them into one file.

Comes in: a model card and its network. Goes out: by `graphs_of` three models of opset 18 with a free batch (the front
end with its FFTs as matrix products, the network, the calibration), and by `joined` one ONNX model with

- input ``waves`` (batch, samples) float32, mono at the model's rate, of any length from 1 on, cut or padded with zeros
  at the end to the clip as `earsight.data.audio.fit` does;
- outputs ``probabilities`` (batch, classes) float32 at the calibrated temperature, ``logits`` (batch, classes) float32
  without it, and of a model with an OOD threshold ``novelty`` (batch,) float64, the OOD score;
- metadata, all JSON texts: ``earsight_version``, ``classes``, ``sample_rate_hz``, ``clip_seconds``, ``windows`` (1: the
  file takes one window of a sound, where `earsight predict` takes long ones whole), ``long_sounds`` (how it does so, in
  words), ``band_hz`` (lowest and highest frequency), ``channel`` (which one was learnt), ``unknown_above`` (the OOD
  threshold), ``several`` (whether classes may sound together: each probability is then by itself), ``thresholds`` (from
  which probability on each class is named), ``card``.

Needs the extra ``onnx``.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earsight.errors import ModelError
from earsight.features.spectrogram import Spectrogram
from earsight.models.card import ModelCard, described
from earsight.models.ensemble import Ensemble
from earsight.models.mahalanobis import MahalanobisStatistics, logits_and_features, statistics_of
from earsight.models.weights import one_line
from earsight.onnx.dft import with_matrix_dft

OPSET = 18
"""ONNX Runtime has run it since 1.14."""
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
_FOLDED_BYTES = 1024  # the exporter computes no larger constants in advance: the runtime does, and the file stays small
_BATCH = {0: "batch"}
_LONG = (
    "A sound that is longer than 1.1 windows is to be cut into windows side by side, the last one moved back so that "
    "it ends with the sound; earsight answers with the mean of their probabilities."
)


class Graphs(NamedTuple):
    """Three ``ModelProto``: waves to raw spectrograms (batch, 3, bands, frames), to logits and features, to outputs."""

    front_end: Any
    network: Any
    answers: Any  # so the file names its nodes


def check_installed() -> None:
    """Raise ModelError where packages of the extra are missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(f"export to ONNX needs {', '.join(missing)}: python -m pip install 'earsight[onnx]'")


def graphs_of(card: ModelCard, network: nn.Module) -> Graphs:
    """Trace a model, as `earsight.models.modelfile.load` gives it; ModelError where ONNX lacks an operator for it."""
    check_installed()
    front_end = _FrontEnd(Spectrogram(card.recipe.features))
    waves = torch.zeros(2, front_end.samples // 2)
    traced = _graph(front_end, (waves,), ({0: "batch", 1: "samples"},), inputs=["waves"], outputs=["spectrograms"])
    return Graphs(traced, *network_graphs(card, network))


def network_graphs(card: ModelCard, network: nn.Module) -> tuple[Any, Any]:
    """The graphs of the network, whose batch norms are folded, and of the calibration."""
    features = card.recipe.features
    whole, calibration = _Network(card, network).eval(), _Calibration(card, network)
    spectrograms = torch.zeros(2, 3, features.bands, features.columns)
    with torch.no_grad():
        logits, *seen = whole(spectrograms)
    names = ["logits", *(f"features{place}" for place in range(len(seen)))]
    outputs = ["probabilities", "novelty"] if calibration.score else ["probabilities"]
    return (
        _graph(whole, (spectrograms,), (_BATCH,), inputs=["spectrograms"], outputs=names, folded=True),
        _graph(calibration, (logits, seen), (_BATCH, [_BATCH] * len(seen)), inputs=names, outputs=outputs),
    )


class _FrontEnd(nn.Module):
    """Waves of any length to raw spectrograms."""

    def __init__(self, front_end: Spectrogram) -> None:
        super().__init__()
        self.samples = front_end.features.samples
        self.front_end = with_matrix_dft(front_end)

    def forward(self, waves: Tensor) -> Tensor:
        spectrograms: Tensor = self.front_end(F.pad(waves, (0, self.samples))[:, : self.samples])
        return spectrograms


class _Network(nn.Module):
    """Raw spectrograms to logits, and where the OOD score is a distance to the features that it is measured on."""

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
            logits, seen = logits_and_features(network, spectrograms)
            return logits.float(), seen.float()
        if not self.measured:
            return (network(spectrograms),)
        found = [
            logits_and_features(member, network.normalised(spectrograms, place))
            for place, member in enumerate(network.networks)
        ]
        features = tuple(seen.float() for _, seen in found)
        return network.combined([logits for logits, _ in found]), *features


class _Calibration(nn.Module):
    """Logits and features to probabilities and, where the model is calibrated so, the OOD score."""

    def __init__(self, card: ModelCard, network: nn.Module) -> None:
        super().__init__()
        self.several, self.score = card.several, _score(card)
        self.register_buffer("scale", torch.tensor(card.scale, dtype=torch.float64))
        self.shares = card.weights or (1.0,)
        self.references: tuple[MahalanobisStatistics | None, ...] = statistics_of(network)

    def forward(self, logits: Tensor, features: list[Tensor]) -> tuple[Tensor, ...]:
        exact = logits.double() / self.get_buffer("scale")
        probabilities = torch.sigmoid(exact) if self.several else torch.softmax(exact, dim=1)
        shown = probabilities.float()
        if not self.score:
            return (shown,)
        if self.score == "doubt":
            return shown, 1 - probabilities.amax(dim=1)
        if self.score == "energy" and self.several:
            raw = logits.double()
            return shown, -(raw.clamp(min=0) + torch.log1p(torch.exp(-raw.abs()))).sum(dim=1)
        if self.score == "energy":
            return shown, -torch.logsumexp(logits.double(), dim=1)
        parts = zip(self.references, features, self.shares, strict=True)
        return shown, sum(share * one.distances(seen) for one, seen, share in parts if one)  # type: ignore[return-value]


def _score(card: ModelCard) -> str:
    """The name of the model's OOD score; empty where it has none."""
    return str((card.calibration.get("unknown") or {}).get("score", ""))


def _graph(
    module: nn.Module, arguments: Any, free: Any, *, inputs: list[str], outputs: list[str], folded: bool = False
) -> Any:
    """One module as ONNX; ``free``: the free dimensions of its inputs; ``folded``: with batch-norm folding."""
    import onnxscript.optimizer

    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # meant for the exporter's own developers
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
            f"the {type(module).__name__.strip('_').lower()} does not go into ONNX ({one_line(_cause(error))}); "
            "choose another backbone, or serve the model file itself"
        ) from error
    return _without_notes(program.model_proto)


def _cause(error: BaseException) -> Exception:
    """The first error of an exporter's chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error if isinstance(error, Exception) else RuntimeError(str(error))


def _without_notes(model: Any) -> Any:
    """The model without the exporter's notes, which name files of this machine."""
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.initializer):
        del value.metadata_props[:]
    for node in model.graph.node:
        node.ClearField("doc_string")
    return model


def joined(graphs: Graphs, card: ModelCard, *, version: str) -> Any:
    """The graphs as one ONNX model, with its description in the metadata."""
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
    # The merge removes the outputs that it connects; the logits must stay an output.
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
        f"waves (batch, samples): one channel ({features.channel}), float32 at {features.rate} Hz, any length; what is "
        f"beyond {float(features.clip_seconds):g} s is cut, what is shorter padded with zeros. "
        f"probabilities (batch, classes) of this one window. {_LONG}"
    )
    facts: dict[str, Any] = {
        **{"earsight_version": version, "classes": list(card.classes), "sample_rate_hz": features.rate},
        **{"clip_seconds": float(features.clip_seconds), "band_hz": list(features.band_hz)},
        **{"channel": features.channel, "windows": 1, "long_sounds": _LONG, "card": described(card)},
    }
    if card.several:
        facts["several"] = True
    if card.thresholds:
        facts["thresholds"] = {name: one["threshold"] for name, one in card.thresholds.items()}
    if "novelty" in found:
        facts["unknown_above"] = card.calibration["unknown"]["threshold"]
    onnx.helper.set_model_props(whole, {key: json.dumps(value, sort_keys=True) for key, value in facts.items()})
    return whole


def as_bytes(model: Any) -> bytes:
    """The bytes of an ONNX file; ModelError beyond the 2 GB that one file can hold."""
    try:
        return bytes(model.SerializeToString())
    except Exception as error:  # protobuf's own class differs from version to version
        raise ModelError(
            f"the ONNX model does not go into one file, which holds 2 GB at most ({one_line(error)}); "
            "export a model with fewer members"
        ) from error
