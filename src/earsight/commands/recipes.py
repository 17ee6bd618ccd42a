"""Verbs that show recipes: list and show."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from earsight.commands.options import Set
from earsight.console import out, verb


@verb
def recipe_list() -> None:
    """List the names of the recipes in the package."""
    from earsight.recipe import list_recipes

    for name in list_recipes():
        out.print(name, markup=False)


@verb
def recipe_show(
    name: Annotated[str, typer.Argument(help="Name in the package, or a .yaml file.")] = "default",
    assignments: Set = None,
) -> None:
    """Print a recipe, every field with its value."""
    from earsight.recipe import load_recipe

    sys.stdout.write(load_recipe(name, overrides=assignments or ()).to_yaml())
