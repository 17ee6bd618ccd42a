"""Options in errors and notes: as the command line has them of a verb, as Python has them elsewhere."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
from pathlib import Path

import pytest

import earsight
from earsight import errors
from earsight.errors import DataError, ModelError, SoundWarning, options_as_typed, warn_of_sound, worded
from earsight.inference.events import EventRules
from test_cli import invoke
from test_cli_help import VERBS

SOURCES = Path(earsight.__file__).parent
BY_VERBS_ALONE = {
    "tuning": {"asha", "on", "grid", "random", "cpus-per-trial", "gpus-per-trial"},
    "experiments": {"only", "plan", "scale", "weights", "stages", "set"},
    "serving": {"host", "port", "allow-host", "allow-origin"},
    "commands": {"on", "cpus-per-trial", "gpus-per-trial"},
    "execution": {"on", "cpus-per-trial", "gpus-per-trial"},
    "analysis": {"pooled", "stages"},
    "ensembles": {"method"},
    "calibration": {"score", "threshold-rule"},
    "inference": {"resume"},  # of outputs that go on, which `earsight predict` writes
    "data": {"json", "sources"},  # of `earsight check`
    "reports": {"tensorboard", "paper"},  # a page's variable of CSS
}


def options_named(path):
    """Options in a file's texts, but for docstrings and whole commands between backticks."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield from (found[1] for found in errors._OPTION.finditer(node.value) if found[1])


def python_names():
    """Names of parameters of what Python callers are given."""
    public = [getattr(earsight, name) for name in earsight.__all__]
    public += [EventRules]
    public += [getattr(earsight.data, name) for name in ("open_dataset", "open_recordings", "read_boxes", "BoxRules")]
    methods = [method for kind in public if inspect.isclass(kind) for _, method in inspect.getmembers(kind, callable)]
    found = set()
    for one in [*public, *methods]:
        try:
            found |= set(inspect.signature(one).parameters)
        except (TypeError, ValueError):  # texts, and what has no signature
            continue
    return found


def test_every_option_in_a_text_is_one_of_both_worlds():
    typed = {name.removeprefix("--") for verb in VERBS.values() for one in verb.params for name in one.opts}
    names, seen = python_names(), 0
    for path in SOURCES.rglob("*.py"):
        room = path.relative_to(SOURCES).parts[0]
        if room in {"console.py", "cli.py"} or (room == "commands" and path.name != "steps.py"):
            continue  # verbs alone; the steps are those of Python callers too
        for option in options_named(path):
            seen += 1
            if option in BY_VERBS_ALONE.get(room, ()):
                continue
            assert option in typed, f"{path}: no verb has --{option}"
            assert worded(f"--{option}") in names, f"{path}: Python callers have no {worded(f'--{option}')}"
    assert seen > 100


@pytest.mark.parametrize(
    ("typed", "python"),
    [
        ("leave it out with --skip-bad.", "leave it out with skip_bad."),
        ("--label dog: unknown", "label dog: unknown"),
        ("allow more with --max-steps", "allow more with most_steps"),
        ("(--set training.windows=first: only the begin)", "(overrides training.windows=first: only the begin)"),
        ("`earsight crossval DATA --seeds 5` adds seeds", "`earsight crossval DATA --seeds 5` adds seeds"),
        ("a--b, -- and well-known --", "a--b, -- and well-known --"),
        ("dog --loud.wav: no sound; --skip-bad", "dog --loud.wav: no sound; skip_bad"),
        ("dog --label.wav, new/--fold and --loud", "dog --label.wav, new/--fold and --loud"),
    ],
)
def test_words_of_both(typed, python):
    assert str(DataError(typed)) == python
    error = pickle.loads(pickle.dumps(DataError(typed)))
    with options_as_typed():
        assert str(error) == typed
    with pytest.warns(SoundWarning, match=re.escape(python)):
        warn_of_sound(typed)


def test_an_error_in_another_is_worded_by_whoever_shows_it():
    """As one of a Ray worker, which does not know that a verb was typed."""
    sent = pickle.dumps(ModelError(f"one.wav: {DataError('leave it out with --skip-bad')}"))
    with options_as_typed():
        assert str(pickle.loads(sent)) == "one.wav: leave it out with --skip-bad"
    assert str(pickle.loads(sent)) == "one.wav: leave it out with skip_bad"


def test_the_same_mistake_by_both_ways(synthetic_folder, tmp_path):
    with pytest.raises(earsight.EarsightError, match=r"^layout tree: unknown; "):
        earsight.train(synthetic_folder, tmp_path, options=earsight.RunOptions(layout="tree"))
    with pytest.raises(earsight.EarsightError, match=r"^overrides training.epochs: "):
        earsight.train(synthetic_folder, tmp_path, overrides=["training.epochs"])
    done = invoke("train", synthetic_folder, "--out", tmp_path, "--layout", "tree", code=2)
    assert "earsight: --layout tree: unknown; " in done.stderr
    with pytest.raises(earsight.EarsightError, match=r"^layout tree: "):  # after a verb as before it
        earsight.train(synthetic_folder, tmp_path, options=earsight.RunOptions(layout="tree"))
