"""A model as one ONNX file: waves in, probabilities out, the front end inside.

Comes in: the `Graphs` of `earsight.models.traced`. Goes out: by `joined`, an ONNX model with

- input ``waves`` (batch, samples) float32, mono at the model's rate; batch and samples are free, from 1 on. A wave is
  cut at the model's clip length, or padded with zeros at its end, as `earsight.data.audio.fit` does;
- outputs ``probabilities`` (batch, classes) float32 at the calibrated temperature, ``logits`` (batch, classes) float32
  without it, and of a model that was calibrated to say unknown ``novelty`` (batch,) float64;
- metadata: ``earsight_version``, ``classes``, ``sample_rate_hz``, ``clip_seconds``, ``unknown_above`` (where there is a
  novelty: above it a sound is unknown) and ``card``, all JSON texts.

`quantised` turns the network alone into int8; the front end stays as exact as it is. Needs the extra ``onnx``.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earsight.errors import ModelError
from earsight.models.card import ModelCard, described
from earsight.models.checkpoints import one_line
from earsight.models.traced import Graphs, bare, hushed

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
    whole = compose.merge_models(parts[0], parts[1], io_map=[("pictures", "pictures")])
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


def quantised(graphs: Graphs, pictures: Iterable[NDArray[np.float32]]) -> Graphs:
    """The same graphs with a network that computes in int8: QDQ, its weights by channel.

    Parameters
    ----------
    graphs : Graphs
    pictures : iterable of ndarray, shape (batch, 3, bands, frames), float32
        What the network sees in use: its ranges are taken from them.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(pictures)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self.left, None)
            return None if batch is None else {"pictures": batch}

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
