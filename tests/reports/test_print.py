"""The report on paper: Chromium prints it, and no page is empty or has the footer alone."""

from __future__ import annotations

import re
import zlib

import pytest
from playwright.sync_api import sync_playwright
from report_runs import make_run
from visiting import CHROMIUM, needs_chromium

from earsight.reports.report import make_report


def texts_of_pages(content: bytes) -> list[int]:
    """How many texts each page of Chromium's PDF draws."""
    objects = {int(found[1]): found[2] for found in re.finditer(rb"(\d+) 0 obj(.*?)endobj", content, re.DOTALL)}
    out = []
    for _, body in sorted(objects.items()):
        if re.search(rb"/Type\s*/Page\b(?!s)", body):
            found = re.search(rb"/Contents (\d+)", body)
            assert found
            stream = objects[int(found[1])]
            # The last byte of a checksum may look like the end of a line.
            packed = stream[stream.index(b"stream") + 6 : stream.rindex(b"endstream")].lstrip(b"\r\n")
            drawn = zlib.decompressobj().decompress(packed)
            out.append(drawn.count(b"Tj") + drawn.count(b"TJ"))
    return out


@needs_chromium
@pytest.mark.parametrize("form", ["A4", "Letter"])
def test_no_page_is_empty_and_none_has_the_footer_alone(tmp_path, form):
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        for classes in (3, 9, 14, 25):
            names = tuple(f"class {number}" for number in range(classes))
            run = make_run(tmp_path / f"{classes}", classes=names, clips=2 * classes, folds=(1, 2, 3))
            page.set_content(make_report([run], mistakes=0).text)
            found = texts_of_pages(page.pdf(format=form))
            assert len(found) > 2
            assert min(found) > 0
            page.emulate_media(media="print")
            assert not page.locator("footer").is_visible()
        browser.close()
