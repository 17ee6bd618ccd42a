"""The model card: the settings, labels and calibration that a model file holds beside its weights.

Comes in: labels, a resolved recipe, normalisation and the origin of the training. Goes out: a checked `ModelCard`, and
the tree of JSON values that a model file keeps of it. An ensemble's card has members, a card and a weight for each.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from earsight.errors import ModelError, RecipeError, counted, shown
from earsight.recipe import Features, Recipe, recipe_from

BUDGET = {
    "members": 1000, "seconds of sound in a window": 300, "points in an FFT": 1 << 17,
    "columns in a spectrogram, before or after its resize": 20_000, "values in the STFTs of a window": 1 << 28,
    "bytes of memory to load it": 1 << 30, "bytes of memory for 16 clips": 6 << 30,
    "seconds to load it and answer once": 120,
}  # fmt: skip
"""Limits of the sizes in a model file's card; $EARSIGHT_MODEL_BUDGET multiplies them.

Of earsight's own recipes, clips of 30 s ask for most: 60 % of the bytes for clips and, with ten networks, a third of
the seconds. Rates of 256 kHz ask for a third of the bytes to load.
"""
BUDGET_VARIABLE = "EARSIGHT_MODEL_BUDGET"
DEFAULT_THRESHOLD = 0.5
"""Probability from which on a class is named where held-out clips chose none."""
_CLIPS = 16  # classified at once
_VALUES = 256  # kept at once for each cell of a spectrogram by RDNet-L and HGNet, the largest (docs/results.md)
_PRODUCTS = 400_000  # multiplications for each cell of a spectrogram by VGG
_PRODUCTS_A_SECOND = 20e9  # of matrices and convolutions, by a few cores
_STEPS_A_SECOND = 1e9  # of all else
_MEMBER_SECONDS = 0.1  # to make a network without its weights
_FLOATS = (1e-37, 3e38)  # numbers that float32 keeps with all their digits

OodScore = Literal["distance", "energy", "doubt"]
SetMethod = Literal["lac", "aps"]


def _text(value: Any) -> Any:
    """A string, which pydantic's own type is only if it is UTF-8: names of files need not be."""
    if not isinstance(value, str):
        raise ValueError("expected text")
    return value


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


