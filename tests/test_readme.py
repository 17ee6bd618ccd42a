"""The README's commands, run as they stand there, on small sounds and with a tiny network."""

from __future__ import annotations

import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from earsight.cli import app
from earsight.data.datasets import Dataset
from earsight.recipe import list_recipes, load_recipe

README = Path(__file__).parents[1] / "README.md"
TINY = [
    f"--set={assignment}"
    for assignment in (
        "backbone.name=test_resnet",
        "backbone.weights=none",
        "training.epochs=1",
        "features.bands=32",
        "features.frames=32",
        "augment.pitch_semitones=0",
    )
]
NEEDS_MORE = {
    "quickstart": "tests/test_quickstart.py runs it",
    "analyze": "it needs runs, and pretrained weights of a small network; tests/test_analyze.py runs its verbs",
    "reproduce": "its networks are large; tests/experiments run it with tiny ones",
    "tune": "it starts Ray; tests/test_cli_cluster.py runs it without, tests/training/test_remote.py on a cluster",
    "serve": "it runs until it is stopped; tests/serving/test_server.py runs it",
    "download": "it needs a network; tests/data/test_download.py runs it against a local server",
}


def commands() -> list[list[str]]:
    """Every `earsight` command in the README's code blocks, without comments."""
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line.split(" # ")[0].strip() for kind, block in blocks if not kind for line in block.splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [shlex.split(part)[1:] for part in parts if part.startswith("earsight ")]


@pytest.fixture
def desk(tmp_path: Path, synthetic: Dataset, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds what the README names: a folder a class, new sounds, and an ESC-50."""
    monkeypatch.chdir(tmp_path)
    for row, clip in enumerate(synthetic.clips):
        (tmp_path / "my_sounds" / clip.label).mkdir(parents=True, exist_ok=True)
        shutil.copy(synthetic.file(row), tmp_path / "my_sounds" / clip.label)
    (tmp_path / "new").mkdir()
    shutil.copy(synthetic.file(0), tmp_path / "new" / "one.wav")
    (tmp_path / "path" / "to").mkdir(parents=True)
    shutil.copytree(synthetic.root, tmp_path / "path" / "to" / "ESC-50")
    table = tmp_path / "path" / "to" / "ESC-50" / "meta" / "esc50.csv"
    table.write_text(table.read_text().replace("FALSE", "TRUE").replace("False", "True"))
    (tmp_path / "DATA").symlink_to(tmp_path / "my_sounds")
    (tmp_path / "my.yaml").write_text("extends: default\ntraining:\n  weight_decay: 0.05\n")
    return tmp_path


def test_the_readme_has_the_two_commands_that_set_everything_up() -> None:
    text = README.read_text(encoding="utf-8")
    assert "python -m pip install . && earsight quickstart" in text
    assert "python -m pip install -e '.[dev]' && pytest" in text


@pytest.mark.timeout(240)
def test_every_command_of_the_readme_runs(desk: Path) -> None:
    found = commands()
    verbs = {words[0] for words in found}
    assert {"quickstart", "check", "train", "predict", "crossval", "recipe", "download"} <= verbs
    runner = CliRunner()
    for words in found:
        if words[0] in NEEDS_MORE or words == ["VERB", "--help"]:
            continue
        # The shell expands the pattern; the file of weights is the reader's own.
        words = [name for word in words for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
        words = [word.replace("resnet50.pth", "none") for word in words]
        if words[0] in ("train", "crossval", "distil"):
            words += [*TINY, *(["--folds", "1"] if words[0] == "crossval" else [])]
        if words[:2] == ["analyze", "boundaries"]:
            words += ["--clips", "1"]
        result = runner.invoke(app, words)
        assert result.exit_code == 0, f"earsight {shlex.join(words)}\n{result.output}"


def test_every_run_that_the_readme_names_was_made_by_a_command_above() -> None:
    made: set[str] = set()
    for words in commands():
        given = [word for before, word in pairwise(words) if word.startswith("runs/") and before != "--out"]
        assert all("/".join(Path(word).parts[:2]) in made for word in given), shlex.join(words)
        made |= {word for before, word in pairwise(words) if before == "--out"}
    assert len(made) > 5


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_of_the_package_parses(name: str) -> None:
    assert load_recipe(name).to_yaml()
