"""The front end's compiled kernels, where numba can be used.

Comes in: nothing. Goes out: the module `earsight.features.power_kernels`, compiled for the processor at hand, or None.
Its code is kept in the cache folder for later processes. To import numba and to read that code takes about a second, so
it is for those who have many clips (`WORTH_IT`).
"""

from __future__ import annotations

import hashlib
import importlib
from functools import cache
from pathlib import Path
from typing import Any

WORTH_IT = 40
"""Clips from which on the kernels are asked for: below, numba takes longer to load than all pictures to compute."""


@cache
def power_kernels() -> Any:
    """The kernels of `earsight.features.power`, or None where there are none."""
    try:
        from numba.core import config
    except ImportError:  # numba is not there for every Python and every NumPy
        return None
    from earsight.features.store import default_cache

    settings: Any = config
    before = settings.CACHE_DIR
    source = Path(__file__).with_name("power_kernels.py").read_bytes()
    try:
        # numba looks at this when a function is handed to it; a folder that cannot be written it passes over.
        settings.CACHE_DIR = before or str(default_cache() / "kernels" / hashlib.sha256(source).hexdigest()[:16])
        return importlib.import_module("earsight.features.power_kernels")
    finally:
        settings.CACHE_DIR = before
