"""Reading weights files without running code from them.

Comes in: a path. Goes out: the header or the tensors of a safetensors file, or the state dict of any checkpoint, on the
CPU. safetensors is read as it is, and PyTorch's own format with ``weights_only=True``. What a file is, its first bytes
say, not its name. Every fault of a file is a `ModelError`.
"""

from __future__ import annotations

import argparse
import json
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from earsight.errors import ModelError

_NESTS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")
# How torch.load says that a pickle asks for more than tensors and plain containers.
_WANTS_CODE = (
    "Unsupported global",
    "Unsupported class",
    "Trying to call reduce",
    "Trying to instantiate",
    "Can only build",
)
_MAX_HEADER_BYTES = 100_000_000  # the safetensors format's own limit


def file_kind(path: Path) -> Literal["safetensors", "pickle", "other"]:
    """What a regular file holds, by its first bytes, whatever it is called.

    Raises
    ------
    ModelError
        If there is no such file, or it is a directory, a pipe or a device, empty, or not readable.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ModelError(f"{path}: is a directory; expected a weights file such as model.safetensors")
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path}: is a pipe or a device; expected a regular file such as model.safetensors")
        with path.open("rb") as file:
            head = file.read(9)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelError(f"{path}: no such file; expected a weights file such as model.safetensors") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); check the path and its permissions") from error
    if not head:
        raise ModelError(f"{path}: is empty; copy or train the model again")
    if head[8:9] == b"{":
        return "safetensors"
    # A zip archive (PyTorch since 1.6), or the PROTO opcode of a pickle.
    return "pickle" if head.startswith(b"PK\x03\x04") or (head[0] == 0x80 and head[1:2] <= b"\x05") else "other"


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file: ``__metadata__`` and, for each tensor, dtype, shape and data_offsets."""
    if file_kind(path) != "safetensors":
        raise ModelError(f"{path}: is not a safetensors file, or it is damaged; copy or train the model again")
    with path.open("rb") as file:
        size = path.stat().st_size
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _MAX_HEADER_BYTES):
            raise damaged(path, f"its header claims {length} bytes, the file has {size}")
        text = file.read(length)
    try:
        header = json.loads(text)
        metadata = header.get("__metadata__", {})
        ends = [int(entry["data_offsets"][1]) for key, entry in header.items() if key != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise damaged(path, "its header is not what safetensors writes") from error
    if not isinstance(metadata, dict):
        raise damaged(path, "its metadata is not a table")
    if max(ends, default=0) != size - 8 - length:
        raise damaged(path, f"its header promises {max(ends, default=0)} bytes of weights, it has {size - 8 - length}")
    return dict(header)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU, in memory of their own."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    read_header(path)
    try:
        # Bytes rather than a memory map: a file that is cut short later must not take the process with it.
        return dict(load(path.read_bytes()))
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OverflowError, OSError) as error:
        raise damaged(path, one_line(error)) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint file, unwrapped from its nests and with common prefixes taken off.

    Raises
    ------
    ModelError
        If the file is no readable checkpoint, holds no weights, or is a pickle that would run code.
    """
    kind = file_kind(path)
    if kind == "safetensors":
        # What our model files keep beside the weights, of the clips that trained them, is no weight.
        found = read_safetensors(path)
        ours = any(key.startswith("model.") for key in found)
        tree: Any = {key: value for key, value in found.items() if not (ours and key.startswith("reference."))}
    else:
        try:
            # timm keeps its command line in its training checkpoints; a Namespace holds values and runs nothing.
            with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
                # A newer pickle protocol is warned of; what cannot be read of it is an error below.
                warnings.simplefilter("ignore", UserWarning)
                tree = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged archives raise nearly anything: each becomes the one error a user can mend
            foreign = kind == "pickle" and "Unsupported operand" in str(error)  # as newer pickle protocols name classes
            if foreign or any(words in str(error) for words in _WANTS_CODE):
                raise ModelError(
                    f"{path}: is a pickle that holds more than weights and could run code, so it is not loaded; "
                    "save its state_dict alone (torch.save or safetensors) and give that file"
                ) from error
            raise ModelError(f"{path}: is not a readable checkpoint ({one_line(error)}); copy it again") from error
    for nest in _NESTS:
        if isinstance(tree, Mapping) and isinstance(tree.get(nest), Mapping):
            tree = tree[nest]
    pairs = tree.items() if isinstance(tree, Mapping) else ()
    state = {str(key): value for key, value in pairs if isinstance(value, Tensor)}
    if not state:
        raise ModelError(f"{path}: holds no weights; expected the state_dict of a model")
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), ""):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def damaged(path: Path, reason: str) -> ModelError:
    """The error for a weights file whose bytes are not what they should be."""
    return ModelError(f"{path}: is truncated or damaged: {reason}; copy or train the model again")


def one_line(error: Exception) -> str:
    """The text of an error on one short line, for use inside a message."""
    return " ".join(str(error).split())[:160] or type(error).__name__
