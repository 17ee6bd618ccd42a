"""What of the pretrained weights a trial starts from, and what of it is trained: fuse, freeze and cut.

Comes in: a recipe's ``backbone`` and ``transfer`` sections. Goes out: the network that a trial starts with. Stages are
named as `earsight.models.backbones.stages` names them, from input to output; a recipe names the last one meant.

- ``fuse: k``: the stages up to k get ``backbone.weights``, those above keep the random start of the seed.
- ``cut: k``: the stages above k are gone; the feature maps of k are averaged over the picture, and a new linear head
  takes them.
- ``freeze: k``: the stages up to k take no gradient. With ``freeze_statistics`` they also stay in eval mode, so that
  their batch norms use and keep the statistics that they came with; without it the statistics follow the new pictures.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from earsight.errors import ModelError, RecipeError
from earsight.models.backbones import belongs, build, build_empty, stages
from earsight.models.truncated import Truncated
from earsight.recipe import Backbone, Recipe, Transfer

_KEPT_EVAL = "_earsight_stays_in_eval"
"""A model's attribute: which of its parts stay in eval mode, by name, for modules are swapped for faster ones."""


def starting_model(recipe: Recipe, *, classes: int, seed: int = 0, weights: str | None = None) -> nn.Module:
    """The network that a trial of a recipe starts with.

    Parameters
    ----------
    recipe : Recipe
        Its ``backbone`` and ``transfer`` sections count.
    classes : int
        Outputs of the head.
    seed : int
        Decides every weight that is not pretrained. The global generators are left as they were.
    weights : str, optional
        In place of ``backbone.weights``, for where the same file has another path.

    Returns
    -------
    nn.Module
        On the CPU, float32; bring it into training mode with `training_mode`.

    Raises
    ------
    ModelError
        As `earsight.models.backbones.build` does, or if the backbone cannot be cut there.
    RecipeError
        If ``transfer`` names no stage of this backbone, or leaves nothing to train.
    """
    backbone, transfer = recipe.backbone, recipe.transfer
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


def empty_model(recipe: Recipe, *, classes: int) -> nn.Module:
    """The architecture of `starting_model` without weights, for ``load_state_dict(assign=True)``.

    Raises
    ------
    ModelError, RecipeError
        As `starting_model` does for the backbone and the cut.
    """
    model = build_empty(recipe.backbone.name, classes=classes, dropout=recipe.backbone.dropout)
    if recipe.transfer.cut == "none":
        return model
    _check(model, recipe.backbone, Transfer(cut=recipe.transfer.cut))
    return _cut(model, recipe.backbone, recipe.transfer, classes=classes, seed=0)


def fuse(model: nn.Module, pretrained: nn.Module, *, upto: str) -> None:
    """Give the stages up to one the weights and statistics of another model of the same architecture.

    Parameters
    ----------
    model : nn.Module
        Changed in place.
    pretrained : nn.Module
    upto : str
        The last stage to give, or ``none``.
    """
    prefixes = _prefixes(model, upto)
    model.load_state_dict(
        {key: value for key, value in pretrained.state_dict().items() if belongs(key, prefixes)}, strict=False
    )


def freeze(model: nn.Module, *, upto: str, statistics: bool = True) -> None:
    """Take the stages up to one out of training.

    They are the first that a picture passes, so that with no gradient to carry their forward pass keeps nothing.

    Parameters
    ----------
    model : nn.Module
        Changed in place.
    upto : str
        The last stage to freeze.
    statistics : bool
        Whether `training_mode` leaves them in eval mode, so that the statistics of batch norms stay as they are.
    """
    prefixes = _prefixes(model, upto)
    for name, parameter in model.named_parameters():
        if belongs(name, prefixes):
            parameter.requires_grad_(False)
    if statistics:
        setattr(model, _KEPT_EVAL, prefixes)


def training_mode(model: nn.Module) -> None:
    """Bring a model into training mode, all but the stages that are frozen with their statistics."""
    model.train()
    prefixes = getattr(model, _KEPT_EVAL, ())
    for name, module in model.named_modules():
        if name and belongs(name, prefixes):
            module.eval()


def stage_names(model: nn.Module) -> list[str]:
    """The stages that an analysis can go through, from input to output, without the head.

    Raises
    ------
    ModelError
        If there are fewer than two.
    """
    names = list(stages(model))[:-1]
    if len(names) < 2:
        raise ModelError(
            f"{type(model).__name__}: has one stage below its head, so there is nothing to compare along the depth; "
            "choose a CNN with several, such as tf_efficientnet_lite0"
        )
    return names


def _build(backbone: Backbone, *, classes: int, seed: int, weights: str) -> nn.Module:
    return build(backbone.name, classes=classes, weights=weights, dropout=backbone.dropout, seed=seed)


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
    """Refuse a transfer section that does not fit the backbone or itself."""
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
                f"transfer.{field} is '{value}', which is no such stage of {backbone.name}; "
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
