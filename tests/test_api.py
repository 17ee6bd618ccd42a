"""From Python: the public names, the command line's very bits, silence, pickles, notebooks, and the examples."""

from __future__ import annotations

import doctest
import filecmp
import importlib.util
import inspect
import json
import math
import pickle
import random
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tiny_model import TINY_MODEL
from typer.testing import CliRunner

import earsight
from earsight import api, recipe
from earsight.cli import app
from earsight.commands.options import RunOptions
from earsight.errors import DataError, ModelError, RecipeError, RunError
from earsight.recipe import Recipe, load_recipe

QUICK = (*TINY_MODEL, "training.epochs=8")
SET = [f"--set={one}" for one in QUICK]
BITS = ("model.safetensors", "fold-1/seed-0/model.safetensors", "recipe.yaml")


def verb(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def sounds(synthetic, tmp_path_factory):
    """Six classes of ten clips, a folder a class."""
    folder = tmp_path_factory.mktemp("api") / "my_sounds"
    for row, clip in enumerate(synthetic.clips[:60]):
        (folder / clip.label).mkdir(parents=True, exist_ok=True)
        shutil.copy(synthetic.file(row), folder / clip.label)
    return folder


@pytest.fixture(scope="module")
def run(sounds):
    return earsight.train(sounds, sounds.parent / "mine", overrides=QUICK)


@pytest.mark.parametrize(
    "function",
    [
        *(earsight.train, earsight.crossval, earsight.evaluate, earsight.load, earsight.explain),
        *(earsight.Classifier.predict, earsight.data.open_dataset, earsight.data.open_recordings),
        earsight.data.read_boxes,
    ],
    ids=lambda function: function.__name__,
)
def test_what_may_be_a_path_or_a_text_is_said_alike(function):
    """In signatures and in what the site shows of them."""
    said = dict(re.findall(r"^(\w+) : (.*)$", inspect.getdoc(function), re.MULTILINE))
    for name, parameter in inspect.signature(function).parameters.items():
        typed = str(parameter.annotation)
        assert ("Path" in typed or typed == "Sound") == ("Path" in said.get(name, typed)), (name, said.get(name))
        assert "Path" not in typed or "str" in typed
        assert not re.search(r"\bpath\b", said.get(name, ""))


def test_the_site_has_every_option_with_its_type():
    spec = importlib.util.spec_from_file_location("conf", Path(__file__).parents[1] / "docs" / "conf.py")
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    rows = conf.option_fields().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [field.name for field in fields(RunOptions)]
    for row in (
        r"| `cache` | `str \| Path \| None` | `None` | Folder for spectrograms; default $EARSIGHT_CACHE or ",
        r"| `labels` | `'auto' \| 'single' \| 'several'` | `'auto'` | Labels a clip: one (softmax), ",
        "| `splits` | `int` | `5` | Folds to draw if the data set has none. |",
    ):
        assert any(one.startswith(row) for one in rows), row
    assert "--" not in "".join(rows)
    # As code: in running text two underscores would set what is between them in italics.
    assert "`{label}_{group}_{n}`" in "".join(rows)
    assert not conf.smartquotes


def test_train_gives_the_bits_of_the_command_line(run, sounds, tmp_path):
    verb("train", sounds, "--out", tmp_path / "verb", *SET)
    match, differ, lost = filecmp.cmpfiles(run.folder, tmp_path / "verb", BITS, shallow=False)
    assert (match, differ, lost) == (list(BITS), [], [])
    with (
        np.load(run.folder / "fold-1/seed-0/predictions.npz") as one,
        np.load(tmp_path / "verb/fold-1/seed-0/predictions.npz") as two,
    ):
        assert all(np.array_equal(one[name], two[name]) for name in ("clip", "label", "logits"))


def test_crossval_and_evaluate_say_what_the_command_line_says(run, sounds, tmp_path):
    options = earsight.RunOptions(splits=3, cache=str(tmp_path / "cache"))
    mine = earsight.crossval(
        sounds, tmp_path / "mine", recipe=load_recipe(overrides=QUICK), folds=[1, 2], options=options
    )
    assert (tmp_path / "cache").is_dir()
    verb("crossval", sounds, "--out", tmp_path / "verb", "--folds", "1,2", "--splits", 3, *SET)
    bits = [f"fold-{fold}/seed-0/model.safetensors" for fold in (1, 2)]
    assert filecmp.cmpfiles(mine.folder, tmp_path / "verb", bits, shallow=False)[0] == bits
    assert mine.score == earsight.Run(tmp_path / "verb").score
    assert mine.load(fold=2).card.trained_on["fold"] == 2
    with pytest.raises(RunError, match=r"load\(fold=1\)"):
        mine.load()
    printed = verb("evaluate", run.folder / "model.safetensors", sounds, "--json").stdout
    found = earsight.evaluate(run.load(), sounds)
    assert found.result["held_out"]
    assert recipe.yaml.safe_load(printed)["accuracy"] == found.result["accuracy"]
    assert found.score == run.score


def test_nothing_is_printed_unless_it_is_asked_for(run, sounds, tmp_path, capfd):
    said = capfd.readouterr()
    tiny = {"training.epochs": 1, "augment.copies": 1}
    silent = earsight.train(sounds, tmp_path / "a", recipe=load_recipe(overrides=QUICK), overrides=tiny)
    earsight.evaluate(silent.load(), sounds)
    earsight.explain(silent.folder, next(sounds.rglob("*.wav")), curves=False)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    earsight.train(sounds, tmp_path / "b", overrides=[*QUICK, "training.epochs=1"], progress=True)
    said = capfd.readouterr()
    assert said.out == ""
    assert "60 clips" in said.err
    assert "training: " in said.err


def test_every_option_of_the_verbs_is_there(sounds):
    """As a parameter, or as a field of `RunOptions`."""
    assert {"recipe", "assignments", "boxes", "subset", "device", "threads", "splits"} <= {
        field.name for field in fields(earsight.RunOptions)
    }
    assert earsight.RunOptions is RunOptions
    for name in ("train", "crossval", "evaluate"):
        assert "options" in inspect.signature(getattr(earsight, name)).parameters
    with pytest.raises(DataError, match="no such"):
        earsight.train(sounds, "never", options=RunOptions(boxes="absent.csv"))
    with pytest.raises(RecipeError, match="did you mean 'epochs'"):
        earsight.train(sounds, "never", overrides={"training.epoch": 1})
    with pytest.raises(ModelError):
        earsight.load("absent.safetensors")


def test_threads_are_given_back(sounds, run):
    import torch

    before = torch.get_num_threads()
    options = RunOptions(threads=before + 1)
    earsight.train(sounds, run.folder, overrides=QUICK, options=options)
    assert torch.get_num_threads() == before


def test_trainings_in_two_threads_are_those_of_one(sounds, tmp_path):
    """Dropout draws from torch's one generator of a process, and threads are set for all of it."""
    import torch

    recipe = load_recipe(overrides=[*QUICK, "backbone.dropout=0.5"])
    before = torch.get_num_threads()

    def train(seed, name):
        options = RunOptions(threads=1 + seed)
        earsight.train(sounds, tmp_path / f"{name}-{seed}", recipe=recipe, seed=seed, options=options)

    for seed in (0, 1):
        train(seed, "alone")
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(train, seed, "both") for seed in (0, 1, 1)]:
            done.result()
    assert torch.get_num_threads() == before
    for seed in (0, 1):
        one, two = (tmp_path / f"{name}-{seed}" / "model.safetensors" for name in ("alone", "both"))
        assert filecmp.cmp(one, two, shallow=False)


