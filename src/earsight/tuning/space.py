"""Points of a search: a recipe with fields from a grid or drawn at random.

Comes in: ``field=1e-3,1e-4`` for a grid, ``field=loguniform(1e-5,1e-2)`` for draws. Goes out: `Point` s, each a whole
recipe that has been checked. The same texts give the same points, so that a search that was stopped goes on.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import yaml

from earsight.errors import RecipeError
from earsight.recipe import Recipe

_DRAW = re.compile(r"(?P<kind>[a-z]+)\((?P<values>[^()]*)\)")
_EXAMPLE = "training.learning_rate=loguniform(1e-5,1e-2)"

Draw = Callable[[np.random.Generator], Any]


@dataclass(frozen=True)
class Point:
    """One recipe of a search: the values that were set, by field, and the whole recipe, not resolved."""

    values: dict[str, Any]
    recipe: Recipe

    @property
    def name(self) -> str:
        """Its values as text: ``learning_rate=0.001 weight_decay=0.01``."""
        return " ".join(f"{short(field)}={shown(value)}" for field, value in self.values.items())


def short(field: str) -> str:
    """The last part of a field's name."""
    return field.rpartition(".")[2]


def shown(value: Any) -> str:
    """A value as text, floats in short form."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def make_points(
    base: Recipe, *, grid: Sequence[str] = (), random: Sequence[str] = (), samples: int = 1, seed: int = 0
) -> list[Point]:
    """All different points: every combination of the grid, with each of some draws of the random fields.

    ``base`` has the fields that are not searched; a grid is ``section.field=value,value``, with values as YAML reads
    them; a random field is ``section.field=KIND(...)``: uniform(low,high), loguniform(low,high), integer(low,high) with
    both ends, or choice(value,value). More ``samples`` of these keep those of fewer, drawn by the seed. RecipeError if
    a field is unknown or named twice, a text cannot be read, or the recipe refuses a value.
    """
    if not grid and not random:
        raise RecipeError(
            "nothing to search: give --grid section.field=value,value or --random 'section.field=loguniform(low,high)'"
        )
    lists = dict(_grid(text) for text in grid)
    draws = dict(_random(text) for text in random)
    fields = [text.partition("=")[0].strip() for text in (*grid, *random)]
    twice = next((field for field in fields if fields.count(field) > 1), None)
    if twice:
        raise RecipeError(f"{twice}: named twice; give all of its values in one --grid")
    generator = np.random.default_rng(seed)
    drawn = [{field: draw(generator) for field, draw in draws.items()} for _ in range(samples if draws else 1)]
    points: dict[str, Point] = {}
    for some in drawn:
        for chosen in itertools.product(*lists.values()):
            values = dict(zip(lists, chosen, strict=True)) | some
            recipe = base.override(f"{field}={json.dumps(value)}" for field, value in values.items())
            content = recipe.model_dump(mode="json")  # has a number where the text of one was given
            seen = {field: reduce(dict.__getitem__, field.split("."), content) for field in values}
            points.setdefault(recipe.digest, Point(seen, recipe))
    return list(points.values())


def _grid(text: str) -> tuple[str, list[Any]]:
    """Field and values of a ``--grid``."""
    field, values = _halves(text, "--grid", "training.learning_rate=1e-3,1e-4")
    found = _values(values, f"--grid {text}")
    if not found:
        raise RecipeError(f"--grid {text}: no value; expected such as training.learning_rate=1e-3,1e-4")
    return field, found


def _random(text: str) -> tuple[str, Draw]:
    """Field and draw of a ``--random``."""
    field, how = _halves(text, "--random", _EXAMPLE)
    match = _DRAW.fullmatch(how.strip())
    if not match or match["kind"] not in (*_DRAWS, "choice"):
        kinds = ", ".join((*_DRAWS, "choice"))
        raise RecipeError(f"--random {text}: expected {kinds} with values in brackets, such as {_EXAMPLE}")
    values = _values(match["values"], f"--random {text}")
    if match["kind"] == "choice":
        if not values:
            raise RecipeError(f"--random {text}: no value to choose from")
        return field, lambda generator: values[int(generator.integers(len(values)))]
    try:
        low, high = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"--random {text}: expected two numbers in brackets, such as {_EXAMPLE}") from error
    if not low < high or (match["kind"] == "loguniform" and low <= 0):
        raise RecipeError(f"--random {text}: expected a lower and a higher number, above 0 for loguniform")
    draw = _DRAWS[match["kind"]]
    return field, lambda generator: draw(generator, low, high)


def _rounded(value: float) -> float:
    """Round a drawn value to four significant digits, so that it can be read and typed."""
    return float(f"{value:.4g}")


_DRAWS: dict[str, Callable[[np.random.Generator, float, float], Any]] = {
    "uniform": lambda generator, low, high: _rounded(generator.uniform(low, high)),
    "loguniform": lambda generator, low, high: _rounded(np.exp(generator.uniform(np.log(low), np.log(high)))),
    "integer": lambda generator, low, high: int(generator.integers(int(low), int(high) + 1)),
}


def _halves(text: str, option: str, example: str) -> tuple[str, str]:
    """What is left and right of the first ``=``."""
    field, equals, rest = text.partition("=")
    if not equals or not field.strip() or not rest.strip():
        raise RecipeError(f"{option} {text}: expected section.field=..., such as {example}")
    return field.strip(), rest


def _values(text: str, where: str) -> list[Any]:
    """Values between commas, as YAML reads them: a list in square brackets is one value."""
    try:
        return list(yaml.safe_load(f"[{text}]"))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())[:120]
        raise RecipeError(f"{where}: the values are not YAML ({reason})") from error
