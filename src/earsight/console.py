"""Output of the command line: progress bars, notes, JSON and errors.

Standard output carries results alone (tables, or JSON and nothing else); all the rest goes to standard error. With
``--json`` an error is a result too: one line of JSON, unless the result stands there already.
"""

from __future__ import annotations

import functools
import itertools
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, ParamSpec, cast

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from typer.core import TyperGroup

from earsight.errors import EarsightError, SoundWarning, options_as_typed, refused, remedy_of, worded
from earsight.files import json_text
from earsight.inference.formats import harmless
from earsight.signals import stop_status

P = ParamSpec("P")


class _Harmless(Console):
    """A console that prints names, which may be a stranger's, without the control characters in them."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=harmless(segment.text, keep="\t\n"))


# In a notebook a line is text, which joins the lines before it, and no output of its own.
err = _Harmless(stderr=True, highlight=False, soft_wrap=True, force_jupyter=False)
out = _Harmless(highlight=False, soft_wrap=True, force_jupyter=False)

_asked: ContextVar[bool] = ContextVar("asked", default=False)
"""Whether standard output is to be JSON, and no whole result stands there yet."""

# Its own class in some versions of typer, click's in others.
_UsageError: type[Exception] = cast("type[Exception]", typer.BadParameter.__mro__[1])


class Listed(TyperGroup):
    """A group whose help lists its verbs by task, each with its whole first sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the verbs under their tasks (Typer's ``rich_help_panel``), in the order of their registration."""
        tasks: dict[str, list[tuple[str, str]]] = {}
        commands = {name: command for name in self.list_commands(ctx) if (command := self.get_command(ctx, name))}
        width = max(map(len, commands))
        for name, command in commands.items():
            if not command.hidden:
                task = getattr(command, "rich_help_panel", None)
                about = " ".join((command.help or "").partition("\n\n")[0].split())
                tasks.setdefault(task if isinstance(task, str) else "Commands", []).append((f"{name:{width}}", about))
        for task, rows in tasks.items():
            with formatter.section(task):
                formatter.write_dl(rows)


class Verbs(Listed):
    """The group of verbs; a usage error ends in one line, as every other user error does."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        """Parse the options before the verb."""
        _asked.set("--json" in itertools.takewhile(lambda word: word != "--", args))
        with _in_one_line():
            return super().make_context(info_name, args, *rest, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Parse the verb's own options and run it."""
        with _in_one_line():
            return super().invoke(ctx)


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        found: Any = error
        text = " ".join(str(found.format_message()).split()).rstrip(".")
        if found.ctx is None or text.startswith("Usage:"):  # no arguments at all: the message is the help
            raise
        text = _as_a_field(found) or text
        raise _failed("UsageError", f"{text}; see `{found.ctx.command_path} --help`") from error


def _as_a_field(error: Any) -> str:
    """An option that the verb does not have, if it is a field of the recipe that the verb takes with ``--set``."""
    option = getattr(error, "option_name", "")
    if not option or not any("--set" in one.opts for one in error.ctx.command.params):
        return ""
    from earsight.recipe import fields_named

    homes = fields_named(option.lstrip("-").replace("-", "_"))
    return f"No such option: {option}; it is a field of the recipe: --set {homes[0]}=..." if homes else ""


def _failed(kind: str, text: str, *, status: int = 2) -> typer.Exit:
    """Print an error in words, and as JSON on standard output where ``--json`` asks for it; return the verb's end."""
    err.print(f"earsight: {text}", style="" if status > 2 else "red", markup=False)
    if _asked.get():
        _asked.set(False)
        with suppress(OSError):  # the error may be that nothing can be written there
            print(json_text({"error": text, "kind": kind, "status": status}), flush=True)
    return typer.Exit(status)


def verb(function: Callable[P, None]) -> Callable[P, None]:
    """Decorate a verb: a user's error prints one or two lines and exits with 2; a stop prints how to resume."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        with options_as_typed(), warnings.catch_warnings():
            warnings.simplefilter("ignore", SoundWarning)
            try:
                function(*args, **kwargs)
            except EarsightError as error:
                raise _failed(type(error).__name__, str(error)) from error
            except BrokenPipeError:
                raise  # the reader of our output has gone; `earsight.cli.main` handles it
            except OSError as error:
                remedy = f"{remedy_of(error)}. What was written is whole: the same command goes on from here."
                if isinstance(error, FileNotFoundError):
                    remedy = "it was removed while it was in use. Put it back, or give the same command again."
                raise _failed("OSError", refused(error, remedy)) from error
            except KeyboardInterrupt as error:
                raise stopped("all files are whole. The same command goes on from here.", error) from error

    return wrapped


def stopped(how: str, error: KeyboardInterrupt) -> typer.Exit:
    """Say that a verb was stopped, and how to go on; returns what ends it."""
    return _failed("Stopped", f"stopped; {how}", status=stop_status(error))


_silent: ContextVar[bool] = ContextVar("silent", default=False)


@contextmanager
def silence(wanted: bool = True) -> Iterator[None]:
    """Without lines and bars for as long as the block runs: `earsight.api` prints what it was asked to."""
    before = _silent.set(wanted)
    try:
        yield
    finally:
        _silent.reset(before)


def say(text: str) -> None:
    """Print one line on standard error."""
    if not _silent.get():
        err.print(worded(text), markup=False)


def print_json(content: Any) -> None:
    """Print a result as JSON on standard output."""
    _asked.set(False)
    sys.stdout.write(json_text(content, indent=2) + "\n")


class Bar:
    """A progress bar; on a stream that is no terminal, a line at every tenth of the work instead."""

    def __init__(self, progress: Progress, task: TaskID, name: str, unit: str) -> None:
        self._progress, self._task, self._name, self._unit = progress, task, name, unit
        self._tenth = 0

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """Show how much is done, of a total that may not be known."""
        self._progress.update(self._task, completed=done, total=total, note=note)
        if total is None:
            return
        tenth = 10 * done // total if total else 10
        if not self._progress.console.is_terminal and tenth > self._tenth:
            self._tenth = tenth
            say(f"{self._name}: {done} of {total} {self._unit} {note}".rstrip())

    def above(self, text: str) -> None:
        """Print lines of a result on standard output; above the bar, if both are on one terminal."""
        stream = getattr(sys.stdout, "rich_proxied_file", sys.stdout)  # the bar may stand before the stream
        shared = self._progress.live.is_started and stream.isatty()
        (self._progress.console if shared else out).print(text, markup=False)

    def then(self, name: str, unit: str) -> Callable[[int, int], None]:
        """What shows a second part of the work, under its own name and unit, from its first call on."""

        def show(done: int, total: int) -> None:
            if self._name != name:
                self._name, self._unit, self._tenth = name, unit, 0
                self._progress.reset(self._task, description=name, unit=unit)
            self(done, total)

        return show


@contextmanager
def bar(name: str, unit: str) -> Iterator[Bar]:
    """A progress bar for as long as the block runs; ``unit`` is what it counts, such as clips."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=err,
        disable=_silent.get() or not err.is_terminal,
    ) as progress:
        yield Bar(progress, progress.add_task(name, total=None, note="", unit=unit), name, unit)