def test_the_callers_random_numbers_are_as_if_nothing_was_called(run, sounds, tmp_path):
    import torch

    def drawn(work):
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)
        work()
        return torch.rand(3).tolist(), np.random.rand(), random.random()

    tiny = {"training.epochs": 1, "augment.copies": 1}
    train = partial(earsight.train, sounds, tmp_path, recipe=load_recipe(overrides=QUICK), overrides=tiny)
    explain = partial(earsight.explain, run, next(sounds.rglob("*.wav")))
    for work in (train, explain, partial(earsight.evaluate, run, sounds)):
        assert drawn(work) == drawn(lambda: None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"seed": "a"},
        {"seed": 0.5},
        {"fold": "1"},
        {"options": {"device": "cpu"}},
        *({"options": RunOptions(threads=wrong)} for wrong in (0, -1, "2")),
        {"overrides": 5},
        {"overrides": None},
    ],
    ids=str,
)
def test_wrong_arguments_of_train_are_named(sounds, tmp_path, wrong):
    name = "threads" if isinstance(wrong.get("options"), RunOptions) else next(iter(wrong))
    with pytest.raises(earsight.EarsightError, match=rf"{name}.*(expected|at least)"):
        earsight.train(sounds, tmp_path / "never", **wrong)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    "wrong", [{"seeds": 0}, {"jobs": 0}, {"jobs": True}, {"folds": 1}, {"folds": "1,2"}, {"folds": ["1"]}], ids=str
)
def test_wrong_arguments_of_crossval_are_named(sounds, tmp_path, wrong):
    with pytest.raises(earsight.EarsightError, match=rf"{next(iter(wrong))}.*expected"):
        earsight.crossval(sounds, tmp_path / "never", **wrong)