_Text = Annotated[Any, AfterValidator(_text)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Whole = Annotated[int, Field(ge=0, lt=1 << 64)]
_Fold = Annotated[int, Field(ge=0, lt=1 << 31)]


class _Threshold(_Part):
    threshold: float
    ci95: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None


class _Unknown(_Threshold):
    score: OodScore
    rate: _Share


class _Sets(_Threshold):
    method: SetMethod
    coverage: _Share


class _Calibration(_Part):
    unknown: _Unknown | None = None
    sets: _Sets | None = None
    clips: _Whole | None = None
    folds: list[_Fold] = []
    own_held_out: bool | None = None
    pools: bool = True


class _Origin(_Part):
    dataset: _Text | None = None
    digest: _Text | None = None
    clips_digest: _Text | None = None
    fold: _Fold | None = None
    folds: list[_Fold] | None = None
    seed: _Whole | None = None
    seeds: list[_Whole] | None = None
    clips: _Whole | None = None
    held_out_accuracy: _Share | None = None
    held_out_average_precision: _Share | None = None
    method: _Text | None = None
    recipe_digest: _Text | None = None
    seen: _Text | None = None
    earsight: _Text | None = None


class _ClassThreshold(_Part):
    """Above which probability a class is named, and by which rule that was chosen on held-out clips."""

    threshold: _Share
    rule: _Text
    ci95: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None


class _Tree(_Part):
    """What a card holds, as JSON values, but for its recipe and its members' own cards."""

    classes: list[_Text]
    mean: list[float]
    std: list[float]
    temperature: float
    trained_on: _Origin
    calibration: _Calibration
    members: list[dict[Any, Any]] = []
    weights: list[float] = []
    several: bool = False
    temperatures: list[float] = []
    thresholds: dict[_Text, _ClassThreshold] = {}
    background: _Text | None = None


def check_values(tree: Any) -> None:
    """Raise `ModelError`, which names the field, where a card's values are of types or sizes that it cannot have."""
    try:
        _Tree.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise ModelError(f"model card: {where} is missing") from error
        wanted = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("expected ")
        raise ModelError(f"model card: {where}: found {shown(first['input'])}; expected {wanted}") from error


@dataclass(frozen=True)
class ModelCard:
    """Labels, features, normalisation, calibration and origin of a model; ModelError if predictions are impossible.

    ``classes``: label of each output, in order. ``recipe``: no feature field of it is ``auto``. ``mean``, ``std``: for
    each spectrogram channel; the network's input is ``(spectrogram - mean) / std``. ``temperature``: logits are divided
    by it before the softmax. ``trained_on``: data set name and digest, fold, seed, earsight version, accuracy;
    ``calibration``: further figures; both are JSON values. ``members``: of an ensemble, as `ensemble_card` makes it:
    their classes and features are the ensemble's, their means and stds are used in place of its own, which are 0 and 1;
    empty for a single network. ``weights``: each member's share of the mean probability.

    ``several``: whether classes may sound together: a probability is then the sigmoid of its logit, each by itself.
    ``temperatures``: of ``several``, that of each class, by which its logit is divided on top of ``temperature``; empty
    for ones. ``thresholds``: for some or all classes ``threshold``, the probability from which on the class is named,
    the ``rule`` by which held-out clips chose it, and its ``ci95``; JSON values. ``background``: the class, if one of
    ``classes``, of sounds that hold none of the others: shown as such, and no event.
    """

    classes: tuple[str, ...]
    recipe: Recipe
    mean: tuple[float, ...]
    std: tuple[float, ...]
    temperature: float = 1.0
    trained_on: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    members: tuple[ModelCard, ...] = ()
    weights: tuple[float, ...] = ()
    several: bool = False
    temperatures: tuple[float, ...] = ()
    thresholds: dict[str, dict[str, Any]] = field(default_factory=dict)
    background: str | None = None

    def __post_init__(self) -> None:
        lists = ("classes", "mean", "std", "weights", "temperatures")
        check_values(vars(self) | {name: list(getattr(self, name)) for name in lists} | {"members": []})
        if not self.classes or len(set(self.classes)) != len(self.classes) or not all(self.classes):
            raise ModelError(f"model card: {len(self.classes)} classes; expected at least one, all named and different")
        least, most = _FLOATS
        if not self.mean or len(self.mean) != len(self.std) or not all(abs(one) < most for one in self.mean + self.std):
            raise ModelError(f"model card: mean {self.mean} and std {self.std}; expected one finite number per channel")
        if min(self.std) < least or not least < self.temperature < most:
            raise ModelError(f"model card: std {self.std}, temperature {self.temperature}; expected numbers above 0")
        self._check_several()
        try:
            self.recipe.features.rate, self.recipe.features.samples, self.recipe.features.columns  # noqa: B018
        except RecipeError as error:
            raise ModelError(f"model card: the recipe is not resolved ({error})") from error
        if self.members or self.weights:
            self._check_members()

    @property
    def scale(self) -> float | tuple[float, ...]:
        """What logits are divided by before they become probabilities: one number, or one for each class."""
        if not self.temperatures:
            return self.temperature
        return tuple(self.temperature * one for one in self.temperatures)

    def _check_several(self) -> None:
        least, most = _FLOATS
        if self.temperatures and (not self.several or len(self.temperatures) != len(self.classes)):
            count = len(self.temperatures)
            raise ModelError(f"model card: {count} temperatures for {len(self.classes)} classes; expected one each")
        if not all(least < one < most for one in self.temperatures):
            raise ModelError(f"model card: temperatures {self.temperatures}; expected numbers above 0")
        strange = sorted(set(self.thresholds) - set(self.classes))
        if strange:
            raise ModelError(f"model card: a threshold of {shown(strange[0])}, which is none of its classes")
        if self.several and "sets" in self.calibration:
            raise ModelError("model card: prediction sets, which classes that sound together have not")

    def _check_members(self) -> None:
        members, weights = len(self.members), len(self.weights)
        if weights != members or not all(0 < weight <= 1 for weight in self.weights):
            raise ModelError(
                f"model card: {counted(members, 'member')} and {counted(weights, 'weight')}; "
                "expected one positive share each"
            )
        if abs(math.fsum(self.weights) - 1) > 1e-6:
            raise ModelError(f"model card: the members' weights add up to {math.fsum(self.weights):g}; expected 1")
        if any(self.mean) or set(self.std) != {1.0}:
            raise ModelError("model card: an ensemble with a mean and std of its own; expected 0 and 1")
        for number, member in enumerate(self.members, start=1):
            same = {
                "classes": member.classes == self.classes,
                "features": member.recipe.features == self.recipe.features,
                "labels a clip": member.several == self.several,
                "windows": len(member.mean) == len(self.mean),
            }
            for name, fits in same.items():
                if not fits:
                    raise ModelError(f"model card: member {number} has other {name} than the ensemble; leave it out")
            if member.members:
                raise ModelError(f"model card: member {number} is an ensemble itself; give its members instead")


def check_budget(card: ModelCard, *, products: float | None = None) -> None:
    """Raise `ModelError` if a card asks for more than `BUDGET`, before anything is built.

    ``products`` are the multiplications of one pass through its networks, where they were counted.
    """
    given = os.environ.get(BUDGET_VARIABLE, "1")
    try:
        factor = float(given)
    except ValueError:
        factor = 0.0
    if not factor > 0:
        raise ModelError(f"{BUDGET_VARIABLE} is {given!r}; expected how many times the budget is given, such as 4")
    found = _asked(card.recipe.features, members=len(card.members), products=products)
    for what, most in BUDGET.items():
        if found[what] > most * factor:
            enough = math.ceil(min(found[what] / most, 1e12))
            raise ModelError(
                f"asks for {found[what]:,.0f} {what}; a model file may ask for {most * factor:,.0f}. If you trust "
                f"whoever made it, set {BUDGET_VARIABLE}={enough}, which multiplies all that it may ask for"
            )


def _asked(features: Features, *, members: int, products: float | None) -> dict[str, float]:
    """What a card asks for of each limit in `BUDGET`; bytes are upper bounds but for the largest networks.

    Bytes to load are those of the front end, for tensors are as large as the file. Seconds are operations by stated
    rates: of the banks, their interpolation from shorter FFTs, the resizes, one clip's STFTs and one pass through as
    many VGGs as it has networks, where their products were not counted.
    """
    rate, samples, bands, frames = features.rate, features.samples, features.bands, features.columns
    points, windows = features.fft_ms * rate / 1000, len(features.hops_ms)
    columns = [1 + samples // max(1, round(min(ms * rate / 1000, samples))) for ms in features.hops_ms]
    most, everything, bins = max(columns), sum(columns), points / 2
    banks = bands * bins * (128 + 16 * windows)
    resize = 16 * most * frames + 4096 * (most + frames)
    clip = 28 * (samples + points) + 12 * bands * everything + 4 * _VALUES * bands * frames
    steps = bins * (200 * bands + 6000 * windows) + everything * (4 * most + 10 * frames + 30 * points)
    networks = max(1, members) * _PRODUCTS * bands * frames if products is None else products
    products = bands * everything * (bins + frames) + networks
    asked = (
        *(members, samples / rate, points, max(most, frames), points * everything),
        *(banks + resize, _CLIPS * clip),
        members * _MEMBER_SECONDS + steps / _STEPS_A_SECOND + products / _PRODUCTS_A_SECOND,
    )
    return dict(zip(BUDGET, asked, strict=True))


def ensemble_card(
    members: Sequence[ModelCard], *, weights: Sequence[float] | None = None, trained_on: dict[str, Any]
) -> ModelCard:
    """The card of an ensemble of single networks, which have the same classes and features.

    ``weights`` are shares of the mean probability, adding up to 1; default equal ones. ``trained_on`` is that of the
    ensemble as a whole: JSON values. ModelError if the members do not fit each other.
    """
    if not members:
        raise ModelError("ensemble: no members; expected at least one")
    windows = len(members[0].mean)
    return ModelCard(
        classes=members[0].classes,
        recipe=members[0].recipe,
        mean=(0.0,) * windows,
        std=(1.0,) * windows,
        trained_on=trained_on,
        members=tuple(members),
        several=members[0].several,
        weights=tuple(weights) if weights is not None else (1 / len(members),) * len(members),
        background=members[0].background,
    )


def described(card: ModelCard) -> dict[str, Any]:
    """A card as JSON values; a single network's has no keys for members, nor one label a clip those for several."""
    tree = {one.name: getattr(card, one.name) for one in dataclasses.fields(card)}
    tree["recipe"] = card.recipe.model_dump(mode="json")
    if card.members:
        tree["members"] = [described(member) for member in card.members]
    else:
        del tree["members"], tree["weights"]
    for name in ("several", "temperatures", "thresholds"):
        if not tree[name]:
            del tree[name]
    if card.background is None:
        del tree["background"]
    return tree


def card_of(tree: Any, *, nested: bool = False) -> ModelCard:
    """The card that `described` gave.

    ModelError if it is none, as `check_values` says, or its values do not fit each other; RecipeError if its recipe is
    none.
    """
    check_values(tree)
    members = tree.get("members", ())
    if nested and members:
        raise ModelError("a member is an ensemble itself")
    if not isinstance(tree.get("recipe"), Mapping):
        raise ModelError("model card: it has no recipe")
    return ModelCard(
        classes=tuple(tree["classes"]),
        recipe=recipe_from(tree["recipe"]),
        mean=tuple(map(float, tree["mean"])),
        std=tuple(map(float, tree["std"])),
        temperature=float(tree["temperature"]),
        trained_on=dict(tree["trained_on"]),
        calibration=dict(tree["calibration"]),
        members=tuple(card_of(member, nested=True) for member in members),
        weights=tuple(map(float, tree.get("weights", ()))),
        several=tree.get("several", False),
        temperatures=tuple(map(float, tree.get("temperatures", ()))),
        thresholds=dict(tree.get("thresholds", {})),
        background=tree.get("background"),
    )
