"""Verbs that show recipes: list and show."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from earsight.commands.options import Json, Set
from earsight.console import out, print_json, verb


@verb
def recipe_list(json_output: Json = False) -> None:
    """List the recipes in the package, each with a line on what it is."""
    from earsight.recipe import list_recipes, recipe_notes

    about = {name: recipe_notes(name)[name][1] for name in list_recipes()}
    if json_output:
        print_json([{"name": name, "about": line} for name, line in about.items()])
        return
    width = max(map(len, about))
    for name, line in about.items():
        out.print(f"{name:{width}}  {line}", markup=False)


@verb
def recipe_show(
    name: Annotated[str, typer.Argument(help="Name in the package, or a .yaml file.")] = "default",
    assignments: Set = None,
) -> None:
    """Print a recipe, every field with its value, under its notes and those of what it extends."""
    from earsight.recipe import load_recipe, recipe_notes

    text = load_recipe(name, overrides=assignments or ()).to_yaml()
    for number, (source, lines) in enumerate(recipe_notes(name).items()):
        for line in [f"-- {source}", *lines] if number and lines else lines:
            sys.stdout.write(f"# {line}".rstrip() + "\n")
    sys.stdout.write(text)
