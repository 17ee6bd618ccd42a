"""The command line: its verbs, in the order in which ``--help`` shows them."""

from __future__ import annotations

import atexit
import gc
import io
import os
import signal
import sys
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
from earsight.console import Verbs, out
from earsight.openmp import ask_for_short_slices, spin_briefly
from earsight.signals import stop_at

app = typer.Typer(
    cls=Verbs,
    help="Fine-tune ImageNet-pretrained CNNs on spectrograms of sound.",
    context_settings={"help_option_names": ["-h", "--help"]},  # groups and verbs inherit them
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for verb in (
    *(learning.quickstart, checking.check, learning.prepare, learning.train, learning.crossval),
    *(predicting.predict, explaining.explain, predicting.evaluate, learning.summary),
    *(serving.serve, exporting.export),
    *(finished.calibrate, finished.compare, finished.ensemble, finished.report, reproducing.reproduce),
    *(tuning.tune, learning.download),
):
    app.command()(verb)

recipe = typer.Typer(help="Show the recipes in the package.", no_args_is_help=True)
recipe.command("list")(learning.recipe_list)
recipe.command("show")(learning.recipe_show)
app.add_typer(recipe, name="recipe")

analyze = typer.Typer(help="Analyse networks: similarity, transfer by stages, attributions.", no_args_is_help=True)
for look in (analyzing.similarity, analyzing.fusion, analyzing.freeze, analyzing.cutoff, explaining.boundaries):
    analyze.command()(look)
app.add_typer(analyze, name="analyze")


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
