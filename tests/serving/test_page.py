"""The page in Debian's Chromium: what people do with it, and what they do wrong."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
from at_port import CLASSES, serving, tone
from playwright.sync_api import Browser, Page, expect, sync_playwright

from earsight.calibration.apply import Raw
from earsight.inference.predictions import Prediction
from earsight.serving.app import PAGE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None and os.environ.get("CI"):
    raise RuntimeError("no Chromium, which the page's tests need: .ci/run installs it with apt-get")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
FAKE = [
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
]
EXPECT_MS = 30_000


@pytest.fixture(scope="module")
def browsers() -> Iterator[Callable[..., Browser]]:
    """Start a Chromium with some arguments."""
    with sync_playwright() as play:
        opened = {}

        def start(*arguments: str) -> Browser:
            if arguments not in opened:
                opened[arguments] = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *arguments])
            return opened[arguments]

        yield start
        for browser in opened.values():
            browser.close()


@pytest.fixture
def visit(browsers, client) -> Iterator[Callable[..., Page]]:
    """Open the page; a fault of a script, or a request to another host, fails the test."""
    faults: list[str] = []
    contexts = []

    def open_page(*, arguments: tuple[str, ...] = tuple(FAKE), address: httpx.URL | None = None, **how: object) -> Page:
        context = browsers(*arguments).new_context(**how)
        contexts.append(context)
        page = context.new_page()
        home = str(address or client.base_url)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
        page.on("request", lambda asked: None if asked.url.startswith((home, "blob:")) else faults.append(asked.url))
        page.set_default_timeout(EXPECT_MS)
        page.goto(home)
        expect(page.locator("html[data-ready]")).to_be_attached(timeout=EXPECT_MS)
        return page

    expect.set_options(timeout=EXPECT_MS)
    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def status(page: Page, begins: str) -> None:
    expect(page.locator("#status")).to_have_text(re.compile(f"^{begins}"))


def painted(page: Page, canvas: str) -> int:
    """How many different colours a canvas shows."""
    return page.evaluate(
        """(id) => { const c = document.getElementById(id);
        const d = new Uint32Array(c.getContext("2d").getImageData(0, 0, c.width, c.height).data.buffer);
        return new Set(d).size; }""",
        canvas,
    )


@needs_chromium
def test_what_the_model_does_not_get_is_said(visit, sound):
    page = visit()
    page.set_input_files("#file", sound("cancelled.wav", wave=np.stack([tone(), -tone()], axis=1), subtype="FLOAT"))
    status(page, "Done")
    said = "The sound's channels cancel each other: averaging them loses 100 % of their energy."
    expect(page.locator("#answer-about")).to_contain_text(said)
    page.set_input_files("#file", sound("whole.wav"))
    expect(page.locator("#sound-title")).to_have_text("whole.wav")
    expect(page.locator("#answer-about")).not_to_contain_text("cancel")


@needs_chromium
def test_a_file_is_answered_seen_and_explained(visit, classifier, sound):
    page = visit()
    path = sound("my tone.wav")
    page.set_input_files("#file", path)
    status(page, "Done")
    found = classifier.predict(path)
    expect(page.locator("#answer-title")).to_have_text(found.label)
    assert page.locator("#classes th").all_inner_texts() == list(found.classes)
    shown = [float(text.split()[0]) for text in page.locator("#classes .share").all_inner_texts()]
    assert shown == pytest.approx([100 * share for share in found.probabilities], abs=0.06)
    assert page.locator("#classes b").count() == 0  # a class is named "cat & <b>dog</b>", as text
    expect(page.locator("#sound-title")).to_have_text("my tone.wav")
    expect(page.locator("#timeline-section")).to_be_hidden()
    assert painted(page, "wave") > 1
    assert painted(page, "spectrogram") > 50
    before = painted(page, "spectrogram")
    page.locator("#channels label").nth(2).click()
    assert painted(page, "spectrogram") != before
    page.locator("#why-class").select_option(CLASSES[1])
    page.locator("#explain").click()
    status(page, "Explained")
    assert CLASSES[1] in page.locator("#explained-about").inner_text()
    for name in ("used", "unused"):
        lasts = page.locator(f"#{name}").evaluate(
            "(a) => a.readyState ? a.duration : new Promise((done) => { a.onloadedmetadata = () => done(a.duration); })"
        )
        assert lasts == pytest.approx(1.0, abs=0.01)
    over = painted(page, "spectrogram")
    assert "laid over" in page.locator("#spectrogram").get_attribute("aria-label")
    page.locator("#overlay").uncheck()
    assert painted(page, "spectrogram") != over


@needs_chromium
def test_what_is_no_sound_is_said_and_the_next_file_is_answered(visit, sound, tmp_path):
    page = visit()
    (tmp_path / "letter.mp3").write_text("dear sir or madam, " * 20)
    (tmp_path / "large.wav").write_bytes(bytes(3_000_000))
    for name, words in (("letter.mp3", "A text file"), ("large.wav", "3.0 MB")):
        page.set_input_files("#file", tmp_path / name)
        expect(page.locator("#problem")).to_be_visible()
        expect(page.locator("#problem-message")).to_contain_text(words)
        expect(page.locator("#problem-remedy")).not_to_be_empty()
    expect(page.locator("#results")).to_be_hidden()
    page.set_input_files("#file", sound("a.wav"))
    status(page, "Done")
    expect(page.locator("#problem")).to_be_hidden()


@needs_chromium
def test_a_dropped_long_file_has_a_timeline_to_jump_in(visit, sound, classifier):
    def sure(spectrograms):
        """Half of the sound is one class, half of it another."""
        high = [spectrogram[0, 0].mean(dim=1).argmax() > 20 for spectrogram in spectrograms]
        shares = np.array([0.9, 0.06, 0.04])
        return [Raw(np.log((shares[::-1] if one else shares)[None]), None) for one in high]

    with serving(classifier) as (client, server):
        server.service._batcher._compute = sure
        look_at_a_long_file(visit(address=client.base_url), sound)


def look_at_a_long_file(page, sound):
    path = sound("long.wav", wave=np.concatenate([tone(4.0), tone(4.0, hz=2500)]))
    data = page.evaluate_handle(
        """(bytes) => { const all = new DataTransfer();
        all.items.add(new File([new Uint8Array(bytes)], "long.wav", {type: "audio/wav"})); return all; }""",
        list(path.read_bytes()),
    )
    page.dispatch_event("#drop", "dragover", {"dataTransfer": data})
    expect(page.locator("#drop")).to_have_class(re.compile("over"))
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    status(page, "Done")
    expect(page.locator("#timeline-section")).to_be_visible()
    expect(page.locator("#part")).to_have_text("From 0:00 to 0:08")
    expect(page.locator("#answer-about")).to_have_text(re.compile("in 8 windows: [45] of them alone say"))
    page.locator("details summary").click()
    rows = page.locator("#windows tr")
    assert rows.count() == 15
    rows.nth(10).locator("button").click()
    status(page, "From 0:05")
    expect(page.locator("#part")).to_have_text("From 0:05 to 0:06")
    assert page.locator("#player").evaluate("(a) => a.currentTime") == pytest.approx(5.0, abs=0.1)
    events = page.locator("#events button")
    assert [text.split()[-1] for text in events.all_text_contents()] == ["%", "%"]
    assert CLASSES[0] in events.first.inner_text()
    assert CLASSES[2] in events.last.inner_text()
    assert page.locator("#strip > div:not(.playhead)").count() == 2
    events.last.click()
    status(page, "From 0:0[34]")
    expect(page.locator("#answer-title")).to_have_text(CLASSES[2])
    assert page.locator("#player").evaluate("(a) => a.currentTime") >= 3.0
    expect(page.locator("#problem")).to_be_hidden()


@needs_chromium
def test_the_microphone(visit):
    page = visit(permissions=["microphone"])
    page.locator("#record").click()
    expect(page.locator("#record")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#record-text")).to_have_text(re.compile("Stop · 0:01"))
    page.locator("#record").click()
    status(page, "Done")
    expect(page.locator("#sound-title")).to_have_text("Recording")
    assert painted(page, "wave") > 1
    expect(page.locator("#record-text")).to_have_text("Record")


@needs_chromium
@pytest.mark.parametrize(
    ("name", "words"), [("NotFoundError", "There is no microphone"), ("NotAllowedError", "may not be used")]
)
def test_no_microphone(visit, sound, name, words):
    page = visit()
    page.evaluate(
        "(name) => { navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', name); }; }", name
    )
    page.locator("#record").click()
    expect(page.locator("#problem-message")).to_contain_text(words)
    expect(page.locator("#problem-remedy")).to_contain_text("choose a file")
    expect(page.locator("#record")).to_have_attribute("aria-pressed", "false")
    page.set_input_files("#file", sound("a.wav"))
    status(page, "Done")


@needs_chromium
def test_the_keyboard_alone(visit, sound):
    page = visit()
    order = []
    for _ in range(4):
        page.keyboard.press("Tab")
        order.append(page.evaluate("() => document.activeElement.id || document.activeElement.className"))
    assert order[:3] == ["skip", "file", "record"]
    page.locator("#file").focus()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(sound("a.wav"))
    status(page, "Done")
    assert page.evaluate("() => document.activeElement.id") == "answer-title"
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.name") == "channel"
    page.keyboard.press("ArrowRight")
    assert page.evaluate("() => document.activeElement.value") == "0"
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.id") == "why-class"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    status(page, "Explained")


@needs_chromium
def test_everything_has_a_name_for_a_screen_reader(visit, sound):
    page = visit()
    page.set_input_files("#file", sound("a.wav", seconds=4.0))
    status(page, "Done")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, audio, canvas, [role=region]")]
        .filter((e) => e.checkVisibility())
        .filter((e) => !(e.getAttribute("aria-label") || e.labels?.length || e.textContent.trim()))
        .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("#status").get_attribute("aria-live") == "polite"
    assert page.locator("#problem").get_attribute("role") == "alert"
    levels = page.evaluate("() => [...document.querySelectorAll('h1, h2, h3')].map((h) => h.tagName)")
    assert levels[0] == "H1"
    assert set(levels[1:]) == {"H2"}


LUMINANCE = """(selector) => {
  const canvas = document.createElement("canvas").getContext("2d");
  const rgb = (color) => { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); };
  const light = (color) => { const [r, g, b] = rgb(color); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  return [...document.querySelectorAll(selector)].filter((e) => e.checkVisibility()).map((e) => {
    let under = e;
    while (getComputedStyle(under).backgroundColor === "rgba(0, 0, 0, 0)") under = under.parentElement;
    const [a, b] = [light(getComputedStyle(e).color), light(getComputedStyle(under).backgroundColor)];
    return [e.textContent.slice(0, 30), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
  });
}"""


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_read_and_nothing_is_wider_than_a_phone(visit, sound, scheme):
    page = visit(color_scheme=scheme, viewport={"width": 360, "height": 700})
    page.set_input_files("#file", sound("a_very_long_name_" * 6 + ".wav", seconds=4.0))
    status(page, "Done")
    ground = page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == (scheme == "dark")
    for text, contrast in page.evaluate(LUMINANCE, "h1, h2, p, th, td, label, button, a, time, figcaption"):
        assert contrast >= 4.5, (text, contrast)
    assert page.evaluate("() => document.documentElement.scrollWidth") == 360


@needs_chromium
def test_unknown_is_said_where_it_is_due(visit, classifier, sound, monkeypatch):
    strange = Prediction("", CLASSES, (0.5, 0.3, 0.2), unknown=True, novelty=3.0, plausible=CLASSES[:2])
    with serving(classifier) as (client, _):
        monkeypatch.setattr(classifier, "predictions", lambda raw, name="": [strange])
        page = visit(address=client.base_url)
        page.set_input_files("#file", sound("a.wav"))
        status(page, "Done: unknown")
        expect(page.locator("#answer-title")).to_have_text("Unknown")
        expect(page.locator("#answer-about")).to_contain_text("The nearest is bell")


@needs_chromium
def test_a_busy_service_is_asked_again_and_one_that_is_gone_is_said(visit, sound):
    page = visit()
    answers = iter([503])

    def busy(route):
        if next(answers, None):
            route.fulfill(status=503, headers={"Retry-After": "1"}, json={"error": {"code": "busy"}})
        else:
            route.continue_()

    page.route("**/predict*", busy)
    page.set_input_files("#file", sound("a.wav"))
    status(page, "Done")
    page.route("**/predict*", lambda route: route.abort())
    page.set_input_files("#file", sound("b.wav"))
    expect(page.locator("#problem-message")).to_have_text("The service does not answer.")


def test_the_page_names_no_other_host_and_styles_nothing_inline():
    files = sorted(PAGE.iterdir())
    assert {"index.html", "style.css", "main.js", "recorder-worklet.js"} <= {path.name for path in files}
    for path in files:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.", text), path
        assert "innerHTML" not in text
        assert "eval(" not in text
        assert not re.search(r"\son[a-z]+=|\sstyle=", text), path
