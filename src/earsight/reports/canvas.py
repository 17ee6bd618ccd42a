"""An empty figure, and a figure as a file.

Comes in: sizes in inches, then a drawn figure and a path. Goes out: one file, PNG or SVG by its suffix, written whole
or not at all.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from earsight.errors import EarsightError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def blank(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, whose parts make room for each other."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG, by the path's suffix; the same figure gives the same bytes.

    Raises
    ------
    EarsightError
        If the suffix is another.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".svg"):
        raise EarsightError(f"{path}: found suffix '{suffix}', expected .png or .svg")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    FigureCanvasAgg(figure)
    # SVG keeps text as text, and neither format carries a date: the same data gives the same bytes.
    metadata = {"Date": None} if suffix == ".svg" else {"Software": None}
    try:
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "earsight"}), warnings.catch_warnings():
            # A class name in a script that the font lacks shows as boxes; the figure is still right.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(part, format=suffix[1:], dpi=150, metadata=metadata, bbox_inches="tight")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
