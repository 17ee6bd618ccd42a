"""The state of a training run between two epochs, as one safetensors file; no pickle.

Comes in: a model, its optimiser, extra named states (EMA, best epoch) and a JSON-able record. Goes out: the same
tensors to the last bit. A kill leaves the old checkpoint or the new one. Each holds a digest of its content; the last
but one is kept too, and loaded if the newest is damaged.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from earsight.errors import RunError, remedy_of
from earsight.files import link_or_copy, replacing, say_damage, say_once

State = dict[str, Tensor]
_FILES = ("checkpoint.safetensors", "checkpoint.previous.safetensors")


def checkpoints(folder: Path) -> tuple[Path, Path]:
    """Paths of a trial's newest checkpoint and of the one before it, whether they exist or not."""
    return folder / _FILES[0], folder / _FILES[1]


def has_checkpoint(folder: Path) -> bool:
    """Whether there is one."""
    return any(path.is_file() for path in checkpoints(folder))


def save_checkpoint(
    path: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    extra: Mapping[str, State | None],
    record: Mapping[str, Any],
    of: str = "",
) -> None:
    """Write everything that the next epoch needs; where the disk refuses, an earlier checkpoint stays as it was.

    Model and optimiser are kept whole, and further states by name, such as the EMA (None is left out); the record is
    anything that JSON holds; ``of`` names the training. Raises `RunError` if the disk refuses.
    """
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value for name, value in values.items() if value is not None}
    for group, state in extra.items():
        tensors |= {f"extra/{group}/{name}": value for name, value in (state or {}).items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text, before = json.dumps(dict(record)), path.with_name(_FILES[1])
    try:
        with replacing(path) as part:
            save_file(tensors, part, metadata={"record": text, "of": of, "digest": _digest(tensors, text)})
            if path.exists():
                before.unlink(missing_ok=True)
                link_or_copy(path, before)
    except SafetensorError as error:  # safetensors raises this, not OSError, when the disk is full
        number = re.search(r"os error (\d+)", str(error))
        remedy = remedy_of(OSError(int(number[1]) if number else 0, ""))
        raise RunError(
            f"{path}: the checkpoint cannot be written ({' '.join(str(error).split())}); {remedy}. "
            "The last one is intact: the same command resumes from it."
        ) from error


def load_checkpoint(
    path: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer, of: str = ""
) -> tuple[dict[str, State], dict[str, Any]] | None:
    """Load the newest undamaged checkpoint of this training (``of``) into a model and its optimiser.

    Returns the extra states and the record; None where no checkpoint is whole, so that training starts afresh.
    """
    places = [place for place in (path, path.with_name(_FILES[1])) if place.is_file()]
    for place in places:
        found = _load(place, model=model, optimizer=optimizer, of=of)
        if found is not None:
            return found
        then = "begins anew" if place == places[-1] else "goes on from the one before it"
        say_damage(f"{place}: is damaged, or of another model or trial; training {then}")
    return None


def _load(
    path: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer, of: str
) -> tuple[dict[str, State], dict[str, Any]] | None:
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        record = json.loads(about["record"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    if "digest" not in about:
        say_once(f"{path}: was written by an earlier version, without a digest; it cannot be checked")
    elif about["digest"] != _digest(tensors, about["record"]) or about.get("of", of) != of:
        return None
    weights = {name[6:]: value for name, value in tensors.items() if name.startswith("model/")}
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    if {name: value.shape for name, value in weights.items()} != shapes:
        return None  # of another model: checked first, because a failed load would leave the model half loaded
    device = next(model.parameters()).device
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    extra: dict[str, State] = {}
    try:
        for key, value in tensors.items():
            kind, _, rest = key.partition("/")
            group, _, name = rest.partition("/")
            if kind == "optimizer":
                like = parameters[int(group)]  # whose memory layout fused optimisers require
                alike = torch.empty_like(like, dtype=value.dtype).copy_(value) if value.shape == like.shape else value
                states.setdefault(int(group), {})[name] = alike
            elif kind == "extra":
                extra.setdefault(group, {})[name] = value.to(device)
            elif kind != "model":
                return None
    except (ValueError, IndexError):  # without a digest names may have changed
        return None
    for index, state in states.items():  # a state that lacks a value, or has one of another shape, ends a later step
        fit = all(value.ndim == 0 or value.shape == parameters[index].shape for value in state.values())
        if not fit or state.keys() != next(iter(states.values())).keys():
            return None
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    model.load_state_dict(weights)
    return extra, record


def _digest(tensors: Mapping[str, Tensor], record: str) -> str:
    """CRC-32 of the record, and of every tensor's name, dtype, shape and bytes."""
    found = zlib.crc32(record.encode())
    for name in sorted(tensors):
        value = tensors[name]
        found = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}\n".encode(), found)
        found = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"
