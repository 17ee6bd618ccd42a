"""Option groups: a verb that takes data classes has the options of their fields, in their places."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from earsight.cli import app
from earsight.commands.options import DataOptions, RayOptions, grouped


@dataclass(frozen=True)
class Shape:
    width: Annotated[int, typer.Option("--wide", min=1, help="How wide.")] = 2
    names: Annotated[list[str] | None, typer.Option("--name")] = None


def _app(found):
    one = typer.Typer()

    @one.command()
    @grouped
    def draw(path: str, *, first: bool = False, shape: Shape, last: Annotated[int, typer.Option()]) -> None:
        """Draw."""
        found.append((path, first, shape, last))

    return one, draw


def test_a_group_stands_as_its_fields():
    found = []
    one, draw = _app(found)
    assert list(inspect.signature(draw).parameters) == ["path", "first", "width", "names", "last"]
    assert (draw.__name__, draw.__doc__) == ("draw", "Draw.")
    run = CliRunner().invoke
    assert run(one, ["here", "--last", "3"]).exit_code == 0
    assert run(one, ["there", "--wide", "7", "--name", "a", "--name", "b", "--first", "--last", "4"]).exit_code == 0
    assert found == [("here", False, Shape(), 3), ("there", True, Shape(7, ["a", "b"]), 4)]
    refused = run(one, ["here", "--wide", "0", "--last", "3"])
    assert refused.exit_code == 2
    assert "How wide." in run(one, ["--help"]).output


def test_verbs_keep_their_own_defaults():
    """A search runs on Ray unless told otherwise, all other verbs here; the groups' other defaults are the same."""
    commands = typer.main.get_command(app).commands
    on = {name: {option.name: option.default for option in command.params} for name, command in commands.items()}
    assert {name for name, options in on.items() if options.get("on") == "ray"} == {"tune"}
    assert on["crossval"]["on"] == RayOptions().on == "local"
    assert on["train"]["splits"] == on["tune"]["splits"] == DataOptions().splits
