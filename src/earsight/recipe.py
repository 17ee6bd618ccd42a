"""Recipe: every choice of an experiment, frozen and strict.

Comes in: YAML text, a file, or the name of a recipe in the package; and overrides ``a.b=value``. Goes out: a `Recipe`.
Times are in milliseconds or seconds and rates in Hz, as each field's name says. No torch here.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from html import escape
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from earsight.arguments import checked
from earsight.errors import RecipeError, counted, shown
from earsight.files import SEAL, say_once, seal_fits


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_no_flags(cls, given: Any) -> Any:
        """Pydantic takes True for 1."""
        for name, value in given.items() if isinstance(given, Mapping) else ():
            found = value if isinstance(value, list | tuple) else [value]
            flag = name not in cls.model_fields or cls.model_fields[name].annotation is bool
            if not flag and any(isinstance(one, bool) for one in found):
                raise ValueError(f"{name} is {shown(value)}; expected a number or a name")
        return given

    def __setattr__(self, name: str, value: Any) -> None:
        place = f"{type(self).__name__.lower()}.{name}".removeprefix("recipe.")
        raise RecipeError(f"recipes stay as they are; recipe.override({{{place!r}: {shown(value)}}}) is a changed one")


_M = TypeVar("_M", bound=_Section)
_RECIPES = Path(__file__).parent / "recipes"
NEUTRAL = {
    "features.representation": "log_mel", "features.fmin_hz": 0.0, "features.fmax_hz": "none",
    "features.channel": "mix", "training.compile": "auto", "training.source": "auto",
    "transfer": {"fuse": "all", "freeze": "none", "freeze_statistics": True, "cut": "none"},
    "training.watch": False, "training.windows": ("auto", "first"), "training.labels": ("auto", "single"),
    "training.most_seconds": 600.0, "training.seed": "auto", "backbone.seed": "auto",
    "backbone.zero_init_last": True, "augment.copies": 1, "augment.background": 0.0,
    "augment.background_snr_db": [0.0, 20.0], "distillation": {"weight": 0.0, "temperature": 2.0},
}  # fmt: skip
"""A new field goes here with its neutral value, or a tuple of them, at which it is left out of the digest."""
_KEPT = ("representation",)
"""Features that stand in keys and identities at their neutral values too, as they did before there were such values."""
_RENAMED = {"augment.backend": ("picture", "spectrogram"), "training.source": ("pictures", "spectrograms")}
"""Renamed values (old, new): both are read, the new one is written, the old one enters the digest."""
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def _renamed(field: str) -> BeforeValidator:
    old, new = _RENAMED[field]
    return BeforeValidator(lambda value: new if value == old else value)


class Features(_Section):
    """How a wave becomes a spectrogram; ``auto`` is filled in from the data set by `Recipe.resolve`."""

    representation: Literal["log_mel", "log_spectrogram", "mfcc", "gammatone"] = "log_mel"
    sample_rate_hz: int | Literal["auto"] = Field("auto", description="to which sounds are resampled")
    clip_seconds: float | Literal["auto"] = Field("auto", description="length of a window")
    frames: int | Literal["auto"] = Field("auto", description="columns of the spectrogram of a window")
    windows_ms: tuple[float, ...] = Field((25.0, 50.0, 100.0), description="one for all channels, or one each")
    hops_ms: tuple[float, ...] = Field((10.0, 25.0, 50.0), description="from one of these windows to the next")
    fft_ms: float = Field(100.0, gt=0, description="length of the FFT; shorter windows are padded with zeros")
    bands: int = Field(128, ge=8, le=1024, description="rows of the spectrogram")
    fmin_hz: float = Field(0.0, ge=0, description="the lowest frequency of the bands")
    fmax_hz: Annotated[float, Field(gt=0)] | Literal["none"] = Field(
        "none", description="the highest frequency of the bands; none is half the rate"
    )
    channel: Literal["mix", "left", "right", "loudest"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        "mix", description="of several channels: their average, a side, a number from 1 on, or that of the most energy"
    )

    @model_validator(mode="after")
    def _fits(self) -> Features:
        if len(self.windows_ms) not in (1, 3) or len(self.hops_ms) != len(self.windows_ms):
            raise ValueError("windows_ms and hops_ms take one value each (copied to three channels) or three each")
        if min(self.windows_ms) <= 0 or min(self.hops_ms) <= 0:
            raise ValueError("windows_ms and hops_ms must be above 0")
        if max(self.windows_ms) > self.fft_ms:
            raise ValueError(f"fft_ms is {self.fft_ms:g}, shorter than a window of {max(self.windows_ms):g} ms")
        for name, low, high in (("sample_rate_hz", 2000, 384000), ("clip_seconds", 0.1, 600), ("frames", 16, 20000)):
            value = getattr(self, name)
            if value != "auto" and not low <= value <= high:
                raise ValueError(f"{name} is {shown(value)}; it must lie between {low:g} and {high:g}")
        if self.fmax_hz != "none" and self.fmax_hz <= self.fmin_hz:
            raise ValueError(f"fmax_hz is {self.fmax_hz:g}, not above fmin_hz = {self.fmin_hz:g}")
        highest = self.fmin_hz if self.fmax_hz == "none" else self.fmax_hz
        if self.sample_rate_hz != "auto" and highest > self.sample_rate_hz / 2:
            raise ValueError(
                f"fmin_hz and fmax_hz reach to {highest:g} Hz, and a rate of {self.sample_rate_hz} Hz only to "
                f"{self.sample_rate_hz / 2:g}: lower them, or set sample_rate_hz to {2 * highest:g} or more"
            )
        return self

    @property
    def band_hz(self) -> tuple[float, float]:
        """The lowest and the highest frequency in Hz of the bands of resolved features."""
        return self.fmin_hz, self.rate / 2 if self.fmax_hz == "none" else self.fmax_hz

    def settings(self) -> dict[str, Any]:
        """The features as JSON values for keys and identities, without later fields that are neutral."""
        content = self.model_dump(mode="json")
        for path, value in NEUTRAL.items():
            section, _, leaf = path.partition(".")
            if section == "features" and leaf not in _KEPT and content[leaf] == value:
                del content[leaf]
        return content

    @property
    def rate(self) -> int:
        """Sampling rate in Hz of resolved features."""
        return int(self._resolved("sample_rate_hz"))

    @property
    def samples(self) -> int:
        """Samples in one clip of resolved features."""
        return round(float(self._resolved("clip_seconds")) * self.rate)

    @property
    def columns(self) -> int:
        """Spectrogram columns of resolved features."""
        return int(self._resolved("frames"))

    def _resolved(self, name: str) -> Any:
        value = getattr(self, name)
        if value == "auto":
            raise RecipeError(f"features.{name} is still 'auto': open the data set and call Recipe.resolve first")
        return value


class Backbone(_Section):
    """Which network, and where its starting weights come from: ``imagenet``, ``none`` or a checkpoint file."""

    name: str = Field("tf_efficientnet_lite0", description="a CNN of timm, or soundnet8")
    weights: str = Field("imagenet", description="imagenet, none (random), or a checkpoint file")
    dropout: float = Field(0.0, ge=0, lt=1, description="before the last layer")
    zero_init_last: bool = Field(
        True, description="whether a ResNet's last batch norm of a block starts at 0 (timm), or at 1 (torchvision)"
    )
    seed: int | Literal["auto"] = Field("auto", description="of head and random weights; auto: the trial's seed")


class Transfer(_Section):
    """Which starting weights are kept; each field names a stage of `earsight.models.backbones.stages`."""

    fuse: str = Field("all", description="the last stage that gets backbone.weights; those above start at random")
    freeze: str = Field("none", description="the last stage that is not trained")
    freeze_statistics: bool = Field(True, description="whether frozen stages also keep their batch-norm statistics")
    cut: str = Field("none", description="the last stage that the network keeps, under a new head")


class Augment(_Section):
    """Random changes of the training clips; see `earsight.features.augment` for what each does."""

    backend: Annotated[Literal["spectrogram", "waveform"], _renamed("augment.backend")] = "spectrogram"
    probability: float = Field(0.5, ge=0, le=1, description="share of the examples that are changed at all")
    pitch_semitones: int = Field(2, ge=0, le=6, description="shifts are drawn from -n, ..., n")
    stretch: tuple[float, float] = Field((0.9, 1.2), description="between which speeds are drawn")
    shift: bool = Field(True, description="whether examples are moved in time, end to begin")
    time_masks: int = Field(1, ge=0, le=8, description="stretches of time that are blanked")
    time_mask_fraction: float = Field(0.15, ge=0, le=1, description="the longest, of the whole")
    band_masks: int = Field(1, ge=0, le=8, description="ranges of bands that are blanked")
    band_mask_fraction: float = Field(0.15, ge=0, le=1, description="the widest, of all")
    mixup: float = Field(0.3, ge=0, description="alpha of the Beta distribution; 0 is off")
    copies: int = Field(
        1, ge=1, le=8, description="times that an epoch shows each clip; of several the first is never changed"
    )
    background: float = Field(
        0.0, ge=0, le=1, description="share of the examples to which background of the training clips is added"
    )
    background_snr_db: tuple[float, float] = Field((0.0, 20.0), description="energy of the example over that, in dB")

    @model_validator(mode="after")
    def _fits(self) -> Augment:
        low, high = self.stretch
        if not 0.5 <= low <= high <= 2:
            raise ValueError(f"stretch is [{low:g}, {high:g}]; it must be two rising factors between 0.5 and 2")
        low, high = self.background_snr_db
        if not -60 <= low <= high <= 60:
            raise ValueError(f"background_snr_db is [{low:g}, {high:g}]; it must be two rising numbers within 60 dB")
        return self


class Training(_Section):
    """The optimiser, its schedule, and the choice of the reported epoch."""

    epochs: int = Field(30, ge=1, le=10000, description="times through the training clips")
    batch_size: int = Field(32, ge=2, le=4096, description="examples a step")
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0, le=10, description="the highest of the schedule")
    weight_decay: float = Field(1e-2, ge=0, le=10, description="as the optimizer takes it")
    momentum: float = Field(0.9, ge=0, lt=1, description="for sgd alone")
    schedule: Literal["constant", "step", "cosine", "onecycle"] = "onecycle"
    warmup: float = Field(0.25, ge=0, le=0.9, description="share of the steps; for onecycle and cosine")
    step_epochs: tuple[int, ...] = Field((30, 60), description="after which the rate falls; for step")
    step_factor: float = Field(0.1, gt=0, lt=1, description="by which it falls; for step")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the weights' running mean, per step; 0 is off")
    class_weights: Literal["none", "balanced"] = Field("none", description="balanced: by 1 / clips of the class")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["auto", "none", "graph", "fused"] = Field(
        "auto", description="steps on a GPU: CUDA graphs (auto, graph), torch.compile in them (fused), or none"
    )
    source: Annotated[Literal["auto", "store", "spectrograms", "waves"], _renamed("training.source")] = Field(
        "auto", description="where a step's data lie: on disk (store), or on the device as spectrograms or as waves"
    )
    protocol: Literal["last", "inner", "test"] = Field("last", description="which epoch is reported: the glossary")
    inner_fraction: float = Field(0.2, gt=0, lt=1, description="of the training rows; for protocol inner")
    watch: bool = Field(False, description="record the held-out accuracy of every epoch; it decides nothing")
    windows: Literal["auto", "first", "all"] = Field(
        "auto", description="of clips longer than 1.1 windows: the first, or all of them; auto goes by the data set"
    )
    most_seconds: float = Field(600.0, gt=0, description="seconds of a clip that its windows are taken from")
    labels: Literal["auto", "single", "several"] = Field(
        "auto", description="labels a clip: single (softmax), several (a sigmoid a class), or auto by the data set"
    )
    seed: int | Literal["auto"] = Field(
        "auto", description="of the batches' order, the augmentation and dropout; auto: the trial's seed"
    )


class Distillation(_Section):
    """What a student learns from teachers, which `earsight distil` names; see `earsight.training.teachers`."""

    weight: float = Field(0.0, ge=0, le=1, description="share of the teachers in the loss; the labels have the rest")
    temperature: float = Field(2.0, gt=0, le=100, description="divides the student's and the teachers' logits there")


class Recipe(_Section):
    """Every choice of one experiment."""

    name: str = "default"
    features: Features = Features()
    normalize: Literal["dataset", "none"] = "dataset"
    backbone: Backbone = Backbone()
    transfer: Transfer = Transfer()
    augment: Augment = Augment()
    training: Training = Training()
    distillation: Distillation = Distillation()

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise _refusal(Recipe, error) from error

    @classmethod
    @checked()
    def load(cls, source: str | Path = "default", *, overrides: Iterable[str] | Mapping[str, Any] = ()) -> Recipe:
        """Read a recipe by its name in the package or from a YAML file, as `load_recipe` does.

        ``overrides`` are texts ``section.field=value``, or a mapping of such names to values.

        Examples
        --------
        >>> from earsight import Recipe
        >>> recipe = Recipe.load(overrides={"training.epochs": 10, "augment.mixup": 0})
        >>> recipe.training.epochs
        10
        >>> recipe
        <Recipe default: tf_efficientnet_lite0 from imagenet, log_mel, 10 epochs; digest e0d90fe61588>
        """
        return load_recipe(source, overrides=assigned(overrides))

    def __repr__(self) -> str:
        return (
            f"<Recipe {self.name}: {self.backbone.name} from {self.backbone.weights}, {self.features.representation}, "
            f"{counted(self.training.epochs, 'epoch')}; digest {self.digest}>"
        )

    def _repr_html_(self) -> str:
        """The whole recipe, for notebooks."""
        return f"<pre>{escape(self.to_yaml())}</pre>"

    def resolve(self, *, sample_rate_hz: int, clip_seconds: float, frames: int) -> Recipe:
        """The recipe with each feature field that is still ``auto`` filled in from a data set's."""
        found = {"sample_rate_hz": sample_rate_hz, "clip_seconds": clip_seconds, "frames": frames}
        if self.features.clip_seconds != "auto" and self.features.frames == "auto":
            # The user set the length: keep the data set's columns per second, not its number of columns.
            found["frames"] = max(16, round(frames * self.features.clip_seconds / clip_seconds))
        changes = {name: value for name, value in found.items() if getattr(self.features, name) == "auto"}
        return self.model_copy(update={"features": _validated(Features, {**self.features.model_dump(), **changes})})

    @checked()
    def override(self, assignments: Iterable[str] | Mapping[str, Any]) -> Recipe:
        """The recipe with assignments applied: texts ``section.field=value``, read as YAML, or a mapping.

        Examples
        --------
        >>> from earsight import Recipe
        >>> Recipe().override({"training.epochs": 2}) == Recipe().override(["training.epochs=2"])
        True
        """
        tree = self.model_dump(mode="json")
        for assignment in assigned(assignments):
            key, equals, text = assignment.partition("=")
            if not equals or not key.strip():
                raise RecipeError(f"--set {assignment}: expected section.field=value, as in training.epochs=10")
            *parents, leaf = key.strip().split(".")
            node: Any = tree
            for depth, part in enumerate(parents):
                if not isinstance(node, dict) or part not in node:
                    raise RecipeError(_unknown(".".join(parents[: depth + 1]), part, node))
                node = node[part]
            if not isinstance(node, dict) or leaf not in node:
                raise RecipeError(_unknown(key.strip(), leaf, node))
            try:
                value = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise RecipeError(f"--set {assignment}: the value is not YAML ({_one_line(error)})") from error
            node[leaf] = _number(value)
        return _validated(Recipe, tree)

    def to_yaml(self) -> str:
        """The whole recipe as YAML text, fields in their order."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=120)

    @property
    def digest(self) -> str:
        """Hash (12 hex digits) of the recipe's content, without its name."""
        content = self.model_dump(mode="json", exclude={"name"})
        for path, value in NEUTRAL.items():
            *parents, leaf = path.split(".")
            place = content[parents[0]] if parents else content
            if place[leaf] in (value if isinstance(value, tuple) else (value,)):
                del place[leaf]
        for path, (old, new) in _RENAMED.items():
            section, leaf = path.split(".")
            if content[section].get(leaf) == new:
                content[section][leaf] = old
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def assigned(overrides: Iterable[str] | Mapping[str, Any]) -> tuple[str, ...]:
    """Overrides as texts ``section.field=value``, of a mapping too."""
    if isinstance(overrides, Mapping):
        return tuple(f"{key}={json.dumps(value, default=str, ensure_ascii=False)}" for key, value in overrides.items())
    return (overrides,) if isinstance(overrides, str) else tuple(overrides)


