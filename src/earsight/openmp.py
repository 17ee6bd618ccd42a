"""How OpenMP's threads wait for each other: they spin for a moment, then sleep, so that other processes get the core.

Read by libgomp, the OpenMP of torch's wheels for Linux (oneDNN's, MKL's and our kernels' too), when torch is imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

SPINS = 10_000  # some 0.5 ms; libgomp's own are 300,000, longer than a time slice


def spin_briefly() -> None:
    """Set it in this process's environment, for what is started from here too, unless the user has set it."""
    if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)


@contextmanager
def spinning_briefly() -> Iterator[None]:
    """The same for processes that are started within the block alone."""
    before = os.environ.get("GOMP_SPINCOUNT")
    spin_briefly()
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("GOMP_SPINCOUNT", None)
