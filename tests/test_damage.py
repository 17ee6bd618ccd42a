"""Twenty seeded cases of `benchmarks.damage`: what is damaged is named or made anew, never a silent difference."""

from __future__ import annotations

import os

import pytest
from benchmarks.damage import READERS, Scene, damage, interrupt

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are forked and killed")
FAST = [one for one in READERS if one.name in ("predict", "report", "summary", "checkpoint", "resumed output")]
CASES = [*[("flip", number) for number in range(10)], *[("cut", number) for number in range(10, 15)]]
CASES += [*[("kill", number) for number in (1, 5, 7)], ("fill", 6), ("fill", 7)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return Scene(tmp_path_factory.mktemp("damage"), few=True)


@pytest.mark.parametrize(("kind", "number"), CASES)
def test_damage_is_named_or_mended(scene, kind, number):
    case = damage(scene, kind, number, FAST) if kind in ("flip", "cut") else interrupt(scene, kind, number)
    assert case["outcome"] in ("same", "named"), case