def list_recipes() -> list[str]:
    """Names of the recipes in the package, such as ``default`` or ``paper/esc50-densenet201-pretrained``."""
    return [name for name in _packaged() if not name.rpartition("/")[2].startswith("_")]


def load_recipe(
    source: str | Path = "default", *, overrides: Iterable[str] = (), say: Callable[[str], None] | None = None
) -> Recipe:
    """Read a recipe by the name it has in the package or from a YAML file, and apply overrides.

    A recipe may say ``extends: NAME``, or a list of names, and give only what differs. Of several the later wins; one
    that is reached by two ways counts once, before all that extend it. ``say`` is called with one line if the recipe or
    an override has a value under a name that it no longer has. RecipeError if there is no such recipe, it extends
    itself, a key is unknown (the near name is suggested), or a value does not fit.
    """
    lineage = _lineage(str(source))
    for name, (text, _) in lineage.items():
        if not seal_fits(text):
            say_once(
                f"{name}: does not fit its digest: it was changed by hand, or it is damaged; if the change was meant, "
                "remove the line with the digest"
            )
    tree: dict[str, Any] = reduce(_merged, (tree for _, tree in lineage.values()))
    given = tuple(overrides)
    recipe = _validated(Recipe, tree).override(given)
    old = [
        f"{path}: {old} is now called {new}" for path, (old, new) in _RENAMED.items() if _says(tree, given, path, old)
    ]
    if say and old:
        say(f"  note: {'; '.join(old)}; the old name is still read")
    return recipe


