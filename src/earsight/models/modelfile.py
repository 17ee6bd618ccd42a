"""The model file: ONE safetensors file = weights + features + normalisation + labels + calibration.

Comes in: a state dict and a `ModelCard`. Goes out: a file, and from it the same card and an ``eval`` module on the CPU,
bit for bit. Loading runs no code from the file. The tensors are the state dict's under ``model.``; the metadata is one
JSON text under ``earsight``: ``{"format_version", "tensors_sha256", "card"}``, where the card carries its own digest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from earsight.errors import ModelError, RecipeError
from earsight.models.backbones import build_empty
from earsight.models.checkpoints import damaged, file_kind, one_line, read_header, read_safetensors
from earsight.recipe import Recipe

FORMAT_VERSION = 1
_KEY = "earsight"
_PREFIX = "model."


@dataclass(frozen=True)
class ModelCard:
    """All that a model needs beside its weights to turn a sound into a label.

    Parameters
    ----------
    classes : tuple of str
        Label of each output, in order.
    recipe : Recipe
        Resolved: no feature field is ``auto``.
    mean, std : tuple of float
        For each picture channel, in the units of its picture: the network sees ``(picture - mean) / std``.
    temperature : float
        Logits are divided by it before the softmax.
    trained_on : dict
        Data set name and digest, fold, seed, earsight version, accuracy: JSON values.
    calibration : dict
        Further calibration figures: JSON values.

    Raises
    ------
    ModelError
        If a value could not serve a prediction.
    """

    classes: tuple[str, ...]
    recipe: Recipe
    mean: tuple[float, ...]
    std: tuple[float, ...]
    temperature: float = 1.0
    trained_on: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.classes or len(set(self.classes)) != len(self.classes) or not all(self.classes):
            raise ModelError(f"model card: {len(self.classes)} classes; expected at least one, all named and different")
        if not self.mean or len(self.mean) != len(self.std) or not all(map(math.isfinite, self.mean + self.std)):
            raise ModelError(f"model card: mean {self.mean} and std {self.std}; expected one finite number per channel")
        if min(self.std) <= 0 or not 0 < self.temperature < math.inf:
            raise ModelError(f"model card: std {self.std}, temperature {self.temperature}; expected numbers above 0")
        try:
            self.recipe.features.rate, self.recipe.features.samples, self.recipe.features.columns  # noqa: B018
        except RecipeError as error:
            raise ModelError(f"model card: the recipe is not resolved ({error})") from error


def save(path: str | Path, *, state: Mapping[str, Tensor], card: ModelCard) -> None:
    """Write a model file whole or not at all; the same state and card give the same bytes.

    Parameters
    ----------
    path : str or Path
        The file to write or replace. Until the new one is whole and on the disk, an old one stays as it was.
    state : mapping of str to Tensor
        The module's ``state_dict()``, on any device.
    card : ModelCard
        What goes with the weights.

    Raises
    ------
    ModelError
        If a weight is NaN or infinite, the card holds something other than JSON values, or the disk refuses.
    """
    from safetensors.torch import save as serialized

    path = Path(path)
    tensors = {_PREFIX + key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    _check_finite(tensors, where=str(path))
    described = {name.name: getattr(card, name.name) for name in dataclasses.fields(card)}
    described["recipe"] = card.recipe.model_dump(mode="json")
    try:
        text = _canonical(described)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: the model card does not go into JSON ({one_line(error)})") from error
    content = {
        "format_version": FORMAT_VERSION,
        "tensors_sha256": _digest(tensors),
        "card_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "card": json.loads(text),
    }
    _write(path, serialized(tensors, metadata={_KEY: _canonical(content)}))


def load_card(path: str | Path) -> ModelCard:
    """Read a model file's card without its weights.

    Raises
    ------
    ModelError
        If the file is missing, is not a whole model file of this version, or its card is damaged.
    """
    return _card(Path(path))[0]


def load(path: str | Path) -> tuple[ModelCard, nn.Module]:
    """Read a model file.

    Returns
    -------
    card : ModelCard
    model : nn.Module
        In eval mode, on the CPU, with the very bits that were saved.

    Raises
    ------
    ModelError
        As `load_card` does; and if the weights are damaged, NaN, or do not fit the backbone that the card names.
    """
    path = Path(path)
    card, tensors_sha256 = _card(path)
    tensors = read_safetensors(path)
    if _digest(tensors) != tensors_sha256:
        raise damaged(path, "its weights are not those that were saved")
    _check_finite(tensors, where=str(path))
    backbone = card.recipe.backbone
    if len(card.mean) != len(card.recipe.features.windows_ms):
        raise damaged(path, f"it normalises {len(card.mean)} windows and has {len(card.recipe.features.windows_ms)}")
    # Always three channels: a picture of one window is copied to three.
    model = build_empty(backbone.name, classes=len(card.classes), dropout=backbone.dropout)
    wanted = {_PREFIX + key: value for key, value in model.state_dict().items()}
    wrong = [
        key
        for key in sorted(wanted.keys() | tensors.keys())
        if key not in wanted
        or key not in tensors
        or (wanted[key].shape, wanted[key].dtype) != (tensors[key].shape, tensors[key].dtype)
    ]
    if wrong:
        raise ModelError(
            f"{path}: {len(wrong)} of its weights do not fit {backbone.name} with {len(card.classes)} classes "
            f"({', '.join(wrong[:3])}); it was saved from another model or by another timm: train it again"
        )
    model.load_state_dict({key.removeprefix(_PREFIX): value for key, value in tensors.items()}, assign=True)
    return card, model.eval()


def _card(path: Path) -> tuple[ModelCard, str]:
    """The card, and the digest that the weights must have."""
    if file_kind(path) == "pickle":
        raise ModelError(f"{path}: is a pickle, which can run code; earsight loads only .safetensors model files")
    metadata = read_header(path).get("__metadata__", {})
    if _KEY not in metadata:
        raise ModelError(
            f"{path}: holds weights only, without labels and features; to start training from it, "
            f"use --set backbone.weights={path}"
        )
    try:
        content = json.loads(metadata[_KEY], parse_constant=_refuse)
        version = content["format_version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise damaged(path, "its metadata cannot be read") from error
    if type(version) is not int or version != FORMAT_VERSION:
        newer = type(version) is int and version > FORMAT_VERSION
        remedy = "upgrade earsight (pip install -U earsight)" if newer else "train the model again"
        raise ModelError(f"{path}: is of format version {version!r}, this earsight reads {FORMAT_VERSION}; {remedy}")
    try:
        tree = content["card"]
        intact = hashlib.sha256(_canonical(tree).encode()).hexdigest() == content["card_sha256"]
        card = ModelCard(
            classes=tuple(str(name) for name in tree["classes"]),
            recipe=Recipe.model_validate(tree["recipe"]),
            mean=tuple(float(value) for value in tree["mean"]),
            std=tuple(float(value) for value in tree["std"]),
            temperature=float(tree["temperature"]),
            trained_on=dict(tree["trained_on"]),
            calibration=dict(tree["calibration"]),
        )
        tensors_sha256 = str(content["tensors_sha256"])
    except (ModelError, ValidationError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise damaged(path, f"its card cannot be read ({one_line(error)})") from error
    if not intact:
        raise damaged(path, "its card is not the one that was saved")
    return card, tensors_sha256


def _canonical(tree: Any) -> str:
    # ASCII, so that labels taken from file names that are not UTF-8 pass through too.
    return json.dumps(tree, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of every tensor's name, dtype, shape and bytes."""
    out = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key]
        out.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        out.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return out.hexdigest()


def _check_finite(tensors: Mapping[str, Tensor], *, where: str) -> None:
    broken = next((key for key, value in tensors.items() if not bool(value.isfinite().all())), None)
    if broken is not None:
        raise ModelError(
            f"{where}: {broken} holds NaN or infinite values, so the training diverged; "
            "train again with a lower training.learning_rate"
        )


def _write(path: Path, data: bytes) -> None:
    """Replace ``path`` by a whole new file, or leave everything as it was."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        if os.name == "posix":  # elsewhere a folder cannot be opened, nor need it be
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be written ({one_line(error)}); free space or choose another path") from error
