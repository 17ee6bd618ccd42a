"""Shared options: type aliases for single ones, data classes for groups.

A verb names a group as one parameter, and `verb` hands Typer the group's fields in its place::

    @verb
    def train(data: Data, *, recipe: RecipeOptions, compute: DeviceOptions) -> None: ...
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from earsight import console
from earsight.parallel import bound_threads

if TYPE_CHECKING:
    from earsight.recipe import Recipe

    AnyPath = str | Path
else:
    AnyPath = Path  # Typer takes one type; texts come from Python callers, for whom `earsight.api` converts them


def one_of(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What a shell completes an option's value with; files where no name fits."""

    def fitting(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return fitting


def recipe_names() -> list[str]:
    """The recipes in the package."""
    from earsight.recipe import list_recipes

    return list_recipes()


def _fields() -> list[str]:
    from earsight.recipe import load_recipe

    groups = load_recipe().model_dump()
    return [f"{group}.{name}=" for group, fields in groups.items() if isinstance(fields, dict) for name in fields]


Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model file, or hf://OWNER/NAME on the Hugging Face hub.")
]
Sounds = Annotated[list[str], typer.Argument(help="Files or folders; - reads names from standard input.")]
Data = Annotated[
    Path, typer.Argument(help="Data set: a folder (one a class, train/ and test/, ESC-50 ...), a csv, or recordings.")
]
Out = Annotated[Path, typer.Option("--out", help="Run folder; an interrupted run resumes in it.")]
Folds = Annotated[str | None, typer.Option(help="Which folds, as in 1,2; default all.")]
Seeds = Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override a field, as in training.epochs=10; repeatable.", autocompletion=one_of(_fields)
    ),
]
RecipeName = Annotated[
    str, typer.Option("--recipe", help="Name in the package, or a .yaml file.", autocompletion=one_of(recipe_names))
]
RecipeArgument = Annotated[
    str, typer.Argument(help="Name in the package, or a .yaml file.", autocompletion=one_of(recipe_names))
]
Layout = Annotated[
    str,
    typer.Option(
        help="auto, esc50, urbansound8k, speechcommands, fsdd, fsd50k, dcase, gtzan, audiofolder (train and test "
        "folders, metadata.csv), folder or csv."
    ),
]
Subset = Annotated[
    str | None, typer.Option(help="esc10: only those rows of ESC-50. single: only FSD50K's clips of one label.")
]
Root = Annotated[
    AnyPath | None, typer.Option("--root", help="Folder that a table's paths begin at; default the table's own.")
]
LabelFrom = Annotated[
    str | None,
    typer.Option(
        "--label-from",
        help="How the files of a folder are named, as in '{label}_{group}_{n}', or '{split}/{label}/{name}' for paths.",
    ),
]
Labels = Annotated[
    Literal["auto", "single", "several"],
    typer.Option("--labels", help="Labels a clip: one (softmax), several (a sigmoid a class); auto: as the data say."),
]
Splits = Annotated[int, typer.Option(help="Folds to draw if the data set has none.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable clips out and record them.")]
Damaged = Annotated[
    bool,
    typer.Option(
        "--allow-damaged",
        help="Use damaged and cut files by what is whole before the damage, and say how many seconds that is.",
    ),
]
First = Annotated[
    bool,
    typer.Option(
        "--first", help="Classify only the first window of each file; without it, longer files are classified whole."
    ),
]
Precision = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option(
        help="bfloat16: the network in that where it is faster (AMX, AMD's Zen), FFTs in float32; probabilities "
        "change by about a hundredth."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads to compute with; default all cores.")]
"""Whatever verb has it, `grouped` bounds pools and numpy's threads; `commands.steps.computer` those of torch."""
Jobs = Annotated[int, typer.Option(min=1, help="Trials at a time, each in a process of its own on the same device.")]
On = Annotated[
    str,
    typer.Option(
        "--on",
        help="Where trials run: local; ray, the cluster of $RAY_ADDRESS or of this machine, else one that is started "
        "here; or ray://HOST:PORT.",
        autocompletion=one_of(lambda: ("local", "ray")),
    ),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write each epoch's figures for TensorBoard too, below RUN/tensorboard.")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output, and nothing else there.")
]


@dataclass(frozen=True)
class RecipeOptions:
    """The recipe, and overrides of its fields."""

    recipe: RecipeName = "default"
    assignments: Set = None

    def chosen(self, say: Callable[[str], None] | None = None) -> Recipe:
        """The recipe that they name, with the overrides; ``say`` as in `load_recipe`."""
        from earsight.recipe import load_recipe

        return load_recipe(self.recipe, overrides=self.assignments or (), say=say)


@dataclass(frozen=True)
class BoxOptions:
    """Boxes in recordings, and how windows are cut by them."""

    boxes: Annotated[
        AnyPath | None,
        typer.Option(
            help="Boxes in recordings, whose folder is then DATA: a csv (path,begin,end,label), a Raven, Audacity or "
            "BirdNET table, or a folder of them."
        ),
    ] = None
    complete: Annotated[
        bool, typer.Option("--complete", help="Every sound was annotated: what lies outside all boxes is background.")
    ] = False
    window_seconds: Annotated[
        float | None, typer.Option(help="Length of the windows; default what nine boxes in ten fit in.")
    ] = None
    hop: Annotated[float | None, typer.Option(help="Seconds from window to window; default half a window.")] = None
    box_share: Annotated[float, typer.Option(help="How much of a box a window must hold to have its label.")] = 0.5
    most_windows: Annotated[int, typer.Option(help="Windows at most; the largest classes lose of theirs.")] = 20_000
    skip_rare: Annotated[
        bool, typer.Option("--skip-rare", help="Leave out labels of fewer recordings than there are folds.")
    ] = False
    label_column: Annotated[str | None, typer.Option(help="The boxes' column of labels, if no name tells it.")] = None
    annotator: Annotated[str | None, typer.Option(help="Take the boxes of this annotator alone.")] = None


@dataclass(frozen=True)
class LayoutOptions(BoxOptions):
    """What a data set's files mean."""

    layout: Layout = "auto"
    subset: Subset = None
    root: Root = None
    label_from: LabelFrom = None
    labels: Labels = "auto"


@dataclass(frozen=True)
class DataOptions(LayoutOptions):
    """How a data set is read."""

    splits: Splits = 5


@dataclass(frozen=True)
class StoreOptions:
    """How spectrograms are computed, and where they are kept."""

    skip_bad: SkipBad = False
    cache: Annotated[
        AnyPath | None, typer.Option(help="Folder for spectrograms; default $EARSIGHT_CACHE or the user's cache.")
    ] = None

    @property
    def cache_folder(self) -> Path | None:
        """The same, which from Python may be a text."""
        return None if self.cache is None else Path(self.cache)


@dataclass(frozen=True)
class DeviceOptions:
    """What to compute on here."""

    device: Device = "auto"
    threads: Threads = None


@dataclass(frozen=True)
class SpectrogramOptions(StoreOptions, DataOptions):
    """How a data set is read, and its spectrograms are made and kept."""


@dataclass(frozen=True)
class WorkOptions(DeviceOptions, SpectrogramOptions):
    """The same, and what to compute on here."""


@dataclass(frozen=True)
class RunOptions(WorkOptions, RecipeOptions):
    """Everything that training a recipe on a data set needs."""

    def __repr__(self) -> str:
        """What is not the default."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {field.name: field.default for field in dataclasses.fields(self)}
        return f"RunOptions({', '.join(f'{name}={one!r}' for name, one in given.items() if one != plain[name])})"


@dataclass(frozen=True)
class RayOptions:
    """Whether trials run on a Ray cluster, and what each reserves there."""

    on: On = "local"
    cpus: Annotated[
        float | None,
        typer.Option(
            "--cpus-per-trial", min=0.01, help="On Ray: CPUs that a trial reserves; default its --threads, which is 1."
        ),
    ] = None
    gpus: Annotated[
        float | None,
        typer.Option(
            "--gpus-per-trial",
            min=0,
            help="On Ray: GPUs a trial, as in 0.2 for five on one card; default 1 if there are.",
        ),
    ] = None


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """Decorate a verb: its option groups stand as options, and a user's mistake ends it as `console.verb` says."""
    return console.verb(grouped(function))


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """Wrap a verb so that Typer passes the fields of its option groups one by one."""
    hints = get_type_hints(function, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in groups:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
            continue
        inner = get_type_hints(groups[parameter.name], include_extras=True)
        parameters += [
            inspect.Parameter(field.name, parameter.kind, default=field.default, annotation=inner[field.name])
            for field in dataclasses.fields(groups[parameter.name])
        ]

    @functools.wraps(function)
    def wrapper(**given: Any) -> None:
        _bound(given.get("threads"))
        if "model" in given:
            given["model"] = here(given["model"])
        for name, kind in groups.items():
            values = {field.name: given.pop(field.name) for field in dataclasses.fields(kind)}
            given[name] = kind(**values)  # type: ignore[operator]
        function(**given)

    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def _bound(threads: int | None) -> None:
    """Bound the threads of pools, and of what reads its bound when it is first loaded: numpy's BLAS, torch's OpenMP."""
    if threads is not None and not {"numpy", "torch"} & set(sys.modules):
        os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    bound_threads(threads)


def here(model: Path) -> Path:
    """A model file on this machine; one on the hub is fetched."""
    if not str(model).startswith("hf:"):
        return model
    from earsight.reports.hub import fetch

    return fetch(model)
