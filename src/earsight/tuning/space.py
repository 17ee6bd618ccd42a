"""The points of a search: a recipe with some of its fields set to each of some values, or drawn.

Comes in: ``field=1e-3,1e-4`` for a grid, ``field=loguniform(1e-5,1e-2)`` for draws. Goes out: `Point` s, each a whole
recipe that has been checked. The same texts give the same points, so that a search that was stopped goes on.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from earsight.errors import RecipeError
from earsight.recipe import Recipe

_DRAW = re.compile(r"(?P<kind>[a-z]+)\((?P<numbers>[^()]*)\)")
_DIGITS = 4
"""Significant digits of drawn values: they are read and typed by people."""

Draw = Callable[[np.random.Generator], Any]


@dataclass(frozen=True)
class Point:
    """One recipe of a search.

    Attributes
    ----------
    values : dict of str to value
        What was set, by field.
    recipe : Recipe
        The whole recipe, not resolved.
    """

    values: dict[str, Any]
    recipe: Recipe

    @property
    def name(self) -> str:
        """Its values, for people: ``learning_rate=0.001 weight_decay=0.01``."""
        return " ".join(f"{short(field)}={shown(value)}" for field, value in self.values.items())


def short(field: str) -> str:
    """The last part of a field's name."""
    return field.rpartition(".")[2]


def shown(value: Any) -> str:
    """A value as a person would write it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def make_points(
    base: Recipe, *, grid: Sequence[str] = (), random: Sequence[str] = (), samples: int = 1, seed: int = 0
) -> list[Point]:
    """All points: every combination of the grid, with each of some draws of the random fields.

    Parameters
    ----------
    base : Recipe
        What is not searched for.
    grid : sequence of str
        ``section.field=value,value``; values are read as YAML.
    random : sequence of str
        ``section.field=KIND(...)``: uniform(low,high), loguniform(low,high), integer(low,high) with both ends, or
        choice(value,value).
    samples : int
        Draws of the random fields; more of them keep those of fewer.
    seed : int
        Of the draws.

    Returns
    -------
    list of Point
        Without repetitions.

    Raises
    ------
    RecipeError
        If a field is unknown or named twice, a text cannot be read, or the recipe refuses a value.
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
            seen = {field: _field(recipe, field) for field in values}
            points.setdefault(recipe.digest, Point(seen, recipe))
    return list(points.values())


def _field(recipe: Recipe, field: str) -> Any:
    """The value as the recipe has it, a number where the text of one was given."""
    node: Any = recipe.model_dump(mode="json")
    for part in field.split("."):
        node = node[part]
    return node


def _grid(text: str) -> tuple[str, list[Any]]:
    field, values = _halves(text, "--grid", "training.learning_rate=1e-3,1e-4")
    found = _values(values, f"--grid {text}")
    if not found:
        raise RecipeError(f"--grid {text}: no value; expected such as training.learning_rate=1e-3,1e-4")
    return field, found


def _random(text: str) -> tuple[str, Draw]:
    example = "training.learning_rate=loguniform(1e-5,1e-2)"
    field, how = _halves(text, "--random", example)
    match = _DRAW.fullmatch(how.strip())
    if not match or match["kind"] not in _KINDS:
        raise RecipeError(f"--random {text}: expected {', '.join(_KINDS)} with values in brackets, such as {example}")
    values = _values(match["numbers"], f"--random {text}")
    if match["kind"] == "choice":
        if not values:
            raise RecipeError(f"--random {text}: no value to choose from")
        return field, lambda generator: values[int(generator.integers(len(values)))]
    try:
        low, high = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"--random {text}: expected two numbers in brackets, such as {example}") from error
    if not low < high or (match["kind"] == "loguniform" and low <= 0):
        raise RecipeError(f"--random {text}: expected a lower and a higher number, above 0 for loguniform")
    return field, _KINDS[match["kind"]](low, high)


def _uniform(low: float, high: float) -> Draw:
    return lambda generator: _rounded(generator.uniform(low, high))


def _loguniform(low: float, high: float) -> Draw:
    return lambda generator: _rounded(np.exp(generator.uniform(np.log(low), np.log(high))))


def _integer(low: float, high: float) -> Draw:
    return lambda generator: int(generator.integers(int(low), int(high) + 1))


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


_KINDS: dict[str, Any] = {"uniform": _uniform, "loguniform": _loguniform, "integer": _integer, "choice": None}


def _halves(text: str, option: str, example: str) -> tuple[str, str]:
    field, equals, rest = text.partition("=")
    if not equals or not field.strip() or not rest.strip():
        raise RecipeError(f"{option} {text}: expected section.field=..., such as {example}")
    return field.strip(), rest


def _values(text: str, where: str) -> list[Any]:
    """Values between commas, as YAML reads them: a list in square brackets is one value."""
    try:
        found = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())[:120]
        raise RecipeError(f"{where}: the values are not YAML ({reason})") from error
    return list(found)
