"""The command line: its verbs, in the order in which ``--help`` shows them."""

from __future__ import annotations

import atexit
import gc
import io
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import typer

from earsight.commands import (
    analyzing,
    checking,
    explaining,
    exporting,
    finished,
    learning,
    predicting,
    reproducing,
    serving,
    tuning,
)
from earsight.commands.examples import examples_text
from earsight.console import Listed, Verbs, out
from earsight.openmp import ask_for_short_slices, spin_briefly
from earsight.signals import stop_at

app = typer.Typer(
    cls=Verbs,
    help="Fine-tune ImageNet-pretrained CNNs on spectrograms of sound.",
    # Groups and verbs inherit them. Lines of text longer than 120 characters are hard to read.
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _group(name: str, help_text: str, verbs: Sequence[Callable[..., None]]) -> typer.Typer:
    """A group of verbs, whose functions may have its name before their own."""
    group = typer.Typer(cls=Listed, help=help_text, no_args_is_help=True)
    for verb in verbs:
        own = verb.__name__.removeprefix(f"{name}_")
        group.command(own, epilog=examples_text(f"{name} {own}"))(verb)
    return group


recipe = _group("recipe", "Show the recipes in the package.", (learning.recipe_list, learning.recipe_show))
analyze = _group(
    "analyze",
    "Analyse networks: similarity, transfer by stages, attributions.",
    (analyzing.similarity, analyzing.fusion, analyzing.freeze, analyzing.cutoff, explaining.boundaries),
)


def _named(*verbs: Callable[..., None]) -> dict[str, Callable[..., None]]:
    return {verb.__name__: verb for verb in verbs}


_TRAIN = (learning.train, learning.crossval, finished.ensemble, finished.distil, tuning.tune)
TASKS: dict[str, Mapping[str, Callable[..., None] | typer.Typer]] = {
    "Get started": _named(learning.quickstart, checking.check, learning.prepare, learning.download),
    "Train": {**_named(*_TRAIN), "recipe": recipe},
    "Judge": _named(predicting.evaluate, learning.summary, finished.compare, finished.report, finished.calibrate),
    "Apply": _named(predicting.predict),
    "Look inside": {**_named(explaining.explain), "analyze": analyze},
    "Serve and export": _named(serving.serve, exporting.export, exporting.push),
    "Repeat the paper": _named(reproducing.reproduce),
}
"""The verbs by what they are for, in the order in which ``--help`` shows them."""

for task, verbs in TASKS.items():
    for name, verb in verbs.items():
        if isinstance(verb, typer.Typer):
            app.add_typer(verb, name=name, rich_help_panel=task)
        else:
            app.command(name, epilog=examples_text(name), rich_help_panel=task)(verb)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Fine-tune ImageNet-pretrained CNNs on spectrograms of sound."""
    if version:
        from earsight.version import __version__

        out.print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    # Importing torch makes a million objects that stay. Garbage collections over them take some 0.3 s of a short
    # command; with so large a first generation they are rare.
    gc.set_threshold(100_000)
    kinds = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    stop_at(*(kind for kind in kinds if signal.getsignal(kind) is signal.SIG_DFL))  # not below nohup
    spin_briefly()
    ask_for_short_slices()
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large pages, for which torch looks when it first takes memory
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            # File names are bytes: those that are not UTF-8 pass through as they came. What another coding, such as
            # that of a pipe on Windows, does not have is written with escapes.
            passing = stream is sys.stdin or stream.encoding.lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if passing else "backslashreplace")
    status = 1

    def leave() -> None:
        code = status
        for stream in (sys.stderr, sys.stdout):
            try:
                stream.flush()
            except BrokenPipeError:  # the reader of our output has gone
                code = code or 1
            except OSError as error:  # a verb that failed has printed why
                if not code:
                    os.write(2, f"earsight: the output cannot be written ({error.strerror or error})\n".encode())
                code = code or 2
        os._exit(code)

    # Python's own teardown of all modules costs 0.4 s and 130 MB with torch, and serves nobody. Registered first, this
    # runs last: after threads have ended and every other exit handler.
    atexit.register(leave)
    try:
        app()
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        raise
