"""The page in a Chromium: what its tests share; their fixtures are in tests/serving/conftest.py."""

from __future__ import annotations

import os
import re
import shutil

import pytest
from playwright.sync_api import Page, expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None and os.environ.get("CI"):
    raise RuntimeError("no Chromium, which the page's tests need: .ci/run installs it with apt-get")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
FAKE = (
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)
EXPECT_MS = 30_000
PHONE = {"width": 390, "height": 844}


def status(page: Page, begins: str) -> None:
    """Wait until the page says something that begins so."""
    expect(page.locator("#status")).to_have_text(re.compile(f"^{begins}"))


def answered_as(page: Page, **changes: object) -> None:
    """Change what this page reads in the service's answers; a route would lose the bodies of uploads."""
    page.evaluate(
        """(changes) => {
          const get = Object.getOwnPropertyDescriptor(XMLHttpRequest.prototype, "responseText").get;
          Object.defineProperty(XMLHttpRequest.prototype, "responseText", { get() {
            const found = JSON.parse(get.call(this));
            if (!found.error) for (const one of [found, ...(found.timeline ?? [])]) Object.assign(one, changes);
            return JSON.stringify(found);
          } });
        }""",
        changes,
    )


def painted(page: Page, canvas: str) -> int:
    """How many different colours a canvas shows."""
    return page.evaluate(
        """(id) => { const c = document.getElementById(id);
        const d = new Uint32Array(c.getContext("2d").getImageData(0, 0, c.width, c.height).data.buffer);
        return new Set(d).size; }""",
        canvas,
    )


def row(page: Page, name: str):
    """The row of a sound in the list."""
    return page.locator("#files li").filter(has_text=name)
