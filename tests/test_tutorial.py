"""The tutorial's commands, run as they stand there with a tiny network, print what the page says that they print."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from earsight import quickstart
from earsight.cli import app
from earsight.data.synthetic import KINDS
from earsight.recipe import Recipe
from test_readme import TINY

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
LEFT_OUT = "..."


def plain(text):
    """A line without what depends on the network and the machine: numbers, classes, rules of tables, blanks."""
    text = re.sub("|".join(sorted(KINDS, key=len, reverse=True)), "CLASS", text)
    text = re.sub(r"[0-9a-f]{12,}", "#", text)
    text = re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "#", text)
    return " ".join(re.sub("[│┃━─┏┓┗┛┡┩└┘├┤┬┴┼╇┳]", " ", text).split())


def steps():
    """Each command of the page with the lines that follow it as printed."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    found = []
    for kind, block in blocks:
        if kind == "text":
            found[-1][1].extend(block.splitlines())
        elif not kind:
            found += [
                (shlex.split(line.split(" # ")[0])[1:], []) for line in block.splitlines() if line[:8] == "earsight"
            ]
    return found


def first_absent(wanted, printed):
    """The first line that is not printed, in this order; None where all are."""
    rest = iter([plain(line) for line in printed])
    lines = [line for line in wanted if line.strip() != LEFT_OUT and plain(line)]
    return next((line for line in lines if plain(line) not in rest), None)


@pytest.mark.timeout(600)
def test_the_tutorial_prints_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = [word.removeprefix("--set=") for word in TINY if "epochs" not in word]
    monkeypatch.setattr(quickstart, "_RECIPE", (*quickstart._RECIPE, *tiny))
    done = []
    for words, wanted in steps():
        more = ["--epochs", "1"] if words[0] == "quickstart" else TINY if words[0] == "train" else []
        words = [word for word in words if not word.startswith("training.epochs") and word != "--set"]
        result = CliRunner().invoke(app, [*words, *more])
        assert result.exit_code == 0, result.output
        assert wanted, f"the page does not say what {words[0]} prints"
        lost = first_absent(wanted, result.output.splitlines())
        assert lost is None, f"earsight {shlex.join(words)} does not print\n{lost}\nbut\n{result.output}"
        done.append(words[0])
    assert done[:3] == ["quickstart", "check", "train"]
    assert {"predict", "evaluate", "explain", "report"} <= set(done)


def test_what_is_not_printed_is_seen():
    assert first_absent(["b 2 siren"], ["a", "b 17.5 rain"]) is None
    assert first_absent(["a", LEFT_OUT, "c"], ["a", "b", "c"]) is None
    assert first_absent(["c", "a"], ["a", "b", "c"]) == "a"
    assert first_absent(["training ends"], ["training began"]) == "training ends"


def test_every_page_is_in_the_site():
    """`.ci/run` builds it, with warnings as errors; a page that the index does not name would be a warning."""
    index = (PAGE.parent / "index.md").read_text(encoding="utf-8")
    named = {line for block in re.findall(r"```{toctree}\n(.*?)```", index, re.DOTALL) for line in block.splitlines()}
    assert {path.stem for path in PAGE.parent.glob("*.md")} - {"index"} <= named


def test_every_field_of_a_recipe_has_its_row():
    site = runpy.run_path(str(PAGE.parent / "conf.py"))
    page = (PAGE.parent / "recipe.md").read_text(encoding="utf-8").replace(site["FIELDS"], site["recipe_fields"]())
    for name, field in Recipe.model_fields.items():
        for leaf in getattr(field.annotation, "model_fields", {}):
            assert f"| `{name}.{leaf}` | " in page
        assert f"`{name}`" in page or f"## {name}" in page
    assert "| `training.epochs` | `30` | from 1 to 10000 | times through" in page
    assert "| `features.sample_rate_hz` | `auto` | `auto`, or a number | to which" in page
    assert "| `features.fmax_hz` | `none` | `none`, or a number above 0 | the highest" in page
    assert "`right`, `loudest`, or a number from 1 to 1024 | of several" in page


@pytest.mark.parametrize("page", sorted(PAGE.parent.glob("*.md")), ids=lambda path: path.stem)
def test_options_of_commands_exist(page):
    """Of the commands in all pages, which most of them do not run."""
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for line in [line.split(" # ")[0] for block in blocks for line in block.splitlines() if line[:8] == "earsight"]:
        command, words = typer.main.get_command(app), shlex.split(line)[1:]
        while hasattr(command, "commands") and not words[0].startswith("-"):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= {*known, "--help"}, line
