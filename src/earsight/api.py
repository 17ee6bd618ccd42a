"""What Python callers use: train, crossval, evaluate, load and explain, and the objects that they return.

Each function does what the verb of its name does, through the same steps, and gives the same bits. Nothing is printed
unless ``progress`` is true; then what the verb prints on standard error is printed there. The command line's options
that are not here, such as those of a cluster, are in ``earsight VERB --help``.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from earsight.arguments import FLAG, PATH, Kind, check_fields, checked, instance, one_of
from earsight.commands import steps
from earsight.commands.options import RayOptions, RunOptions
from earsight.console import bar, silence
from earsight.errors import EarsightError, RunError, counted, worded
from earsight.inference import explanation as explained
from earsight.inference.classifier import Classifier as _Classifier
from earsight.inference.events import EventRules
from earsight.inference.predictions import Event, Prediction, Window, share_words
from earsight.inference.recordings import Recording
from earsight.inference.sounds import Sound
from earsight.recipe import Recipe, assigned

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

    from earsight.reports.runs import RunRead

# fmt: off
__all__ = ["Classifier", "Drawing", "EarsightError", "Evaluation", "Event", "EventRules", "Explanation", "Prediction",
           "Recipe", "Recording", "Run", "RunOptions", "Window", "crossval", "evaluate", "explain", "load", "train"]
# fmt: on
Overrides = Iterable[str] | Mapping[str, Any]
_SHOWN = {"recall": "recall", "average_precision": "average precision", "f1": "F1"}


@dataclass(frozen=True)
class _Options(RunOptions):
    """Those of the verbs, with a recipe that may be an object."""

    given: Recipe | None = None

    def chosen(self, say: Callable[[str], None] | None = None) -> Recipe:
        return self.given.override(self.assignments or ()) if self.given else super().chosen(say)


@dataclass(frozen=True, repr=False)
class Drawing:
    """A figure that notebooks show; ``figure`` is matplotlib's."""

    figure: Figure = field(repr=False)

    def __repr__(self) -> str:
        width, height = self.figure.get_size_inches()
        return f"<Drawing of {width:g} x {height:g} inches; .save('figure.png') writes it, notebooks show it>"

    @checked()
    def save(self, path: str | Path) -> Path:
        """Write it as PNG or SVG, by the path's suffix; EarsightError if the suffix is another."""
        from earsight.reports.drawings import write_figure

        write_figure(self.figure, Path(path))
        return Path(path)

    def _repr_png_(self) -> bytes:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        FigureCanvasAgg(self.figure)
        data = io.BytesIO()
        self.figure.savefig(data, format="png", dpi=100, facecolor="white")
        return data.getvalue()


