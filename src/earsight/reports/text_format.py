"""Numbers as text: shares between 0 and 1 in per cent, differences in signed points, and their intervals.

All have one decimal and no unit. Nothing here reads or writes files.
"""

from __future__ import annotations

from collections.abc import Sequence


def percent(share: float) -> str:
    """As ``95.2`` for 0.952."""
    return f"{100 * share:.1f}"


def percent_range(limits: Sequence[float]) -> str:
    """As ``93.2 to 97.2``."""
    return f"{percent(limits[0])} to {percent(limits[1])}"


def signed(share: float) -> str:
    """As ``+1.3`` points for a difference of 0.013."""
    return f"{100 * share:+.1f}"


def signed_range(limits: Sequence[float]) -> str:
    """As ``-0.4 to +2.0``."""
    return f"{signed(limits[0])} to {signed(limits[1])}"
