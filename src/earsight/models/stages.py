"""Stages of a backbone: where each ends; what a trial loads (fuse), does not train (freeze) and removes (cut).

Comes in: a recipe's ``backbone`` and ``transfer`` sections, or a backbone with `earsight.models.backbones.stages`. Goes
out: the network that a trial starts with, from spectrograms (batch, 3, bands, frames) float32 to logits (batch,
classes); and the module that ends each stage. A recipe names the last stage meant, from input to output.

- ``fuse: k``: the stages up to k get ``backbone.weights``, those above keep the random start of the seed.
- ``cut: k``: the stages above k are removed; a new linear head takes the mean of k's feature maps.
- ``freeze: k``: the stages up to k take no gradient. With ``freeze_statistics`` they also stay in eval mode, so that
  their batch norms use and keep the pretrained statistics; without it the statistics follow the new spectrograms.

Modules without weights between two stages (activations, pooling) belong to the stage before them; global pooling
belongs to the head.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from earsight.errors import ModelError, RecipeError, shown
from earsight.models.backbones import belongs, build, build_empty, stages
from earsight.recipe import Backbone, Recipe, Transfer

_SIZE = (3, 128, 256)  # of the spectrogram for a model's trial run, if timm names no size
# Name of a model's attribute: the parts that stay in eval mode, by name, since modules are swapped for faster ones.
_KEPT_EVAL = "_earsight_stays_in_eval"


def starting_model(recipe: Recipe, *, classes: int, seed: int = 0, weights: str | None = None) -> nn.Module:
    """The network that a trial of a recipe starts with, on the CPU, float32; see `training_mode`.

    The recipe's ``backbone`` and ``transfer`` sections count; ``classes`` are the outputs of the head. ``seed`` is of
    every weight that is not pretrained, unless ``backbone.seed`` says; the global generators end unchanged. ``weights``
    replaces ``backbone.weights``, if the same file has another path here.

    ModelError as `earsight.models.backbones.build` raises it, or if the backbone cannot be cut there; RecipeError if
    ``transfer`` names no stage of this backbone, or leaves nothing to train.
    """
    backbone, transfer = recipe.backbone, recipe.transfer
    seed = seed if backbone.seed == "auto" else backbone.seed
    model = _build(backbone, classes=classes, seed=seed, weights=weights or backbone.weights)
    if transfer == Transfer():
        return model
    _check(model, backbone, transfer)
    if transfer.fuse != "all":
        pretrained, model = model, _build(backbone, classes=classes, seed=seed, weights="none")
        fuse(model, pretrained, upto=transfer.fuse)
    if transfer.cut != "none":
        model = _cut(model, backbone, transfer, classes=classes, seed=seed)
    if transfer.freeze != "none":
        freeze(model, upto=transfer.freeze, statistics=transfer.freeze_statistics)
    return model


def empty_model(recipe: Recipe, *, classes: int, device: str = "meta") -> nn.Module:
    """The architecture of `starting_model` without weights, as `earsight.models.backbones.build_empty` makes it.

    ModelError and RecipeError as `starting_model` raises them for the backbone and the cut.
    """
    model = build_empty(recipe.backbone.name, classes=classes, dropout=recipe.backbone.dropout, device=device)
    if recipe.transfer.cut == "none":
        return model
    _check(model, recipe.backbone, Transfer(cut=recipe.transfer.cut))
    return _cut(model, recipe.backbone, recipe.transfer, classes=classes, seed=0)


def fuse(model: nn.Module, pretrained: nn.Module, *, upto: str) -> None:
    """Copy weights and statistics of the stages up to one (or ``none``) from a model of the same architecture."""
    prefixes = _prefixes(model, upto)
    model.load_state_dict(
        {key: value for key, value in pretrained.state_dict().items() if belongs(key, prefixes)}, strict=False
    )


def freeze(model: nn.Module, *, upto: str, statistics: bool = True) -> None:
    """Exclude the stages up to one from training, in place.

    With ``statistics``, `training_mode` leaves them in eval mode, so that their batch norms keep their statistics.
    """
    prefixes = _prefixes(model, upto)
    for name, parameter in model.named_parameters():
        if belongs(name, prefixes):
            parameter.requires_grad_(False)
    if statistics:
        setattr(model, _KEPT_EVAL, prefixes)


def training_mode(model: nn.Module) -> None:
    """Put a model into training mode, except the stages that are frozen with their statistics."""
    model.train()
    prefixes = getattr(model, _KEPT_EVAL, ())
    for name, module in model.named_modules():
        if name and belongs(name, prefixes):
            module.eval()


def stage_names(model: nn.Module) -> list[str]:
    """The stages for an analysis, from input to output, without the head; ModelError if there are fewer than two."""
    names = list(stages(model))[:-1]
    if len(names) < 2:
        raise ModelError(
            f"{type(model).__name__}: has one stage below its head, so there is nothing to compare along the depth; "
            "choose a CNN with several, such as tf_efficientnet_lite0"
        )
    return names


@dataclass(frozen=True)
class Step:
    """One module of the forward pass: its dotted name and its stage.

    ``chained``: its only input is the output of the step before it. ``channels``: of its output feature maps (batch,
    channels, height, width); 0 if it returns something else.
    """

    module: str
    stage: str
    chained: bool
    channels: int


def forward_steps(model: nn.Module) -> list[Step]:
    """The modules of a backbone in the order in which its forward pass runs them; ModelError if it has no stages.

    A module with weights of several stages is split into its children; one with weights of one stage, or none, is a
    step. The model is run once, in eval mode, on zeros; on the ``meta`` device that costs nothing.
    """
    stage_of = _step_modules(model)
    calls: list[tuple[str, tuple[Any, ...], Any]] = []
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, given, made, name=name: calls.append((name, given, made))
        )
        for name in stage_of
    ]
    modes = [(module, module.training) for module in model.modules()]
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    size = (3, *(config.get("input_size") or _SIZE)[1:])
    spectrogram = torch.zeros(1, *size, device=next(model.parameters()).device)
    try:
        model.eval()
        with torch.no_grad():
            model(spectrogram)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    steps: list[Step] = []
    before: Any = spectrogram
    stage = next(iter(stages(model)))
    for name, given, made in calls:
        chained = len(given) == 1 and given[0] is before
        channels = made.shape[1] if isinstance(made, Tensor) and made.ndim == 4 else 0
        # The module that reduces a map to one value a channel ends the last stage.
        pooled = channels and isinstance(before, Tensor) and made.shape[2:] == (1, 1) != before.shape[2:]
        stage = stage_of[name] or ("head" if pooled or not channels else stage)
        steps.append(Step(name, stage, chained, channels))
        before = made
    return steps


def stage_ends(model: nn.Module) -> dict[str, str]:
    """Stage -> the dotted name of the module that returns its feature maps; the head is not among them."""
    return {step.stage: step.module for step in forward_steps(model) if step.stage != "head" and step.channels}


class Truncated(nn.Module):
    """The first stages of a backbone, averaged over the spectrogram, under a new linear head.

    The modules of the stages up to ``last`` are the backbone's own, under its own names, so that their state keys stay;
    `earsight.models.backbones.stages` names the stages as before. torch's global generator initialises the head.
    ModelError if there is no such stage, or the stages up to it are not a plain chain of modules.
    """

    def __init__(self, model: nn.Module, last: str, *, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        steps = _chain(model, last)
        order = list(dict.fromkeys(step.stage for step in steps))
        self.pretrained_cfg = {**(getattr(model, "pretrained_cfg", None) or {}), "classifier": "head"}
        self.drop_rate = dropout
        self._paths = [step.module.split(".") for step in steps]
        self._places = [(step.module, order.index(step.stage)) for step in steps]
        for path in self._paths:
            home: nn.Module = self
            for part in path[:-1]:
                if part not in home._modules:
                    home.add_module(part, nn.Module())
                home = home.get_submodule(part)
            home.add_module(path[-1], model.get_submodule(".".join(path)))
        if "head" in self._modules:
            raise ModelError(f"{type(model).__name__}: has a module 'head' below its head, so it cannot be cut")
        self.num_features = steps[-1].channels
        self.head = nn.Linear(self.num_features, classes, device=next(model.parameters()).device)

    def forward_features(self, x: Tensor) -> Tensor:
        """Feature maps (batch, channels, height, width) of the last stage that is left."""
        for path in self._paths:
            x = reduce(getattr, path, self)(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of feature maps, or with ``pre_logits`` the classifier's input (batch, channels)."""
        pooled = nn.functional.dropout(x.mean(dim=(2, 3)), self.drop_rate, self.training)
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of spectrograms (batch, 3, bands, frames)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def group_matcher(self, coarse: bool = False) -> Any:
        """A function from state keys to the number of their stage."""

        def number(key: str) -> tuple[int]:
            found = [place for module, place in self._places if belongs(key, [module])]
            return (found[0] if found else len(self._places),)

        return number


