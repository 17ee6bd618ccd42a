"""The model file: ONE safetensors file = weights + features + normalisation + labels + calibration.

Comes in: a state dict and a `ModelCard`. Goes out: a file, and from it the same card and an ``eval`` module on the CPU,
bit for bit. Loading runs no code from the file. The tensors are the state dict's under ``model.`` (of an ensemble,
`earsight.models.ensemble.Ensemble`'s), and the N-th network's Mahalanobis statistics under ``reference.N.``; the
metadata is one JSON text under ``earsight``: ``{"format_version", "tensors_sha256", "card_sha256", "card", "probe"}``.

``probe``: the logits (classes,) of the synthetic sound `probe_wave`, with which a machine's own logits are compared
(null if the weights fit no network; absent in older files).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from earsight.errors import EarsightError, ModelError, counted, remedy_of, shown
from earsight.features.spectrogram import Spectrogram
from earsight.files import replace_bytes
from earsight.models.card import ModelCard, card_of, check_budget, described
from earsight.models.ensemble import Ensemble, Member
from earsight.models.mahalanobis import MahalanobisStatistics, attach_statistics, statistics_from_tensors
from earsight.models.stages import empty_model
from earsight.models.weights import damaged, file_kind, one_line, read_header, read_safetensors
from earsight.recipe import Features

FORMAT_VERSION = 1
_KEY = "earsight"
_PREFIX = "model."
_STATISTICS = "reference."
_FEW_CELLS = 400_000  # of all spectrograms: the largest of timm's networks stay within the seconds of the budget
TOLERANCE = 0.01
"""Allowed error of the probe's logits, as a share of the difference between the highest and the lowest."""