def test_wrong_arguments_of_the_rest_are_named(run, sounds):
    sound = next(sounds.rglob("*.wav"))
    with pytest.raises(earsight.EarsightError, match="most_steps is 1; expected"):
        earsight.explain(run, sound, most_steps=1)
    with pytest.raises(earsight.EarsightError, match="seed is -1; expected"):
        earsight.explain(run, sound, seed=-1)
    with pytest.raises(earsight.EarsightError, match="'curve'; expected 'classes' or 'curves'"):
        run.plot("curve")
    with pytest.raises(earsight.EarsightError, match="'faithful'; expected 'attribution' or 'faithfulness'"):
        earsight.explain(run, sound, curves=False).plot("faithful")


def test_whole_numbers_of_numpy_are_whole_numbers(sounds, tmp_path):
    how = {"overrides": [*QUICK, "training.epochs=1"], "options": RunOptions(splits=3)}
    found = earsight.crossval(sounds, tmp_path, folds=list(np.arange(1, 2)), seeds=np.int64(1), **how)
    assert [row["fold"] for row in found.summary["folds"]] == [1]
    one = earsight.train(sounds, tmp_path / "one", fold=np.int64(1), seed=np.int64(0), **how)
    assert filecmp.cmp(one.folder / BITS[1], tmp_path / BITS[1], shallow=False)


def test_overrides_as_a_mapping_are_those_as_texts():
    given = {"training.learning_rate": 1e-5, "augment.stretch": (0.8, 1.1), "transfer.cut": None, "backbone.name": "ü"}
    texts = ["training.learning_rate=1e-5", "augment.stretch=[0.8, 1.1]", "transfer.cut=none", "backbone.name=ü"]
    assert Recipe.load(overrides=given) == Recipe.load(overrides=texts) == load_recipe(overrides=texts)
    assert "10 epochs" in repr(Recipe.load(overrides="training.epochs=10"))


def test_a_recipe_is_built_from_python_or_refused_in_words():
    assert earsight.Recipe(training={"epochs": 3}) == earsight.Recipe().override({"training.epochs": 3})
    assert earsight.Recipe().override({"augment.stretch": [0.8, 1.3]}).augment.stretch == (0.8, 1.3)
    with pytest.raises(earsight.EarsightError, match=r"training\.epoch: no such field; did you mean 'epochs'"):
        earsight.Recipe(training={"epoch": 1})
    with pytest.raises(earsight.EarsightError, match="foo"):
        earsight.Recipe(foo=1)


def test_a_recipe_is_not_changed_in_place_and_numbers_are_no_flags():
    recipe = earsight.Recipe()
    with pytest.raises(RecipeError, match=r"recipe\.override\(\{'training\.epochs': 5\}\) is a changed one"):
        recipe.training.epochs = 5
    with pytest.raises(RecipeError, match=r"override\(\{'name': 'mine'\}\)"):
        recipe.name = "mine"
    for wrong in ({"training.epochs": True}, {"augment.stretch": [True, 1.2]}, "training.epochs=yes"):
        with pytest.raises(RecipeError, match="expected a number or a name"):
            recipe.override(wrong)
    assert recipe.override({"training.watch": True}).training.watch


def test_what_would_be_passed_over_is_refused(run, sounds):
    with pytest.raises(RunError, match="is the data set's own folder; name another with out"):
        earsight.train(sounds, sounds.parent / "." / sounds.name)
    with pytest.raises(RunError, match="own folder"):
        earsight.crossval(sounds, sounds)
    with pytest.raises(earsight.EarsightError, match="given twice"):
        earsight.train(sounds, "never", recipe="quick.yaml", options=RunOptions(recipe="other.yaml"))
    with pytest.raises(earsight.EarsightError, match="device is cuda, and the classifier is on cpu; load it there"):
        earsight.evaluate(run.load(), sounds, options=RunOptions(device="cuda"))
    with pytest.raises(earsight.EarsightError, match="of_class has 'dgo', which is none of the classes"):
        run.load().events("new.wav", rules=earsight.EventRules(of_class={"dgo": 0.5}))
    with pytest.raises(RecipeError, match=r"PyTorch knows none such.; use auto or cpu"):
        earsight.load(run, device="gpu")
    with pytest.raises(ModelError, match="not a readable checkpoint") as refusal:
        earsight.train(sounds, "never", overrides={"backbone.weights": str(next(sounds.rglob("*.wav")))})
    assert "weights_only" not in str(refusal.value)