def _says(tree: dict[str, Any], overrides: Iterable[str], path: str, value: str) -> bool:
    """Whether a recipe's tree or one of the overrides gives a field this value."""
    section, leaf = path.split(".")
    return tree.get(section, {}).get(leaf) == value or f"{path}={value}" in ("".join(o.split()) for o in overrides)


def recipe_notes(source: str | Path = "default") -> dict[str, list[str]]:
    """The comments that open a recipe's file and those of all that it extends, line by line; its own come first.

    In the package a recipe's own first line is the command that runs it, the second says what it is.
    """
    out = {}
    for name, (text, _) in reversed(_lineage(str(source)).items()):
        opening = takewhile(lambda line: line.startswith("#"), text.splitlines())
        out[name] = [line[1:].removeprefix(" ").rstrip() for line in opening if not line.startswith(SEAL)]
    return out


def parse_recipe(text: str, *, where: str = "recipe") -> Recipe:
    """A recipe from YAML text."""
    return _validated(Recipe, _mapping(text, where))


def _lineage(
    source: str, *, chain: tuple[str, ...] = (), found: dict[str, tuple[str, dict[str, Any]]] | None = None
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Text and tree of all that a recipe extends, ancestors first, and of itself, last."""
    found = {} if found is None else found
    is_file = source.endswith((".yaml", ".yml"))
    # One spelling for a file, so that ../here/a.yaml in a.yaml is recognised as itself.
    identity = str(Path(source).resolve()) if is_file else source
    if identity in chain:
        names = " -> ".join(map(_short, (*chain, identity)))
        raise RecipeError(f"recipe {source} extends itself ({names}): remove one 'extends' line")
    if identity in found:
        return found
    text = _recipe_text(source, where=f"recipe {_short(chain[-1])} extends {source}" if chain else f"recipe {source}")
    tree = _mapping(text, source)
    parents = tree.pop("extends", [])
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise RecipeError(f"recipe {source}: extends is {parents!r}; expected the name of a recipe, or a list of names")
    for parent in parents:
        beside = Path(source).parent / parent
        name = str(beside) if is_file and beside.is_file() else parent
        _lineage(name, chain=(*chain, identity), found=found)
    found[identity] = text, {"name": Path(source).stem if is_file else source, **tree}
    return found


def _short(identity: str) -> str:
    return Path(identity).name if identity.startswith(os.sep) else identity


def _packaged() -> list[str]:
    """Names of all recipe files in the package; those that begin with an underscore are parts of others."""
    return sorted(path.relative_to(_RECIPES).with_suffix("").as_posix() for path in _RECIPES.rglob("*.yaml"))


def _recipe_text(source: str, *, where: str) -> str:
    if source.endswith((".yaml", ".yml")):
        path = Path(source)
        if not path.is_file():
            raise RecipeError(f"{where}: no such file; `earsight recipe list` shows the ones in the package")
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{where}: cannot be read as UTF-8 text ({_one_line(error)})") from error
    if source not in _packaged():
        near = difflib.get_close_matches(source, list_recipes(), n=1, cutoff=0.5)
        known = "`earsight recipe list` shows the names, and a file must end in .yaml"
        hint = f"did you mean '{near[0]}'? ({known})" if near else known
        raise RecipeError(f"{where}: unknown; {hint}")
    return (_RECIPES / f"{source}.yaml").read_text(encoding="utf-8")


def _mapping(text: str, where: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise RecipeError(f"recipe {where}: not YAML ({_one_line(error)})") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise RecipeError(f"recipe {where}: expected 'section: ...' lines, found {type(tree).__name__}")
    return _numbers(tree)


def _numbers(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: _numbers(value) if isinstance(value, dict) else _number(value) for key, value in tree.items()}


def _number(value: Any) -> Any:
    """Read 1e-3 as a number, which YAML 1.1 reads as text; other texts that look like numbers were quoted."""
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    return "none" if value is None else value


def _merged(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in top.items():
        below = out.get(key)
        out[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return out


def recipe_from(tree: Mapping[str, Any]) -> Recipe:
    """The recipe that a tree of JSON values holds; RecipeError if it holds none."""
    return _validated(Recipe, tree)


def _validated(kind: type[_M], tree: Mapping[str, Any]) -> _M:
    try:
        return kind.model_validate({str(key): value for key, value in tree.items()})
    except ValidationError as error:
        raise _refusal(kind, error) from error


def _refusal(kind: type[_Section], error: ValidationError) -> RecipeError:
    return RecipeError("; ".join(_explain(kind, item) for item in error.errors()[:3]))


def _explain(kind: type[_Section], item: Any) -> str:
    """One pydantic error as one clause: the field, what was found, what was expected."""
    location = [str(part) for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        section: Any = kind
        for part in location[:-1]:
            section = section.model_fields[part].annotation
        return _unknown(".".join(location), location[-1], section.model_fields)
    where = ".".join(part for part in location if not part.startswith(("literal[", "constrained-", "int", "float")))
    found = f" (found {shown(item['input'])})" if not isinstance(item["input"], dict) else ""
    return f"recipe: {where + ': ' if where else ''}{item['msg'].removeprefix('Value error, ')}{found}"


def _fields_of(field: Any) -> Mapping[str, Any]:
    return getattr(field.annotation, "model_fields", {})


def fields_named(name: str) -> list[str]:
    """The fields of a recipe that have a name, or that other programs call so, with their sections."""
    name = _ELSEWHERE.get(name, name)
    return [f"{one}.{name}" for one, field in Recipe.model_fields.items() if name in _fields_of(field)]


_ELSEWHERE = {"lr": "learning_rate", "n_mels": "bands", "sample_rate": "sample_rate_hz", "duration": "clip_seconds"}
_ELSEWHERE |= {"pretrained": "weights", "n_epochs": "epochs", "num_epochs": "epochs", "bs": "batch_size"}


def _unknown(path: str, name: str, known: Any) -> str:
    names = [str(key) for key in known] if isinstance(known, Mapping) else []
    homes = fields_named(name)
    near = homes[:1] if "." not in path and homes else difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(names)}" if names else ""
    return f"recipe: {path}: no such field{hint}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