class _Scored:
    """Figures of a result, which is a dictionary."""

    _figures: Mapping[str, Any]

    @property
    def metric(self) -> str:
        """``accuracy``; of several labels a clip ``average_precision``; of events ``macro_f1``."""
        return next(name for name in ("average_precision", "accuracy", "macro_f1") if name in self._figures)

    @property
    def score(self) -> float:
        """The metric, from 0 to 1; NaN for events where there was nothing to be found."""
        found = self._figures[self.metric]
        return float("nan") if found is None else float(found["mean"] if isinstance(found, dict) else found)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its 95 % interval; None for events."""
        found = self._figures[self.metric]
        return tuple(found["ci95"]) if isinstance(found, dict) else None

    def _words(self) -> str:
        words = f"{self.metric.replace('_', ' ')} {100 * self.score:.1f} %"
        low, high = self.interval or (0, 0)
        return f"{words}, 95 % interval {100 * low:.1f} to {100 * high:.1f} %" if self.interval else words


class Run(_Scored):
    """A run folder, as `train` and `crossval` return it; ``Run(folder)`` opens one, or raises RunError.

    ``summary`` is what ``summary.json`` holds: the score with its interval, a row a fold, macro F1 and balanced
    accuracy, the data set, the machine; shares are from 0 to 1. What each held-out clip was answered is in the trials'
    files ``fold-K/seed-S/predictions.npz``, without pickles: paths, labels and logits.

    Examples
    --------
    >>> import earsight
    >>> run = earsight.Run("runs/mine")
    >>> run.metric, 0 <= run.score <= 1, len(run.interval)
    ('accuracy', True, 2)
    >>> run.plot().save("confusion.png").name
    'confusion.png'
    >>> run.report().name
    'report.html'
    """

    @checked()
    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        from earsight.reports.runs import read_for_report

        self._read: RunRead = read_for_report(self.folder)
        self.summary = self._figures = self._read.summary

    @checked()
    def load(self, *, fold: int | None = None, seed: int | None = None, device: str = "cpu") -> Classifier:
        """The classifier of the run, or the one that held out ``fold`` with ``seed`` (0); EarsightError without one."""
        if fold is None and seed is not None:
            raise RunError(
                f"seed is {seed} without a fold; name one, as in load(fold={self._read.folds[0]}, seed={seed})"
            )
        place = self.folder if fold is None else self.folder / f"fold-{fold}" / f"seed-{seed or 0}"
        if not (place / "model.safetensors").is_file():
            lacks = "has a model a fold" if fold is None else f"has no model of fold {fold} and seed {seed or 0}"
            folds, seeds = (", ".join(map(str, numbers)) for numbers in (self._read.folds, self._read.seeds))
            known = f"of folds {folds} and seeds {seeds}"
            raise RunError(f"{self.folder}: {lacks}; name one {known}, as in load(fold={self._read.folds[0]})")
        return load(place / "model.safetensors", device=device)

    @checked()
    def report(self, path: str | Path | None = None, *, data: str | Path | None = None) -> Path:
        """Write the page that `earsight report` writes, by default ``report.html`` in the folder; return its path."""
        from earsight.reports.html import write_page
        from earsight.reports.report import make_report

        target = self.folder / "report.html" if path is None else Path(path)
        write_page(make_report([self.folder], data=None if data is None else Path(data)).text, target)
        return target

    @checked(kind=one_of("classes", "curves"))
    def plot(self, kind: Literal["classes", "curves"] = "classes") -> Drawing:
        """Draw the confusion matrix (of several labels, the classes' average precision), or the training curves."""
        from earsight.evaluation.classes import confusion_counts
        from earsight.reports.drawings import confusion_drawing, curves_drawing

        if kind == "curves":
            return Drawing(curves_drawing(self._read.histories))
        if self.summary.get("several"):
            return _class_drawing(self.summary["classes"])
        return Drawing(confusion_drawing(confusion_counts(self._read.trials), self._read.classes))

    def __repr__(self) -> str:
        return f"<Run {self.folder}: {self._words()}>"

    def _repr_html_(self) -> str:
        from earsight.reports.tables import print_summary

        return _as_html(print_summary, self.summary)


class Evaluation(_Scored):
    """What `evaluate` found; ``result`` is what ``earsight evaluate --json`` prints."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.result = self._figures = result

    def plot(self) -> Drawing:
        """Draw each class's recall; of several labels its average precision, of events its F1."""
        return _class_drawing(self.result["classes"])

    def __repr__(self) -> str:
        seen = "; the model was trained on some of these clips" if self.result.get("seen_in_training") else ""
        return f"<Evaluation: {self._words()}{seen}>"

    def _repr_html_(self) -> str:
        from earsight.reports.tables import print_evaluation, print_event_scores

        return _as_html(print_event_scores if self.metric == "macro_f1" else print_evaluation, self.result)


@dataclass(frozen=True, repr=False, eq=False)
class Explanation(explained.Explanation):
    """An `earsight.inference.explanation.Explanation` that notebooks show."""

    @checked(kind=one_of("attribution", "faithfulness"))
    def plot(self, kind: Literal["attribution", "faithfulness"] = "attribution") -> Drawing:
        """Draw the attributions beside the spectrogram, or how faithful they are (EarsightError without curves)."""
        from earsight.reports.explanations import explanation_drawing, faithfulness_drawing

        return Drawing(explanation_drawing(self) if kind == "attribution" else faithfulness_drawing(self))

    def _repr_png_(self) -> bytes:
        return self.plot()._repr_png_()

    def __repr__(self) -> str:
        found = f"{self.label}, probability {share_words(self.probability)}"
        return f"<Explanation of {self.path or 'an array'}: {found}. {self.verdict}".rstrip(". ") + ">"


_MODEL = instance("a model file, a run or its folder, or a Classifier", Run, _Classifier, more=PATH.taken)
_SHOW = Kind("True, False or a function", lambda value: value if callable(value) else FLAG.taken(value))
_OWN = {
    "recipe": instance("a recipe, its name or its file", Recipe, more=PATH.taken),
    "options": instance("earsight.RunOptions, as in RunOptions(device='cpu')", RunOptions),
}


@checked(model=_MODEL, progress=_SHOW)
def explain(
    model: str | Path | Run | _Classifier,
    sound: Sound,
    *,
    rate: float | None = None,
    label: str | None = None,
    first: bool = False,
    damaged: bool = False,
    curves: bool = True,
    seed: int = 0,
    most_steps: int = 2048,
    most_seconds: float | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
) -> Explanation:
    """Attribute a class's score to the parts of a sound, as ``earsight explain`` does.

    Parameters
    ----------
    model : str, Path, Run or Classifier
        A model file, a run that has one at its top, or what `load` returned.
    sound : str, Path, bytes, open file, or array
        As `Classifier.predict` takes it; an array with its ``rate`` in Hz.
    label : str, optional
        The class to explain; by default the most probable one.
    first : bool
        Explain the first window; by default of several the one that speaks most for the class.
    damaged : bool
        Explain what is whole of a damaged file.
    curves : bool
        Measure how faithful the attributions are, against random orders of ``seed``.
    most_steps : int
        Bound of the steps of Integrated Gradients, at least 16.
    most_seconds : float, optional
        A time in place of that bound, from 256 steps on; what is not complete by then is returned, and says so.
    progress : bool or callable, optional
        Print progress on standard error; or what is called with (curves done, curves in all).

    Returns
    -------
    Explanation
        Arrays and numbers about the class; notebooks show its figure.

    Raises
    ------
    EarsightError
        AudioError for a sound that is unreadable, silent or too short; DataError for an unknown label; ModelError if
        the attributions do not add up within 1 %.

    Examples
    --------
    >>> import earsight
    >>> found = earsight.explain("runs/mine/model.safetensors", "new.wav", curves=False)
    >>> found.merged.shape == found.mask.shape
    True
    """
    how: dict[str, Any] = {"rate": rate, "label": label, "first": first, "damaged": damaged, "curves": curves}
    how |= {"seed": seed, "most_steps": most_steps, "most_seconds": most_seconds}
    with silence(not progress), bar("explaining", "curves") as shown:
        show = progress if callable(progress) else shown
        found = explained.explain(_loaded(model), sound, **how, progress=show)
    return Explanation(**vars(found))


class Classifier(_Classifier):
    """A model, as `load` returns it: `predict`, `predict_files`, `events`, `recording`, `explain`, `logits`.

    It can be pickled, so that processes of one version of earsight can pass it on. To keep it, keep the model file.
    """

    predict = checked()(_Classifier.predict)
    predict_files = checked()(_Classifier.predict_files)
    logits, probabilities = checked()(_Classifier.logits), checked()(_Classifier.probabilities)
    recording = checked()(_Classifier.recording)
    events = checked(rules=instance("EventRules, as in EventRules(0.7)", EventRules))(_Classifier.events)
    explain = explain

    def __repr__(self) -> str:
        names = ", ".join(self.classes[:5]) + (", ..." if len(self.classes) > 5 else "")
        members, backbone = self.card.members, self.card.recipe.backbone
        network = counted(len(members), "network") if members else backbone.name
        return (
            f"<Classifier of {len(self.classes)} classes "
            f"({names}): {network}, windows of {self.clip_seconds:g} s at {self.sample_rate_hz} Hz, on {self.device}>"
        )

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled, for processes of one version of earsight: all but what is made anew, and a lock."""
        return self.__dict__ | {"_folding": None, "_folded": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _folding=threading.Lock())


@checked(path=instance("a model file, a run or its folder", Run, more=PATH.taken))
def load(path: str | Path | Run, *, device: str = "cpu") -> Classifier:
    """Load a model file.

    Parameters
    ----------
    path : str, Path or Run
        A model file, a run or its folder that has one at its top, or ``hf://owner/name`` on the Hugging Face hub.
    device : str
        Where to compute: ``cpu``, ``cuda``, ``auto`` ...

    Returns
    -------
    Classifier
        What takes files, bytes, arrays and recordings.

    Raises
    ------
    ModelError
        If the file is not a whole model file of this version of earsight, or the hub does not give it.

    Examples
    --------
    >>> import earsight
    >>> classifier = earsight.load("runs/mine/model.safetensors")
    >>> found = classifier.predict("new.wav")
    >>> found.label in classifier.classes
    True
    >>> len(list(classifier.predict_files(["new.wav", "new.wav"])))
    2
    """
    if isinstance(path, Run):
        return path.load(device=device)
    place = None
    if device != "cpu":  # who listens on a CPU needs nothing of what trains
        from earsight.training.device import pick_device

        place = pick_device(device)
    if str(path).startswith("hf:"):
        from earsight.reports.hub import fetch

        path = fetch(path)
    inside = Path(path) / "model.safetensors"
    return Classifier.load(inside if inside.is_file() else path, device=place)


@checked(**_OWN)
def train(
    data: str | Path,
    out: str | Path,
    *,
    recipe: str | Path | Recipe = "default",
    overrides: Overrides = (),
    fold: int | None = None,
    seed: int = 0,
    options: RunOptions | None = None,
    progress: bool = False,
) -> Run:
    """Train one model and measure it on clips that it never saw, as ``earsight train`` does.

    What is there already is gone on with: the same call again resumes, or opens what is done.

    Parameters
    ----------
    data : str or Path
        A folder with a folder a class, a csv, a known data set; or recordings, with ``boxes``.
    out : str or Path
        The run folder.
    recipe : str, Path or Recipe
        One of the package's recipes, a YAML file, or an object.
    overrides : mapping or texts
        Changes of the recipe, as in ``{"training.epochs": 10}`` or ``["training.epochs=10"]``.
    fold : int, optional
        The fold to hold out; by default a fifth of the clips, by label and source.
    seed : int
        Of the held-out draw, the head and the order of the clips.
    options : RunOptions, optional
        The command line's other options, by their names: ``subset``, ``boxes``, ``splits``, ``device``, ``cache`` ...
    progress : bool
        Print progress and notes on standard error.

    Returns
    -------
    Run
        The run folder: score, interval, model, report.

    Raises
    ------
    EarsightError
        DataError, RecipeError, ModelError or RunError, each with what was found, what was expected, and what to do.

    Examples
    --------
    The recipe ``quick.yaml`` has a tiny network, so that this takes a second.

    >>> import earsight
    >>> run = earsight.train("my_sounds", "runs/mine", recipe="quick.yaml")
    >>> run.load().predict("new.wav").label in run.load().classes
    True
    """
    chosen = _options(options, recipe, overrides)
    with _computing(progress):
        steps.train_one(Path(data), Path(out), fold=fold, seed=seed, options=chosen, as_json=None)
    return Run(out)


@checked(**_OWN)
def crossval(
    data: str | Path,
    out: str | Path,
    *,
    recipe: str | Path | Recipe = "default",
    overrides: Overrides = (),
    folds: Sequence[int] | None = None,
    seeds: int = 1,
    options: RunOptions | None = None,
    jobs: int = 1,
    progress: bool = False,
) -> Run:
    """Hold out every fold in turn, as ``earsight crossval`` does; what is done is not run again.

    What is not described here is as in `train`.

    Parameters
    ----------
    folds : sequence of int, optional
        Only these; by default all.
    seeds : int
        How many seeds, from 0.
    jobs : int
        Trials at a time, each in a process of its own. Each of these reads the caller's script: it must be a file, with
        its calls below ``if __name__ == "__main__":``. Notebooks need nothing.

    Returns
    -------
    Run
        The run folder, with a model for each fold and seed.

    Examples
    --------
    >>> import earsight
    >>> run = earsight.crossval("my_sounds", "runs/folds", recipe="quick.yaml", folds=[1, 2])
    >>> [row["fold"] for row in run.summary["folds"]]
    [1, 2]
    """
    from earsight.execution.processes import check_script

    check_script(jobs)
    chosen = _options(options, recipe, overrides)
    named = None if folds is None else ",".join(map(str, folds))
    how: dict[str, Any] = {"folds": named, "seeds": seeds, "jobs": jobs, "ray": RayOptions(), "as_json": None}
    with _computing(progress):
        steps.cross_validate(Path(data), Path(out), options=chosen, **how)
    return Run(out)


@checked(model=_MODEL, **_OWN)
def evaluate(
    model: str | Path | Run | _Classifier,
    data: str | Path,
    *,
    fold: int | None = None,
    first: bool = False,
    damaged: bool = False,
    events: bool = False,
    tolerance: float | None = None,
    options: RunOptions | None = None,
    progress: bool = False,
) -> Evaluation:
    """Measure a model on labelled clips, or on annotated recordings, as ``earsight evaluate`` does.

    What is not described here is as in `train`.

    Parameters
    ----------
    model : str, Path, Run or Classifier
        A model file, a run that has one at its top, or what `load` returned.
    fold : int, optional
        Only this fold; by default the clips that training held out, where the model was trained on this data set.
    first : bool
        Use only the first window of each clip.
    damaged : bool
        Classify damaged files by what is whole of them.
    events : bool
        With ``boxes``: score the events that are found in whole recordings.
    tolerance : float, optional
        Seconds by which onsets of events may differ.

    Returns
    -------
    Evaluation
        Score, interval, and figures of the classes.

    Examples
    --------
    >>> import earsight
    >>> found = earsight.evaluate("runs/mine/model.safetensors", "my_sounds")
    >>> found.result["held_out"], found.metric
    (True, 'accuracy')
    """
    from earsight.commands.predicting import evaluated

    form = _options(options)
    how: dict[str, Any] = {"fold": fold, "first": first, "damaged": damaged, "events": events, "tolerance": tolerance}
    with _computing(progress):
        return Evaluation(
            evaluated(lambda: _loaded(model, form.device), Path(data), form=form, skip_bad=form.skip_bad, **how)
        )


def _loaded(model: str | Path | Run | _Classifier, device: str = "auto") -> _Classifier:
    if not isinstance(model, _Classifier):
        return load(model, device=device)
    if device != "auto" and device.partition(":")[0] != model.device.type:
        raise EarsightError(f"device is {device}, and the classifier is on {model.device}; load it there with `device`")
    return model


def _options(
    options: RunOptions | None, recipe: str | Path | Recipe = "default", overrides: Overrides = ()
) -> _Options:
    """The options of a verb, with a recipe; places may have been given as texts."""
    check_fields(options := options or RunOptions())
    given = vars(options)
    places = {name: Path(given[name]) for name in ("boxes", "root", "cache") if given[name] is not None}
    made = recipe if isinstance(recipe, Recipe) else None
    if "default" not in (given["recipe"], recipe):
        raise EarsightError(f"a recipe is given twice, and as options.recipe={given['recipe']!r}; leave one out")
    named = given["recipe"] if made or recipe == "default" else str(recipe)
    changes = [*(given["assignments"] or ()), *assigned(overrides)]
    return _Options(**{**given, **places, "recipe": named, "assignments": changes}, given=made)


_TURN = threading.RLock()


@contextmanager
def _computing(progress: bool) -> Iterator[None]:
    """Print only what was asked for, and leave PyTorch the threads and random numbers that it had.

    A process has one number of threads and one generator for dropout, so that calls in several threads take turns.
    """
    import torch

    from earsight.parallel import bound_threads

    begun = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if begun else ()
    with _TURN, torch.random.fork_rng(devices), silence(not progress):
        before = torch.get_num_threads()
        try:
            yield
        finally:
            torch.set_num_threads(before)
            bound_threads(None)


def _class_drawing(rows: Sequence[Mapping[str, Any]]) -> Drawing:
    """A share of each class, with its interval where there is one."""
    from earsight.reports.drawings import Bar, intervals_drawing

    key = next(name for name in ("average_precision", "recall", "f1") if name in rows[0])
    found = [(row["name"], row[key], row.get("ci95") or (row[key], row[key])) for row in rows if row[key] is not None]
    if not found:
        raise EarsightError(f"no class has {_SHOWN[key]}, so there is nothing to draw")
    bars = [Bar(name, 100 * value, 100 * low, 100 * high) for name, value, (low, high) in found]
    return Drawing(intervals_drawing(bars, label=f"{_SHOWN[key]} in %"))


def _as_html(printed: Callable[..., None], content: dict[str, Any]) -> str:
    """What a function prints on a console, for notebooks."""
    from rich.console import Console as Recorder

    console: Console = Recorder(file=io.StringIO(), record=True, width=110, force_jupyter=False)
    printed(content, console=console)
    return worded(console.export_html(inline_styles=True, code_format="<pre style='line-height:1.2'>{code}</pre>"))
