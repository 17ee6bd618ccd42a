"""Backbones: any timm CNN by its name, or SoundNet8, with a new linear head, split into named stages.

Comes in: a backbone's name and a number of classes. Goes out: a module from spectrograms (batch, channels, bands,
frames) float32 to logits (batch, classes); and the ordered stages of such a module as prefixes of its state keys.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from earsight.errors import ModelError
from earsight.models.timm_import import import_timm
from earsight.models.weights import load_pretrained

# SoundNet8's filters, kernel, stride, and whether the map is halved by pooling afterwards.
_LAYERS = (
    *((16, 7, 1, True), (32, 5, 1, True), (64, 5, 2, False), (128, 3, 2, False)),
    *((256, 3, 1, True), (512, 3, 1, False), (1024, 3, 1, False)),
)


class SoundNet8(nn.Module):
    """An 8-layer CNN with the widths and pooling of SoundNet in two dimensions, and the methods of timm's models.

    For comparing representations without pretrained weights, as Palanisamy et al. 2020 did with such a CNN.
    Spectrograms have at least 8 bands and 16 frames; the head averages over the whole map. SoundNet (Aytar, Vondrick
    and Torralba 2016, arXiv 1610.09001) runs its convolutions over the wave.
    """

    def __init__(self, *, classes: int, dropout: float = 0.0, channels: int = 3) -> None:
        super().__init__()
        self.drop_rate = dropout
        self.num_features = _LAYERS[-1][0]
        self.pretrained_cfg: dict[str, Any] = {"first_conv": "conv1.0", "classifier": "fc"}
        for number, (filters, kernel, stride, pooled) in enumerate(_LAYERS, start=1):
            layer: list[nn.Module] = [
                # Without a bias: the batch normalisation has its own.
                nn.Conv2d(channels, filters, kernel, stride=stride, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(filters),
                nn.ReLU(inplace=True),
            ]
            if pooled:
                layer.append(nn.MaxPool2d(2, ceil_mode=True))
            self.add_module(f"conv{number}", nn.Sequential(*layer))
            channels = filters
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.num_features, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Feature maps (batch, 1024, height, width)."""
        for number in range(1, len(_LAYERS) + 1):
            x = self.get_submodule(f"conv{number}")(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of feature maps, or with ``pre_logits`` the classifier's input (batch, 1024)."""
        x = F.dropout(self.global_pool(x).flatten(1), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of spectrograms (batch, channels, bands, frames)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.fc

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns of state keys, as of timm's models: conv1 is the stem, each later layer a stage."""
        return {"stem": r"^conv1\.", "blocks": r"^conv(\d)\."}


OWN = {"soundnet8": SoundNet8}
"""Backbones that timm does not have; each takes classes, dropout and channels."""


def build(
    name: str,
    *,
    classes: int,
    weights: str = "imagenet",
    dropout: float = 0.0,
    seed: int = 0,
    channels: int = 3,
    zero_init_last: bool = True,
) -> nn.Module:
    """Make a backbone with a new linear head, in training mode, on the CPU, float32.

    ``name`` is timm's, such as ``tf_efficientnet_lite0`` or ``densenet201.tv_in1k``, or one of `OWN`. ``classes``, at
    least 1, are the outputs of the head, which is new even if a checkpoint has one of the same size; ``dropout``, 0 to
    1, is the rate before it. ``weights`` are ``imagenet``, ``none`` (random), or the path of a checkpoint; see
    `earsight.models.weights.load_pretrained`. ``seed`` is of every random weight: the head's, and with ``none`` all;
    the global generators end unchanged. ``channels`` are those of the spectrograms; a pretrained first convolution is
    summed or repeated to fit.

    ``zero_init_last`` says whether residual blocks start with the scale of their last batch norm at 0, as timm's do, or
    with 1, as those of torchvision and of the paper's released code; only timm's ResNets and their kin have the choice.

    ModelError if timm has no such model (the nearest name is suggested), it takes spectrograms of one size only, the
    weights are not available, or ``zero_init_last`` is False and it has no such batch norms.
    """
    _check(name, classes=classes)
    with torch.random.fork_rng(devices=[]):
        # Only the CPU's generator: torch.manual_seed would seed those of GPUs too.
        torch.default_generator.manual_seed(seed)
        model = _create(name, classes=classes, dropout=dropout, channels=channels)
        if not zero_init_last:
            _start_at_one(model, name)
        head = getattr(model, "get_classifier", lambda: None)()
        if isinstance(head, nn.Linear):
            # timm scales some heads (EfficientNet's) by their outputs; with ten classes the first loss would be 5.
            head.reset_parameters()
    if weights != "none":
        load_pretrained(model, name, weights)
    return model


def build_empty(name: str, *, classes: int, dropout: float = 0.0, channels: int = 3, device: str = "meta") -> nn.Module:
    """Make the architecture that `build` gives without initial weights, for ``load_state_dict(assign=True)``.

    On the ``meta`` device it takes no memory, but buffers outside its state dict have no values; on ``cpu`` they have.
    ModelError as `build` raises it for ``name`` and ``classes``.
    """
    _check(name, classes=classes)
    with torch.random.fork_rng(devices=[]), torch.device(device), _Undrawn():
        return _create(name, classes=classes, dropout=dropout, channels=channels)


class _Undrawn(TorchFunctionMode):
    """Weights are not drawn, for others take their place; to draw on ``meta`` torch would load its compiler (1.2 s)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_) or getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def stages(model: nn.Module) -> dict[str, list[str]]:
    """The model's stages from input to output: name -> the prefixes of the state keys that belong to it.

    The groups are those of timm's ``group_matcher(coarse=True)``, in its order: the first is ``stem``, the last, with
    the classifier, ``head``, those between ``block1``, ``block2``, ... Every parameter and buffer belongs to exactly
    one stage (see `belongs`). Keys that the matcher does not name belong to ``head``. ModelError if timm does not say
    how this model is grouped.

    The prefixes are module names or, where a module is shared between stages, parameter names; in the model's order.
    For DenseNet the stages are the paper's: ``blockN`` is a dense block and the transition after it, and the norm after
    the last block (``features.norm5``) goes with the head. EfficientNet's last 1 x 1 convolution goes with its last
    block, MobileNetV3's with the head, as timm groups them.
    """
    from timm.models._manipulate import group_with_matcher

    title = type(model).__name__
    if not hasattr(model, "group_matcher"):
        raise ModelError(f"{title}: has no group_matcher, so its stages are unknown; choose a CNN of timm's")
    matcher: Any = model.group_matcher
    keys = list(model.state_dict())
    groups: dict[int, list[str]] = group_with_matcher(((key, key) for key in keys), matcher(coarse=True))
    if len(groups) < 2:
        raise ModelError(f"{title}: timm puts all of it into {len(groups)} group; choose a CNN that has stages")
    names = ["stem", *(f"block{number}" for number in range(1, len(groups) - 1)), "head"]
    stage_of = {key: names[group] for group, members in groups.items() for key in members}
    out: dict[str, list[str]] = {name: [] for name in names}
    for key in keys:
        prefixes = out[stage_of[key]]
        if not belongs(key, prefixes):
            prefixes.append(_widest_prefix(key, stage_of))
    return out


def belongs(key: str, prefixes: Iterable[str]) -> bool:
    """Whether a parameter, buffer or module name lies under one of a stage's prefixes."""
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _widest_prefix(key: str, stage_of: dict[str, str]) -> str:
    """The shortest dotted prefix of ``key`` under which every key has the same stage."""
    parts = key.split(".")
    for length in range(1, len(parts)):
        prefix = ".".join(parts[:length])
        if {stage for other, stage in stage_of.items() if belongs(other, [prefix])} == {stage_of[key]}:
            return prefix
    return key


def _create(name: str, *, classes: int, dropout: float, channels: int) -> nn.Module:
    if name in OWN:
        return OWN[name](classes=classes, dropout=dropout, channels=channels)
    timm = import_timm()
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=classes, in_chans=channels, drop_rate=dropout
        )
    except (TypeError, RuntimeError) as error:
        raise ModelError(f"backbone {name}: cannot be built with a head, dropout and channels ({error})") from error
    return model


def _start_at_one(model: nn.Module, name: str) -> None:
    """Set the scale of each residual block's last batch norm, which timm starts at 0, to 1; nothing is drawn."""
    norms = [norm for norm in model.modules() if isinstance(norm, nn.BatchNorm2d) and norm.affine]
    started = [norm for norm in norms if not norm.weight.detach().any()]
    if not started:
        raise ModelError(
            f"backbone {name}: timm starts none of its batch norms at 0, so backbone.zero_init_last=false has no "
            "meaning; leave it out, or choose a ResNet"
        )
    for norm in started:
        nn.init.ones_(norm.weight)


def _check(name: str, *, classes: int) -> None:
    if classes < 1:
        raise ModelError(f"backbone {name}: asked for {classes} classes; expected at least 1")
    if name in OWN:
        return
    timm = import_timm()
    known = timm.is_model(name) and ":" not in name
    try:
        config = timm.get_pretrained_cfg(name) if known else None
    except RuntimeError as error:  # a tag that timm does not have
        tags = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*")) or "none"
        raise ModelError(f"backbone {name}: timm has no such weights of it; those it has: {tags}") from error
    if not known:
        near = difflib.get_close_matches(name, [*OWN, *timm.list_models()], n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else "timm.list_models() shows the names"
        raise ModelError(f"backbone {repr(name[:80])[1:-1]}: timm has no such model; {hint}")
    if config is not None and config.fixed_input_size:
        size = " x ".join(str(side) for side in config.input_size[1:])
        raise ModelError(
            f"backbone {name}: takes spectrograms of {size} alone; "
            "choose a CNN, such as tf_efficientnet_lite0 or resnet50"
        )