def _build(backbone: Backbone, *, classes: int, seed: int, weights: str) -> nn.Module:
    return build(
        backbone.name,
        classes=classes,
        weights=weights,
        dropout=backbone.dropout,
        seed=seed,
        zero_init_last=backbone.zero_init_last,
    )


def _cut(model: nn.Module, backbone: Backbone, transfer: Transfer, *, classes: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Truncated(model, transfer.cut, classes=classes, dropout=backbone.dropout)


def _prefixes(model: nn.Module, upto: str) -> Iterable[str]:
    """State key prefixes of the stages up to one."""
    found = stages(model)
    names = list(found)
    kept = [] if upto == "none" else names[: names.index(upto) + 1]
    return [prefix for name in kept for prefix in found[name]]


def _check(model: nn.Module, backbone: Backbone, transfer: Transfer) -> None:
    """Raise if the transfer section does not fit the backbone or contradicts itself."""
    names = list(stages(model))
    body = names[:-1]
    for field, special, allowed in (
        ("fuse", ("all", "none"), names),
        ("freeze", ("none",), body),
        ("cut", ("none",), body),
    ):
        value = getattr(transfer, field)
        if value not in (*special, *allowed):
            raise RecipeError(
                f"transfer.{field} is {shown(value)}, which is no such stage of {backbone.name}; "
                f"choose {', '.join((*special, *allowed))}"
            )
    if transfer.cut != "none" and transfer.freeze != "none" and body.index(transfer.freeze) > body.index(transfer.cut):
        raise RecipeError(
            f"transfer.freeze is '{transfer.freeze}', which transfer.cut={transfer.cut} takes away; freeze one below"
        )
    if backbone.weights == "none" and transfer.fuse not in ("all", "none"):
        raise RecipeError(
            f"transfer.fuse is '{transfer.fuse}' and backbone.weights is none, so there is nothing to fuse; "
            "give weights, such as backbone.weights=imagenet"
        )


def _step_modules(model: nn.Module) -> dict[str, str]:
    """Dotted name of each module that may be a step -> its stage, or "" if it has no weights."""
    found = stages(model)
    stage_of = {key: stage for key in model.state_dict() for stage, prefixes in found.items() if belongs(key, prefixes)}
    out: dict[str, str] = {}
    pending = [("", model)]
    while pending:
        outer, module = pending.pop()
        for leaf, child in module.named_children():
            name = f"{outer}.{leaf}" if outer else leaf
            owners = {stage for key, stage in stage_of.items() if key.startswith(f"{name}.")}
            if len(owners) > 1:
                pending.append((name, child))
            else:
                out[name] = owners.pop() if owners else ""
    return out


def _chain(model: nn.Module, last: str) -> Sequence[Step]:
    """The steps up to the end of a stage."""
    title = type(model).__name__
    steps = forward_steps(model)
    order = list(dict.fromkeys(step.stage for step in steps))
    if last not in order or last == "head":
        raise ModelError(f"{title}: has no stage '{last}' to end at; its stages are {', '.join(order)}")
    kept = [step for step in steps if order.index(step.stage) <= order.index(last)]
    torn = next((step.module for step in kept if not step.chained), None)
    if torn is not None or not kept[-1].channels or getattr(model, "output_fmt", "NCHW") != "NCHW":
        why = f"{torn} takes more than what the module before it gives" if torn else "it ends in no feature map"
        raise ModelError(f"{title}: cannot be cut at {last}, because {why}; choose an earlier stage or another CNN")
    return kept