def test_a_figure_that_cannot_be_saved_is_an_error_of_ours(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(earsight.EarsightError, match="file"):
        run.plot().save(tmp_path / "file" / "a.png")
    with pytest.raises(earsight.EarsightError, match="File name too long; take a shorter name"):
        run.plot().save(tmp_path / ("a" * 5000 + ".png"))
    with pytest.raises(earsight.EarsightError, match=r"^path is 3; expected a path"):
        earsight.Classifier.load(3)


def test_warnings_stand_at_the_callers_line(run):
    with pytest.warns(earsight.errors.SoundWarning) as found:
        run.load().predict(np.full(16000, 0.0, dtype=np.float32), rate=16000)
    assert {one.filename for one in found} == {__file__}


def test_one_path_in_place_of_many_is_named(run):
    for one in ("new.wav", Path("new.wav")):
        with pytest.raises(earsight.EarsightError, match=r"expected several paths, as in \['new.wav'\]"):
            run.load().predict_files(one)


@pytest.mark.parametrize("size", [0, -1, 2.5, "2"])
def test_a_batch_of_no_size_is_refused_and_no_file_dropped(run, size):
    with pytest.raises(earsight.EarsightError, match=r"^batch_size is .*; expected a whole number of at least 1"):
        run.load().predict_files(["new.wav"], batch_size=size)


def test_a_seed_without_its_fold_is_refused(run):
    with pytest.raises(earsight.EarsightError, match=r"seed is 7 without a fold; name one, as in load\(fold="):
        run.load(seed=7)


def test_a_fold_that_is_not_there_is_refused_with_those_that_are(run):
    with pytest.raises(RunError, match=r"no model of fold 3 and seed 0; name one of folds 1 and seeds 0, as in load\("):
        run.load(fold=3)
    assert earsight.load(run).classes == run.load().classes


def test_what_python_shows_of_results(run, sounds):
    assert repr(RunOptions(device="cuda:1", hop=0.5)) == "RunOptions(hop=0.5, device='cuda:1')"
    (window, *_) = run.load().recording(next(sounds.rglob("*.wav")))
    assert window.frames is not None
    assert len(repr(window)) < 300
    event = earsight.Event("dog", 1.23456789, 2.0, 0.99999, 0.51234567, 3)
    assert repr(event) == "<Event dog: 1.235 to 2.000 s, >99.9 % (mean 51.2 %, windows: 3)>"
    assert repr(run.plot()).startswith("<Drawing of ")
    assert "one every 0.5 s" in repr(run.load().recording("long.wav", hop_seconds=0.5))
    rows = [{"name": "a", "recall": 0.5, "ci95": [0, 1]}]
    seen = {"accuracy": {"mean": 0.5, "ci95": [0.25, 0.75]}, "classes": rows, "seen_in_training": True}
    assert repr(earsight.Evaluation(seen)).endswith("; the model was trained on some of these clips>")
    one, other = (run.load().explain(next(sounds.rglob("*.wav")), curves=False) for _ in range(2))
    assert one == one != other
    assert len({one, other}) == 2


def test_a_classifier_pickles_and_says_the_same(run, sounds):
    """Also after it has predicted, and with kernels: what cannot be pickled is made anew."""
    classifier, sound = run.load(), next(sounds.rglob("*.wav"))
    for one in (classifier, classifier.use_kernels()):
        found = one.predict(sound)
        again = pickle.loads(pickle.dumps(one))
        assert type(again) is earsight.Classifier
        assert again.predict(sound) == found


def test_another_process_takes_a_pickled_classifier(run, sounds, tmp_path):
    sound = next(sounds.rglob("*.wav"))
    (tmp_path / "classifier").write_bytes(pickle.dumps(run.load()))
    code = (
        f"import pickle; print(pickle.load(open({str(tmp_path / 'classifier')!r}, 'rb')).predict({str(sound)!r}).label)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == run.load().predict(sound).label


def test_what_a_notebook_shows(run, sounds, tmp_path):
    sound = next(sounds.rglob("*.wav"))
    classifier = run.load()
    found, scores = classifier.predict(sound), earsight.evaluate(classifier, sounds)
    explanation = classifier.explain(sound, curves=False)
    assert isinstance(explanation, earsight.Explanation)
    for one, word in ((run, "accuracy"), (scores, "accuracy"), (found, found.label), (explanation, explanation.label)):
        assert word in repr(one)
        assert len(repr(one)) < 400
        assert "object at" not in repr(one)
    assert "6 classes" in repr(classifier)
    for one in (run, scores, found, Recipe()):
        assert one._repr_html_().startswith("<p")
    assert "mean" in run._repr_html_()
    for drawing in (run.plot(), run.plot("curves"), scores.plot(), explanation.plot()):
        assert drawing._repr_png_().startswith(b"\x89PNG")
    assert run.plot().save(tmp_path / "a.svg").read_text().startswith("<?xml")
    assert explanation._repr_png_().startswith(b"\x89PNG")
    assert run.report(tmp_path / "page.html").read_text().startswith("<!")
    hostile = earsight.Prediction("<b>.wav", ("<i>",), (1.0,))
    assert "<i>" not in hostile._repr_html_()
    assert "<b>.wav" not in hostile._repr_html_()


def test_of_events_and_of_several_labels():
    rows = [{"name": "dog", "f1": None}, {"name": "cat", "f1": 0.5}]
    found = earsight.Evaluation({"macro_f1": None, "classes": rows})
    assert math.isnan(found.score)
    assert found.interval is None
    assert found.plot()._repr_png_()
    with pytest.raises(earsight.EarsightError, match="nothing to draw"):
        earsight.Evaluation({"macro_f1": None, "classes": rows[:1]}).plot()
    several = {"average_precision": {"mean": 0.5, "ci95": [0.25, 0.75]}, "classes": []}
    assert repr(earsight.Evaluation(several)) == (
        "<Evaluation: average precision 50.0 %, 95 % interval 25.0 to 75.0 %>"
    )


@pytest.mark.parametrize("module", [api, recipe])
def test_the_examples_run(module, run, sounds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sounds, tmp_path / "my_sounds")
    shutil.copy(next(sounds.rglob("*.wav")), tmp_path / "new.wav")
    Path("quick.yaml").write_text(load_recipe(overrides=QUICK).to_yaml())
    shutil.copytree(run.folder, tmp_path / "runs" / "mine")
    # Of the same clips elsewhere: the data set's digest is of contents, so that the run is gone on with.
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    tests = [test for test in doctest.DocTestFinder(exclude_empty=True).find(module, globs={}) if test.examples]
    for test in tests:
        said = []
        assert runner.run(test, out=said.append).failed == 0, "".join(said)
    assert len(tests) >= (6 if module is api else 1)


def test_the_page_lists_every_public_name():
    """In plain words, for those who read the file as it stands; and what it says that they have is there."""
    text = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)(?:\([^`]*\))?` \| (.*) \|$", text.partition("<!-- options")[0], re.MULTILINE))
    assert rows.keys() == {*api.__all__}
    for name, said in rows.items():
        kind = getattr(earsight, name)
        if inspect.isclass(kind):
            fields = {*dir(kind), "summary", "found", "folder", "result"}
            fields |= {one for base in kind.__mro__ for one in getattr(base, "__annotations__", {})}
            for word in re.findall(r"`([a-z_]+)(?:\(\w*\))?`", said):
                assert word in fields, (name, word)


def test_every_public_function_has_an_example():
    for name in ("Run", "load", "train", "crossval", "evaluate", "explain"):
        text = inspect.getdoc(getattr(earsight, name))
        assert ">>>" in text, name
        assert text.count("\nReturns\n---") == (name != "Run"), name


def test_the_notebook_runs(tmp_path, monkeypatch):
    """Its cells in turn, with a tiny network; `.ci/run` executes it as it stands, in a kernel."""
    monkeypatch.chdir(tmp_path)
    page = Path(api.__file__).parents[2] / "examples" / "first_model.ipynb"
    cells = json.loads(page.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in cells)
    train = api.train
    monkeypatch.setattr(
        api, "train", lambda data, out, **given: train(data, out, **given | {"overrides": QUICK, "progress": False})
    )
    monkeypatch.setattr(api, "explain", partial(api.explain, curves=False))
    names: dict[str, object] = {}
    for cell in code:
        exec(cell, names)
    assert names["run"].score > 0.25
    assert not [name for name in re.findall(r"earsight\.(\w+)", "".join(code)) if name not in earsight.__all__]
    assert "from earsight" not in "".join(code)
    assert Path("runs/mine/report.html").is_file()
