"""The verb that gives model files an honest confidence: calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from earsight.commands.options import Json
from earsight.console import bar, out, print_json, verb

if TYPE_CHECKING:
    from earsight.evaluation.confidence import Wanted


@verb
def calibrate(
    folder: Annotated[Path, typer.Argument(help="A run folder, of crossval, train or ensemble.")],
    score: Annotated[
        Literal["auto", "distance", "energy", "doubt"],
        typer.Option(help="What tells unknown sounds; auto takes the first of these that the run has."),
    ] = "auto",
    false_alarms: Annotated[
        float, typer.Option("--false-alarms", help="Share of known sounds that may be called unknown.")
    ] = 0.05,
    coverage: Annotated[float, typer.Option(help="How often the set of plausible classes is to hold the true one.")] = (
        0.95
    ),
    sets: Annotated[
        Literal["lac", "aps"], typer.Option(help="lac: the smallest sets; aps: larger ones for harder sounds.")
    ] = "lac",
    figure: Annotated[
        Path | None, typer.Option(help="Where the reliability diagram goes; default RUN/calibration.png.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Make a run's model files say what they do not know.

    From what each fold's model said of its held-out clips come a temperature for the probabilities, a threshold above
    which a sound is unknown, and one for the set of plausible classes. A fold's model gets those of the other folds,
    the model at the top of the run those of all. crossval, train and ensemble do so by themselves, with the defaults.
    """
    from earsight.evaluation.confidence import Wanted
    from earsight.reports.calibration import print_calibration
    from earsight.training.calibrating import calibrate_run

    wanted = Wanted(score=score, false_alarms=false_alarms, coverage=coverage, method=sets)
    with bar("model files") as shown:
        result = calibrate_run(folder, wanted, progress=shown)
    result |= {"figure": str(_draw(folder, wanted, figure or folder / "calibration.png"))}
    if json_output:
        print_json(result)
    else:
        print_calibration(result, console=out)
        out.print(f"figure: {result['figure']}", markup=False)


def _draw(folder: Path, wanted: Wanted, path: Path) -> Path:
    """Write the reliability diagram of all seeds' held-out clips."""
    import numpy as np

    from earsight.reports.calibration import calibration_figure
    from earsight.training.calibrating import told_of

    told, trials = told_of(folder, wanted)
    panels = {name: np.concatenate([getattr(one, name) for one in told]) for name in ("before", "after")}
    calibration_figure(panels, np.concatenate([trial.labels for trial in trials]), path=path)
    return path
