"""The cache folder: stores of data sets and compiled kernels, all of which can be computed again."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache() -> Path:
    """Folder for stores: ``$EARSIGHT_CACHE``, or ``earsight`` in the user's cache folder."""
    named = os.environ.get("EARSIGHT_CACHE")
    if named:
        return Path(named)
    usual = os.environ.get("LOCALAPPDATA") if os.name == "nt" else None  # where Windows keeps what stays on a machine
    return Path(os.environ.get("XDG_CACHE_HOME") or usual or Path.home() / ".cache") / "earsight"
