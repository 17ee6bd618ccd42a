"""``python -m benchmarks.page_figures MODEL SOUND LONG OUT [--axe axe.min.js] [--source FOLDER]``: the page, seen.

Serves a model, drives its page in Chromium through its states with a short sound and one longer than 20 s, and writes
``OUT-light.png`` (an explanation), ``OUT-dark.png`` (a timeline), ``OUT-phone.png`` and ``OUT-list.png``, each below
150 kB. ``--source`` serves another checkout's code, such as an earlier version's. With axe-core's file each state is
checked in light and dark, and every violation is printed; the exit status is their number.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

MOST_BYTES = 150_000
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
DESK: dict[str, Any] = {"viewport": {"width": 1200, "height": 900}}
WAIT_MS = 180_000
NO_MICROPHONE = """() => { navigator.mediaDevices.getUserMedia = async () => {
  throw new DOMException("", "NotFoundError"); }; }"""


@contextmanager
def served(model: Path, source: Path) -> Iterator[str]:
    """A server of its own process; its address."""
    command = [sys.executable, "-m", "earsight", "serve", str(model), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(source)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://[\w.:]+", line):
                yield found[0]
                return
        raise RuntimeError(f"the server of {source} did not start")
    finally:
        process.terminate()
        process.wait(30)


def opened(browser: Browser, address: str, how: dict[str, Any], scheme: str) -> Page:
    """The page, ready."""
    page = browser.new_context(**how, color_scheme=scheme).new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    return page


def wait(page: Page, words: str) -> None:
    """Wait for what the page says."""
    page.wait_for_function(f"() => document.getElementById('status').textContent.startsWith('{words}')")


def explained(page: Page, sound: Path) -> None:
    """A short sound with its explanation, or why there is none."""
    page.set_input_files("#file", sound)
    wait(page, "Done")
    page.locator("#explain").click()
    page.wait_for_function("() => !document.getElementById('explain').disabled")


def save(page: Page, path: Path, *, whole: bool) -> None:
    """A screenshot, with fewer colours and smaller until it is small enough."""
    page.evaluate("() => window.scrollTo(0, 0)") if whole else None
    image = Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")
    while True:
        content = io.BytesIO()
        image.quantize(256, kmeans=3, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
        if content.tell() < MOST_BYTES:
            break
        image = image.resize((image.width * 9 // 10, image.height * 9 // 10), Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())
    print(f"{path}: {image.width} x {image.height}, {content.tell() / 1000:.0f} kB")


def shots(browser: Browser, address: str, sound: Path, long: Path, out: str) -> None:
    """The four figures."""
    page = opened(browser, address, DESK, "light")
    explained(page, sound)
    save(page, Path(f"{out}-light.png"), whole=True)
    page = opened(browser, address, DESK, "dark")
    page.set_input_files("#file", long)
    wait(page, "Done")
    save(page, Path(f"{out}-dark.png"), whole=True)
    page = opened(browser, address, PHONE, "light")
    page.set_input_files("#file", sound)
    wait(page, "Done")
    page.wait_for_timeout(500)
    save(page, Path(f"{out}-phone.png"), whole=False)


def listed(page: Page, sounds: list[Path]) -> None:
    """Several sounds, one of which is refused."""
    page.set_input_files("#file", sounds)
    page.wait_for_function("() => /refused/.test(document.getElementById('list-about').textContent)")
    page.wait_for_function(
        "() => !document.querySelector('[data-state=waiting], [data-state=sending], [data-state=working]')"
    )


def violations(page: Page, axe: Path, state: str) -> int:
    """What axe-core finds in a state of the page."""
    page.add_script_tag(path=axe) if page.evaluate("() => !window.axe") else None
    found: list[dict[str, Any]] = page.evaluate("async () => (await axe.run()).violations")
    for one in found:
        print(f"{state}: {one['id']}: {one['help']}: {[node['html'][:100] for node in one['nodes'][:3]]}")
    print(f"{state}: {len(found)} violations")
    return len(found)


ANSWERED_AS = """(changes) => {
  const get = Object.getOwnPropertyDescriptor(XMLHttpRequest.prototype, "responseText").get;
  Object.defineProperty(XMLHttpRequest.prototype, "responseText", { get() {
    const found = JSON.parse(get.call(this));
    if (!found.error) for (const one of [found, ...(found.timeline ?? [])]) Object.assign(one, changes);
    return JSON.stringify(found);
  } });
}"""  # a route would lose the bodies of uploads


def answered_as(page: Page, **changes: Any) -> None:
    """Change what the page reads in answers from now on: a model of this kind may not be at hand."""
    page.evaluate(ANSWERED_AS, changes)


def checked(browser: Browser, address: str, sound: Path, long: Path, axe: Path, refused: Path) -> int:
    """Violations in every state, light and dark, desk and phone."""
    total = 0
    for scheme in ("light", "dark"):
        for name, how in (("desk", DESK), ("phone", PHONE)):

            def fresh(how: dict[str, Any] = how, scheme: str = scheme) -> Page:
                return opened(browser, address, how | {"bypass_csp": True}, scheme)

            def check(page: Page, state: str, where: str = f"{scheme}, {name}") -> None:
                nonlocal total
                total += violations(page, axe, f"{where}, {state}")

            page = fresh()
            check(page, "empty")
            page.set_input_files("#file", sound)
            wait(page, "Done")
            check(page, "an answer")
            page.locator("#explain").click()
            check(page, "explaining")
            page.wait_for_function("() => !document.getElementById('explain').disabled")
            check(page, "explained")
            page.set_input_files("#file", refused)
            page.wait_for_selector("[data-state=refused]")
            check(page, "refused")
            page.set_input_files("#file", long)
            wait(page, "Done")
            page.locator("details summary").click()
            check(page, "a timeline")
            page.evaluate(NO_MICROPHONE)
            page.locator("#record").click()
            page.wait_for_selector("#record-problem:not([hidden])")
            check(page, "no microphone")
            page.context.close()

            page = fresh()
            listed(page, [sound, refused, long])
            check(page, "a list")
            network = page.context.new_cdp_session(page)
            network.send("Network.enable")
            slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 10_000}
            network.send("Network.emulateNetworkConditions", slow)
            page.set_input_files("#file", long)
            page.wait_for_selector("[data-state=sending]")
            check(page, "an upload")
            page.context.close()

            page = fresh()
            answered_as(page, unknown=True, novelty=12.34)
            for file in (sound, long):
                page.set_input_files("#file", file)
                wait(page, "Done")
                check(page, f"unknown, {'short' if file == sound else 'long'}")
            page.context.close()

            page = fresh()
            answered_as(page, labels=["dog", "rain"])
            for file in (sound, long):
                page.set_input_files("#file", file)
                wait(page, "Done")
                check(page, f"several labels, {'short' if file == sound else 'long'}")
            page.route("**/predict*", lambda route: route.abort())
            page.locator("#explain").click()
            page.wait_for_selector("#why-problem:not([hidden])")
            page.locator("#events button, #strips .strip").first.click()
            page.wait_for_selector("#timeline-problem:not([hidden])")
            check(page, "no answer")
            page.context.close()

            context = browser.new_context(**how, bypass_csp=True, color_scheme=scheme)
            page = context.new_page()
            page.route("**/model", lambda route: route.abort())
            page.goto(address)
            page.wait_for_selector("#problem:not([hidden])")
            check(page, "no service")
            context.close()
    return total


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "sound", "long"):
        parser.add_argument(name, type=Path)
    parser.add_argument("out", help="beginning of the figures' paths")
    parser.add_argument("--axe", type=Path)
    parser.add_argument("--source", type=Path, default=Path(__file__).parents[1] / "src")
    given = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with served(given.model, given.source) as address, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        shots(browser, address, given.sound, given.long, given.out)
        page = opened(browser, address, DESK, "light")
        if page.locator("#list").count():
            listed(page, [given.sound, Path(__file__), given.long])
            save(page, Path(f"{given.out}-list.png"), whole=False)
        found = checked(browser, address, given.sound, given.long, given.axe, Path(__file__)) if given.axe else 0
        browser.close()
    sys.exit(min(found, 100))


if __name__ == "__main__":
    main()
