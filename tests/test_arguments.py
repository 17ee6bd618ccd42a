"""What Python callers give: every argument of every public function has a kind, and what is of another is named."""

from __future__ import annotations

import inspect
import math
from dataclasses import fields
from fractions import Fraction
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

import earsight
from earsight import arguments
from earsight.errors import EarsightError
from earsight.inference.events import EventRules

NO_NUMBER = ("1", b"1", True, math.nan, math.inf, [1], 1j, np.array([1.0, 2.0]))
WRONG = {
    **dict.fromkeys(
        ("data", "out", "path", "folder", "source", "recipe", "boxes", "root", "cache", "model"),
        ("", b"new.wav", 3, math.nan, ["new.wav"], "a\0b", object(), {}),
    ),
    **dict.fromkeys(
        ("device", "label", "layout", "subset", "label_from", "labels", "label_column", "annotator", "never", "kind"),
        (3, b"dog", ["dog"], math.nan, Path("dog")),
    ),
    **dict.fromkeys(
        ("progress", "first", "damaged", "curves", "events", "complete", "skip_rare", "skip_bad"),
        ("no", 1, 0.0, [], np.array([True, False])),
    ),
    **dict.fromkeys(("fold",), (*NO_NUMBER, -1, 2.5)),
    "seed": (*NO_NUMBER, -1, 2.5, 2**63),
    **dict.fromkeys(("seeds", "jobs", "threads", "batch_size", "most_windows", "splits"), (*NO_NUMBER, 0, -1, 2.5)),
    "most_steps": (*NO_NUMBER, 15, 32.5),
    **dict.fromkeys(("most_seconds", "hop_seconds", "window_seconds", "hop"), (*NO_NUMBER, 0, -1.5)),
    **dict.fromkeys(("tolerance", "shortest_seconds", "gap_seconds"), (*NO_NUMBER, -1, -1e-9)),
    **dict.fromkeys(("threshold", "release", "box_share"), (*NO_NUMBER, 0, 1.5)),
    **dict.fromkeys(("overrides", "assignments"), (5, b"training.epochs=1", [5], math.nan)),
    "folds": (1, "1,2", ["1"], [0.5], [-1], {1: 2}, [True], []),
    "paths": ("new.wav", Path("new.wav"), b"new.wav", 3),
    "of_class": ([], 3, "dog", {"dog": 7}, {"dog": "a"}, {3: 0.5}),
    "options": ({"device": "cpu"}, "cpu", earsight.RunOptions),
    "rules": ({"threshold": 0.5}, 0.5, EventRules),
    "sound": ("", "a\0b", 3, {}),
    "waves": ([[1.0], [1.0, 2.0]],),
}
OWN_WORDS = {"rate"}  # `earsight.inference.sounds` says what is wrong of it, with the array's
CALLS = [
    *(earsight.train, earsight.crossval, earsight.evaluate, earsight.load, earsight.explain),
    *(earsight.Run.__init__, earsight.Run.load, earsight.Run.report, earsight.Run.plot, earsight.Explanation.plot),
    *(earsight.Classifier.predict, earsight.Classifier.predict_files, earsight.Classifier.recording),
    *(earsight.Classifier.events, earsight.Classifier.explain, earsight.Classifier.logits),
    *(earsight.Classifier.probabilities, earsight.Drawing.save, earsight.Recipe.load, earsight.Recipe.override),
    *(earsight.RunOptions, EventRules),
]
PLACES = "data", "out", "path", "folder", "source", "recipe", "model", "sound"
FEW = {"data": "sounds", "out": "run", "path": "a", "folder": "a", "sound": "a", "waves": [[0.0]], "paths": []}


def given(call):
    """Its parameters by name, without the object whose method it is."""
    parameters = inspect.signature(call).parameters
    return {name: one for name, one in parameters.items() if name not in ("self", *OWN_WORDS)}


CASES = [
    pytest.param(call, name, wrong, id=f"{call.__qualname__}-{name}-{number}")
    for call in CALLS
    for name, parameter in given(call).items()
    for number, wrong in enumerate((*WRONG["overrides" if name == "assignments" else name], None))
    if not (wrong is None and (parameter.default is None or name in ("sound", "waves")))
]


