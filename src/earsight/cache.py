"""The cache folder: stores of data sets and compiled kernels, all of which can be computed again."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def default_cache() -> Path:
    """Folder for stores: ``$EARSIGHT_CACHE``, or ``earsight`` in the user's cache folder."""
    named = os.environ.get("EARSIGHT_CACHE")
    if named:
        return Path(named)
    usual = os.environ.get("LOCALAPPDATA") if os.name == "nt" else None  # where Windows keeps what stays on a machine
    return Path(os.environ.get("XDG_CACHE_HOME") or usual or Path.home() / ".cache") / "earsight"


def made_cache() -> Path:
    """`default_cache`, made where it is not there: for its user alone, as kernels are kept in it."""
    folder = default_cache()
    with contextlib.suppress(OSError):  # whoever writes into it says why that cannot be
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder
