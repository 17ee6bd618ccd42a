"""A scale (paper, small): its list of recipes for the tables and figures, and the published figures.

Comes in: the name of a scale in the package (``paper``, ``small``) or a YAML file. Goes out: a `Scale`. Figures are
accuracies in per cent, as published. The recipes say how a network is trained.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from earsight.errors import RecipeError

Section = Literal["table1", "table2", "table3", "representations", "windows", "figures"]
SECTIONS: tuple[Section, ...] = get_args(Section)
SCALES = ("paper", "small")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Comparison(_Part):
    """A row of Table I: one network from ImageNet weights and from random ones."""

    data: str
    model: str
    pretrained: str
    random: str
    paper: tuple[float, float] | None = None
    paper_data: str | None = Field(None, description="what the paper's figures are of, if not of ``data``")


class Repeated(_Part):
    """A row of Table II: one recipe with several seeds; the paper's single mean, its deviation, and the ensemble."""

    data: str
    model: str
    recipe: str
    paper: tuple[float, float, float] | None = None
    paper_data: str | None = None


class Other(_Part):
    """A row of Table III that is not ours: who, where it was published, and figures by data set."""

    who: str
    source: str
    figures: dict[str, float]


class Representation(_Part):
    """A row of the comparison of representations."""

    name: str
    recipe: str


class Table1(_Part):
    """Pretrained against random."""

    seeds: int = Field(1, ge=1)
    rows: tuple[Comparison, ...]


class Table2(_Part):
    """Single networks and their ensemble."""

    seeds: int = Field(5, ge=2)
    rows: tuple[Repeated, ...]


class Table3(_Part):
    """Ours beside what others published."""

    seeds: int = Field(5, ge=2)
    data: tuple[str, ...]
    ours: tuple[Repeated, ...]
    others: tuple[Other, ...]


class Representations(_Part):
    """One network on several kinds of spectrograms; ``best`` is the recipe of the one that the paper found best."""

    seeds: int = Field(1, ge=1)
    data: str
    best: str
    rows: tuple[Representation, ...]


class OneOrThree(_Part):
    """A row of the comparison of windows: one recipe with three windows, a channel each, and with one for all."""

    data: str
    model: str
    three: str
    one: str


class Windows(_Part):
    """Three windows against one."""

    seeds: int = Field(1, ge=1)
    rows: tuple[OneOrThree, ...]


class Figures(_Part):
    """The analyses: of a pretrained and a random run, and sweeps over the stages of the pretrained one."""

    seeds: int = Field(1, ge=1)
    data: str
    folds: tuple[int, ...] | None = None
    pretrained: str
    random: str
    stages: str | None = Field(None, description="of the sweeps, as `earsight analyze --stages` takes them")
    explained: int = Field(4, ge=1, description="held-out clips that Figure 3 shows")
    observed: int = Field(20, ge=1, description="held-out clips a fold for the boundaries")


class Scale(_Part):
    """The paper's experiments at one size."""

    name: str
    title: str
    notes: tuple[str, ...] = ()
    folds: dict[str, tuple[int, ...]] = {}
    table1: Table1 | None = None
    table2: Table2 | None = None
    table3: Table3 | None = None
    representations: Representations | None = None
    windows: Windows | None = None
    figures: Figures | None = None

    @property
    def sections(self) -> tuple[Section, ...]:
        """Its sections, in the paper's order."""
        return tuple(section for section in SECTIONS if getattr(self, section) is not None)


def load_scale(source: str) -> Scale:
    """Read a scale by its name in the package, or from a YAML file; RecipeError if there is none or it is broken."""
    is_file = source.endswith((".yaml", ".yml"))
    if not is_file and source not in SCALES:
        raise RecipeError(f"--scale {source}: unknown; choose from {', '.join(SCALES)}, or name a .yaml file")
    place = Path(source) if is_file else resources.files("earsight") / "experiments" / f"{source}.yaml"
    if not place.is_file():
        raise RecipeError(f"--scale {source}: no such file; or choose from {', '.join(SCALES)}")
    try:
        tree = yaml.safe_load(place.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"--scale {source}: not YAML ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"--scale {source}: expected 'table1: ...' lines, found {type(tree).__name__}")
    try:
        return Scale.model_validate({"name": source, **tree})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RecipeError(f"--scale {source}: {where}: {first['msg']} (found {first['input']!r})") from error