def save(
    path: str | Path,
    *,
    state: Mapping[str, Tensor],
    card: ModelCard,
    statistics: Sequence[MahalanobisStatistics | None] = (),
) -> None:
    """Write a model file whole or not at all; the same state and card give the same bytes.

    ``state`` is the module's ``state_dict()``, on any device; ``statistics`` are the network's, or each ensemble
    member's, as `earsight.models.mahalanobis.statistics_of` gives them. ModelError if a weight is NaN or infinite, the
    card holds something other than JSON values, or the file cannot be written.
    """
    from safetensors.torch import save as serialized

    path = Path(path)
    tensors = {_PREFIX + key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    for place, one in enumerate(statistics):
        parts = one.tensors() if one else {}
        tensors |= {f"{_STATISTICS}{place}.{key}": value.contiguous().clone() for key, value in parts.items()}
    _check_finite(tensors, where=str(path))
    try:
        text = _canonical(described(card))
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: the model card does not go into JSON ({one_line(error)})") from error
    content = {
        "format_version": FORMAT_VERSION,
        "tensors_sha256": _digest(tensors),
        "card_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "card": json.loads(text),
        "probe": _probe(card, tensors),
    }
    write_whole(path, serialized(tensors, metadata={_KEY: _canonical(content)}))


def load_card(path: str | Path) -> ModelCard:
    """Read a model file's card without its weights.

    ModelError if the file is missing, is not a whole model file of this version, or its card is damaged.
    """
    return _card(Path(path))[0]


def weights_digest(path: str | Path) -> str:
    """The SHA-256 of a model file's weights, which no calibration changes; ModelError as `load_card` does."""
    return _card(Path(path))[1]


def load(path: str | Path) -> tuple[ModelCard, nn.Module]:
    """Read a model file: its card, and the module in eval mode, on the CPU, bit for bit as saved.

    Its networks carry the Mahalanobis statistics that the file has (`earsight.models.mahalanobis.statistics_of`). Its
    card asks for what `earsight.models.card.BUDGET` allows of memory and seconds; networks are compared with the
    weights on the ``meta`` device, member by member, before any is built. ModelError as `load_card` raises it; and if
    the card asks for too much, or the weights are damaged, NaN, or do not fit the backbone that the card names.
    """
    path = Path(path)
    card, tensors_sha256 = _card(path)
    try:
        check_budget(card)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    tensors = read_safetensors(path)
    if _digest(tensors) != tensors_sha256:
        raise damaged(path, "its weights are not those that were saved")
    if len(tensors) < len(card.members):
        raise damaged(path, f"it has {len(tensors)} weights for {counted(len(card.members), 'member')}")
    if len(card.mean) != len(card.recipe.features.windows_ms):
        raise damaged(path, f"it normalises {len(card.mean)} windows and has {len(card.recipe.features.windows_ms)}")
    found = {key: tensors.pop(key) for key in list(tensors) if key.startswith(_STATISTICS)}
    try:
        networks, wrong = _compared(card, tensors)
    except EarsightError as error:
        raise ModelError(f"{path}: its card asks for a network that cannot be made ({error})") from error
    if wrong:
        name = f"an ensemble of {len(card.members)}" if card.members else card.recipe.backbone.name
        first = [shown(key)[1:-1] for key in wrong[:3]]
        raise ModelError(
            f"{path}: {len(wrong)} of its weights do not fit {name} with {len(card.classes)} classes "
            f"({', '.join(first)}); it was saved from another model or by another timm: train it again"
        )
    cells = card.recipe.features.bands * card.recipe.features.columns
    if cells * len(networks) > _FEW_CELLS:
        try:
            check_budget(card, products=_products(card, networks))
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
    model = _filled(card, networks, tensors)
    _attach_all(path, model, found, classes=len(card.classes))
    _check_finite(tensors | found, where=str(path))
    return card, model


def load_probe(path: str | Path) -> NDArray[np.float32] | None:
    """The network's logits of the probe when the file was written, (classes,) float32; None in older files.

    ModelError as `load_card` raises it; and if what is stored are no logits.
    """
    path = Path(path)
    card = load_card(path)
    found = json.loads(read_header(path)["__metadata__"][_KEY]).get("probe")
    if found is None:
        return None
    numbers = [value for value in found if type(value) in (int, float)] if isinstance(found, list) else []
    if len(numbers) != len(card.classes) or not all(abs(value) < 1e30 for value in numbers):
        raise damaged(path, "its answer to the probe cannot be read")
    return np.array(numbers, dtype=np.float32)


def probe_wave(features: Features) -> NDArray[np.float32]:
    """The probe: a rising chirp over noise with clicks, (samples,) float32 at the rate of resolved features.

    It uses only basic arithmetic, so that its samples are the same on every machine.
    """
    rate, samples = features.rate, features.samples
    seconds = np.arange(samples) / rate
    low, high = 0.005 * rate, 0.45 * rate
    share = seconds * rate / samples
    # The phase is the integral of a frequency that rises evenly in octaves.
    phase = 2 * np.pi * low * (samples / rate) * ((high / low) ** share - 1) / np.log(high / low)
    wave: NDArray[np.float64] = 0.3 * np.sin(phase) * np.sin(np.pi * share) ** 2 + 0.02 * _noise(samples)
    wave[:: max(1, rate // 4)] += 0.5
    return wave.astype(np.float32)


def distance(found: NDArray[np.float32], stored: NDArray[np.float32]) -> float:
    """The largest difference of two vectors of logits, as a share of the second's spread; infinite if not finite."""
    if not (np.isfinite(found).all() and np.isfinite(stored).all()):
        return float("inf")
    spread = max(float(stored.max() - stored.min()), 1e-3)
    return float(np.abs(found - stored).max()) / spread


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file by a whole new one, on the disk, or leave all as it was; ModelError if it cannot be written."""
    try:
        replace_bytes(path, data, sync=True)
    except (OSError, ValueError) as error:
        remedy = f"{remedy_of(error)} or " if isinstance(error, OSError) else ""
        raise ModelError(f"{path}: cannot be written ({one_line(error)}); {remedy}choose another path") from error


def _probe_logits(card: ModelCard, model: nn.Module) -> NDArray[np.float32]:
    """The probe's logits (classes,) float32 of a network on the CPU, which is left in eval mode."""
    front_end = Spectrogram(card.recipe.features)
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (card.mean, card.std))
    with torch.inference_mode():
        spectrograms = front_end.spectrograms(torch.from_numpy(probe_wave(card.recipe.features))[None])[:, 0]
        scores = model.eval()(((spectrograms - mean) / std).expand(-1, 3, -1, -1))
    return np.asarray(scores[0].float().numpy())


def _noise(samples: int) -> NDArray[np.float64]:
    """White noise from -1 to 1 by the mixing steps of MurmurHash3: numpy's own streams may change with its version."""
    state = np.arange(1, samples + 1, dtype=np.uint64)
    keep = np.uint64((1 << 32) - 1)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor) & keep
    mixed: NDArray[np.uint64] = state ^ (state >> np.uint64(16))
    return mixed.astype(np.float64) / float(1 << 31) - 1.0


def _probe(card: ModelCard, tensors: Mapping[str, Tensor]) -> list[float] | None:
    """The probe's logits for the file; None if the weights do not fit the card, or overflow."""
    weights = {key: value for key, value in tensors.items() if key.startswith(_PREFIX)}
    networks, wrong = _compared(card, weights)
    if wrong:
        return None
    # Plain strides: weights with axes of size 1 may have others, which lead to other bits.
    plain = {key: value.flatten().view(value.shape) for key, value in weights.items()}
    logits = _probe_logits(card, _filled(card, networks, plain))
    return [round(float(value), 5) for value in logits] if np.isfinite(logits).all() else None


def _compared(card: ModelCard, tensors: Mapping[str, Tensor]) -> tuple[list[nn.Module], list[str]]:
    """A card's networks on the ``meta`` device, and the tensors that they lack or have in another shape or type.

    The first network that does not fit is the last that is made. Tensors of no network are named too.
    """
    left = {key: (value.shape, value.dtype) for key, value in tensors.items()}
    networks: list[nn.Module] = []
    for place, one in enumerate(card.members or (card,)):
        prefix = f"{_PREFIX}networks.{place}." if card.members else _PREFIX
        # Always three channels: a spectrogram of one window is copied to three.
        networks.append(empty_model(one.recipe, classes=len(one.classes)))
        wanted = {prefix + key: (value.shape, value.dtype) for key, value in networks[-1].state_dict().items()}
        wrong = [key for key, kind in wanted.items() if left.pop(key, None) != kind]
        if wrong:
            return networks, sorted(wrong + [key for key in left if key.startswith(prefix)])
    return networks, sorted(left)


def _products(card: ModelCard, networks: Sequence[nn.Module]) -> float:
    """Multiplications of one pass through a card's networks, which are on the ``meta`` device."""
    from torch.utils.flop_counter import FlopCounterMode

    features = card.recipe.features
    spectrogram = torch.zeros(1, 3, features.bands, features.columns, device="meta")
    found: dict[tuple[str, str], float] = {}
    kinds = [(one.recipe.backbone.name, one.recipe.transfer.cut) for one in card.members or (card,)]
    for kind, network in zip(kinds, networks, strict=True):
        if kind not in found:
            try:
                with FlopCounterMode(display=False) as counter, torch.inference_mode():
                    network.eval()(spectrogram)
            except (RuntimeError, AssertionError, NotImplementedError) as error:
                size = f"{features.bands} x {features.columns}"
                raise ModelError(f"{kind[0]} cannot be run on spectrograms of {size} ({one_line(error)})") from error
            found[kind] = counter.get_total_flops() / 2  # each is a product and a sum
    return sum(found[kind] for kind in kinds)


def _filled(card: ModelCard, networks: Sequence[nn.Module], tensors: Mapping[str, Tensor]) -> nn.Module:
    """The module that a card describes, in eval mode, of networks that `_compared` let pass and their tensors."""
    model = networks[0]
    if card.members:
        pairs = zip(networks, card.members, card.weights, strict=True)
        model = Ensemble(
            [Member(network, one.mean, one.std, one.scale, weight) for network, one, weight in pairs],
            several=card.several,
        )
    model.load_state_dict({key.removeprefix(_PREFIX): value for key, value in tensors.items()}, assign=True)
    if any(buffer.is_meta for buffer in model.buffers()):  # some are not in the state dict, but computed from sizes
        cards = card.members or (card,)
        whole = [empty_model(one.recipe, classes=len(one.classes), device="cpu") for one in cards]
        return _filled(card, whole, tensors)
    return model.eval()


def _attach_all(path: Path, model: nn.Module, found: Mapping[str, Tensor], *, classes: int) -> None:
    """Give each network its Mahalanobis statistics; ``found`` holds those of all by their keys in the file."""
    networks = list(model.networks) if isinstance(model, Ensemble) else [model]
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in found.items():
        place, _, part = key.removeprefix(_STATISTICS).partition(".")
        parts.setdefault(place, {})[part] = value
    if not set(parts) <= {str(place) for place in range(len(networks))}:
        raise damaged(path, f"it has Mahalanobis statistics for {len(parts)} networks and {len(networks)} networks")
    for place, tensors in parts.items():
        try:
            attach_statistics(networks[int(place)], statistics_from_tensors(tensors, classes=classes))
        except ModelError as error:
            raise damaged(path, f"it has {error}") from error


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
        card = card_of(tree)
        tensors_sha256 = str(content["tensors_sha256"])
    # pydantic's ValidationError is a ValueError.
    except (EarsightError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
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