def called(call, named):
    """Call it with what it needs; a method of an object that was never made, for the arguments are looked at first."""
    needed = {name: FEW.get(name, "a") for name, one in given(call).items() if one.default is inspect.Parameter.empty}
    if call is earsight.RunOptions:
        return earsight.train("sounds", "run", options=earsight.RunOptions(**named))
    if next(iter(inspect.signature(call).parameters)) == "self":
        owner = getattr(earsight, call.__qualname__.split(".")[0].replace("Model", "Classifier"))
        return call(object.__new__(owner), **needed | named)
    return call(**needed | named)


@pytest.mark.parametrize(("call", "name", "wrong"), CASES)
def test_what_is_of_another_kind_is_named(call, name, wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EarsightError, match=rf"^{name} is .*; expected "):
        called(call, {name: wrong})
    assert not list(tmp_path.iterdir())


def test_every_argument_is_looked_at():
    """Of whatever is public: a new function, or a new argument of one, has its place in the table above."""
    public = [getattr(earsight, name) for name in earsight.__all__]
    methods = [
        method
        for kind in public
        if inspect.isclass(kind) and kind.__module__ == "earsight.api"
        for name, method in vars(kind).items()
        if inspect.isfunction(method) and not name.startswith("_")
    ]
    assert len(methods) >= 10
    for call in {*(one for one in public if inspect.isfunction(one)), *methods}:
        assert call in CALLS or not given(call), call.__qualname__
    assert {name for call in CALLS for name in given(call)} == {*WRONG} & {
        name for call in CALLS for name in given(call)
    }
    assert len(CASES) > 400


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("seed", np.int64(3), 3),
        ("tolerance", np.float32(0.5), 0.5),
        ("tolerance", Fraction(1, 2), 0.5),
        ("hop_seconds", 1, 1.0),
        ("first", np.bool_(True), True),
        ("first", np.array([1, 2]).any(), True),
        ("out", PurePosixPath("runs"), Path("runs")),
        ("out", "hf://owner/name", "hf://owner/name"),
        ("folds", range(1, 3), (1, 2)),
        ("folds", np.arange(1, 3), (1, 2)),
        ("overrides", {"training.epochs": 3}, {"training.epochs": 3}),
        ("overrides", (one for one in ["training.epochs=3"]), ("training.epochs=3",)),
    ],
)
def test_what_is_of_the_kind_comes_through_as_pythons_own(name, value, taken):
    found = arguments.checked()(eval(f"lambda {name}: {name}"))(value)
    assert found == taken
    assert type(found) is type(taken)


def test_a_path_among_many_is_named_when_it_is_its_turn(tmp_path):
    taken = arguments.checked()(lambda paths: paths)(iter(["one.wav", Path("two.wav"), b"three.wav"]))
    assert [next(taken), next(taken)] == ["one.wav", Path("two.wav")]
    with pytest.raises(EarsightError, match=r"^paths\[2\] is b'three.wav'; expected a path"):
        next(taken)


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("~/x", r"only shells know what ~ is; give Path\(\.\.\.\)\.expanduser"),
        (Path("~"), "only shells know"),
        ("http://example.org/a.wav", "is an address; download"),
        (Path("https://example.org/a.wav"), "is an address; download"),
    ],
)
def test_what_shells_and_browsers_know_is_refused_with_the_way_out(name, place, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = next(call for call in CALLS if name in given(call))
    with pytest.raises(EarsightError, match=words):
        called(call, {name: place})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "call",
    [
        lambda name: earsight.train(name, "run"),
        lambda name: earsight.train("sounds", name),
        lambda name: earsight.train("sounds", "run", recipe=f"{name}.yaml"),
        lambda name: earsight.train("sounds", "run", options=earsight.RunOptions(boxes=name)),
        lambda name: earsight.crossval(name, "run"),
        lambda name: earsight.evaluate(name, "sounds"),
        *(earsight.load, earsight.Run, earsight.Classifier.load, earsight.Recipe.load),
    ],
)
def test_what_the_system_refuses_is_an_error_of_ours(call, tmp_path, monkeypatch):
    """Here a name that is too long."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sounds").mkdir()
    with pytest.raises(EarsightError):
        call("a" * 5000)


def test_names_that_are_not_there_get_pythons_own_words():
    with pytest.raises(TypeError, match=r"train\(\) .*'sead'"):
        earsight.train("sounds", "run", sead=1)


def test_fields_are_all_of_a_kind():
    assert {field.name for kind in (earsight.RunOptions, EventRules) for field in fields(kind)} <= {*WRONG}
