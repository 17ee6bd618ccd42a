"""The cache folder, where everything lies that can be made again: stores of a data set, and compiled kernels."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache() -> Path:
    """Folder for stores: ``$EARSIGHT_CACHE``, or ``earsight`` in the user's cache folder."""
    named = os.environ.get("EARSIGHT_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "earsight"
