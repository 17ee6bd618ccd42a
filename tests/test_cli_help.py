"""What `--help` shows: verbs by task, whole sentences at every width, and examples that run."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from earsight.cli import TASKS, app
from earsight.commands.examples import EXAMPLES
from test_readme import TINY

ROOT = typer.main.get_command(app)
WIDTHS = (60, 80, 120)


def verbs(command=ROOT, *names):
    """Every verb by its words, without the groups."""
    inner = getattr(command, "commands", None)
    if inner is None:
        return {" ".join(names): command}
    return {key: one for name, child in inner.items() for key, one in verbs(child, *names, name).items()}


VERBS = verbs()


def shown(*words, width):
    done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": str(width)}, terminal_width=width)
    assert done.exit_code == 0
    return done.stdout


def first_sentence(text):
    return " ".join(text.partition("\n\n")[0].split())


def packed(text):
    """A text without blanks: however it was broken into lines."""
    return "".join(text.split())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("group", [(), ("analyze",), ("recipe",)], ids=" ".join)
def test_groups_list_whole_descriptions(group, width):
    text = shown(*group, width=width)
    assert all(len(line) <= width for line in text.splitlines())
    inner = ROOT if not group else ROOT.commands[group[0]]
    assert inner.commands
    for name, command in inner.commands.items():
        assert packed(name + first_sentence(command.help)) in packed(text)


def test_verbs_stand_under_their_tasks():
    lines = shown(width=80).splitlines()
    heads = [line.removesuffix(":") for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert heads == ["Options", *TASKS]
    for task, names in TASKS.items():
        start = lines.index(f"{task}:") + 1
        end = next((place for place in range(start, len(lines)) if not lines[place]), len(lines))
        assert [line.split()[0] for line in lines[start:end] if line[2] != " "] == list(names)
    assert {name for names in TASKS.values() for name in names} == set(ROOT.commands)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", VERBS)
def test_the_help_of_a_verb_is_whole_and_ends_with_two_examples(name, width):
    text = shown(*name.split(), width=width)
    assert packed(first_sentence(VERBS[name].help)) in packed(text)
    start, _, examples = text.partition("Examples:\n")
    for option in VERBS[name].params:
        assert getattr(option, "hidden", False) or packed(option.help or "") in packed(start)
    commands = [line.strip() for line in examples.splitlines() if line.strip().startswith("earsight ")]
    assert commands == list(EXAMPLES[name])
    assert len(commands) == 2
    assert all(about in examples for about in EXAMPLES[name].values())


def words_of(example):
    """The example's words for the parser: without the shell's redirection."""
    return shlex.split(example.partition(" > ")[0])[1:]


@pytest.mark.parametrize("name", VERBS)
def test_every_example_parses(name):
    for example in EXAMPLES[name]:
        command, rest = ROOT, words_of(example)
        for word in name.split():
            assert rest.pop(0) == word
            command = command.commands[word]
        with command.make_context(name, rest) as found:  # raises what a user would read
            assert all(isinstance(key, str) for key in found.params)


def test_only_verbs_have_examples():
    assert set(EXAMPLES) == set(VERBS)


NOT_RUN = {
    "quickstart": "tests/test_quickstart.py runs it",
    "download": "it needs a network; tests/data/test_download.py runs it against a local server",
    "analyze similarity": "it needs pretrained weights of a small network; tests/test_analyze.py runs it",
    "analyze fusion": "so does it",
    "analyze freeze": "so does it",
    "analyze cutoff": "so does it",
    "serve": "it runs until it is stopped; tests/serving/test_server.py runs it",
    "reproduce": "its networks are large; tests/experiments run it with tiny ones",
    "push": "tests/reports/test_hub.py runs it, against a hub of its own",
    "export": "tracing takes a while; tests/onnx run it",
}
LESS = {
    "train": TINY,
    "crossval": [*TINY, "--folds", "1,2", "--seeds", "2", "--jobs", "1"],
    "distil": TINY,
    "tune": [*TINY[:2], *TINY[3:], "--set=training.epochs=1", "--on", "local"],
    "explain": ["--no-curves"],
    "report": ["--mistakes", "0"],
    "analyze boundaries": ["--clips", "1", "--max-steps", "16"],
}


@pytest.fixture
def desk(tmp_path, synthetic, monkeypatch):
    """A folder that holds what the examples name."""
    monkeypatch.chdir(tmp_path)
    rows = []
    for row, clip in enumerate(synthetic.clips):
        (tmp_path / "my_sounds" / clip.label).mkdir(parents=True, exist_ok=True)
        shutil.copy(synthetic.file(row), tmp_path / "my_sounds" / clip.label)
        rows.append(f"my_sounds/{clip.label}/{Path(clip.path).name},{clip.label}")
    (tmp_path / "others.csv").write_text("\n".join(["path,label", *rows]))
    (tmp_path / "new").mkdir()
    shutil.copy(synthetic.file(0), tmp_path / "new" / "one.wav")
    shutil.copytree(synthetic.root, tmp_path / "path" / "to" / "ESC-50")
    return tmp_path


@pytest.mark.timeout(280)
def test_examples_run(desk):
    assert set(NOT_RUN) < set(EXAMPLES)
    for name, examples in EXAMPLES.items():
        if name in NOT_RUN:
            continue
        for example in examples:
            words = [
                part
                for word in words_of(example)
                for part in (sorted(map(str, Path().glob(word))) if word.endswith("*.wav") else [word])
            ]
            done = CliRunner().invoke(app, [*words, *LESS.get(name, [])])
            assert done.exit_code == 0, f"{example}\n{done.output}"
