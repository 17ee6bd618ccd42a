"""Shell completion: what bash, zsh and fish are told for words that were begun."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from earsight.inference.formats import FORMATS
from earsight.recipe import list_recipes

WORDS = [
    ("earsight cr", {"crossval"}),
    ("earsight analyze f", {"fusion", "freeze"}),
    ("earsight train --recipe paper/gtzan-r", {name for name in list_recipes() if name.startswith("paper/gtzan-r")}),
    ("earsight recipe show def", {"default"}),
    ("earsight train DATA --set training.ep", {"training.epochs="}),
    ("earsight predict m.safetensors --format a", {name for name in FORMATS if name.startswith("a")}),
    ("earsight calibrate RUN --sets ", {"lac", "aps"}),
    ("earsight tune DATA --on ", {"local", "ray"}),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A PATH on which `earsight` is this checkout's."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "earsight"
    script.write_text(f"#!{sys.executable}\nfrom earsight.cli import main\n\nmain()\n")
    script.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def asked(path, **variables):
    done = subprocess.run(
        ["earsight"],
        env={**os.environ, "PATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        executable=Path(path.partition(os.pathsep)[0]) / "earsight",
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(("line", "wanted"), WORDS)
def test_bash_is_told_what_fits(path, line, wanted):
    assert wanted
    place = str(len(line.split(" ")) - 1)
    text = asked(path, _EARSIGHT_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=place)
    assert set(text.split()) == wanted


@pytest.mark.parametrize(("line", "wanted"), WORDS[:3])
def test_zsh_is_told_what_fits(path, line, wanted):
    text = asked(path, _EARSIGHT_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line)
    assert text.startswith("_arguments '*: :((")
    assert {found.partition('"')[0] for found in text.split('(("')[1].split('\n"')} == wanted


@pytest.mark.parametrize(("line", "wanted"), WORDS[:3])
def test_fish_is_told_what_fits(path, line, wanted):
    text = asked(
        path,
        _EARSIGHT_COMPLETE="complete_fish",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
        _TYPER_COMPLETE_ARGS=line,
    )
    assert {found.partition("\t")[0] for found in text.splitlines()} == wanted


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(path, shell):
    script = asked(path, _EARSIGHT_COMPLETE=f"source_{shell}")
    assert f"_EARSIGHT_COMPLETE=complete_{shell}" in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_itself_completes_a_verb_and_files(path, tmp_path):
    """The script in a bash, whose function is called as a press of the tabulator does."""
    script = asked(path, _EARSIGHT_COMPLETE="source_bash")
    asks = "\n".join(
        f'COMP_WORDS=({line}) COMP_CWORD={place} COMPREPLY=()\n_earsight_completion earsight\necho "${{COMPREPLY[*]}}"'
        for line, place in (("earsight qui", 1), ("earsight train my_so", 2))
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\n{asks}"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == ["quickstart", ""], "where nothing fits, bash goes on with files (-o default)"
    assert "-o default" in script
