"""The way of a clip through `earsight train`: how often it is checked and built, and what is called before `fit`.

A *stop* is a call of one of earsight's functions that is given a `Dataset`, a `Recipe` or a `Prepared`, counted each
time from the verb to `training.loop.fit`, which is the last one. What the three classes do themselves (methods,
properties) is no stop, nor is a function that is given a part of them alone, such as a list of labels. docs/design.md
lists the stops, without those inside the room `features`, below `open_store`.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import timm
from tiny_model import TINY_MODEL
from typer.testing import CliRunner

import earsight
from earsight.cli import app
from earsight.data.datasets import Dataset
from earsight.models import stages
from earsight.recipe import Recipe
from earsight.training import trial
from earsight.training.preparation import Prepared

ROOT = Path(earsight.__file__).parent
DESIGN = ROOT.parents[1] / "docs" / "design.md"
CARRIED = (Dataset, Recipe, Prepared)
SETTINGS = [part for override in (*TINY_MODEL, "training.epochs=1") for part in ("--set", override)]


def train(data, out, *more):
    result = CliRunner().invoke(app, ["train", str(data), "--out", str(out), "--threads", "1", *SETTINGS, *more])
    assert result.exit_code == 0, result.output


def stops(work):
    """The stops of some work up to `fit`, as dotted names, in the order of the calls."""
    found = []

    def note(frame, event, _):
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(ROOT)) or found[-1:] == ["training.loop.fit"]:
            return
        given = [frame.f_locals[name] for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]]
        if code.co_name.startswith("<") or (given and isinstance(given[0], CARRIED) and code.co_varnames[0] == "self"):
            return
        if any(isinstance(one, CARRIED) for one in given):
            module = ".".join(Path(code.co_filename).relative_to(ROOT).with_suffix("").parts)
            found.append(f"{module}.{code.co_qualname}".replace(".<locals>", ""))

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def test_the_run_folder_is_checked_once_and_the_network_is_built_once(synthetic_folder, tmp_path, monkeypatch):
    counts = Counter()

    def counted(module, name):
        function = getattr(module, name)

        def wrapper(*arguments, **keywords):
            counts[name] += 1
            return function(*arguments, **keywords)

        monkeypatch.setattr(module, name, wrapper)

    fit, before = trial.fit, Counter()

    def began(*arguments, **keywords):
        before.update(counts)
        return fit(*arguments, **keywords)

    # timm makes every network but soundnet8, whoever asks for it; after `fit` the model file's own checks build theirs.
    counted(timm, "create_model")
    counted(stages, "build")
    counted(trial, "_begun_trials")
    monkeypatch.setattr(trial, "fit", began)
    train(synthetic_folder, tmp_path / "run")
    assert before == {"create_model": 1, "build": 1, "_begun_trials": 1}
    assert counts["build"] == counts["_begun_trials"] == 1


def test_the_stops_are_few_and_the_design_page_names_them(synthetic_folder, tmp_path):
    found = stops(lambda: train(synthetic_folder, tmp_path / "run"))
    assert found[-1] == "training.loop.fit"
    assert len(found) <= 32
    outside = [name for name in found if not name.startswith("features.") or name == "features.store.open_store"]
    section = (
        DESIGN.read_text(encoding="utf-8").partition("## The way of a clip through train\n")[2].partition("\n## ")[0]
    )
    assert re.findall(r"^\d+\. `([\w.]+)`", section, flags=re.MULTILINE) == outside
