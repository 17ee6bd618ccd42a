"""The page in Debian's Chromium: what people do with it, and what they do wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest
from at_port import CLASSES, serving, tone
from playwright.sync_api import expect
from visiting import needs_chromium, painted, row, status

from earsight.calibration.apply import Raw
from earsight.inference.predictions import Prediction
from earsight.serving.app import PAGE


@needs_chromium
def test_what_the_model_does_not_get_is_said(visit, sound):
    page = visit()
    page.set_input_files("#file", sound("cancelled.wav", wave=np.stack([tone(), -tone()], axis=1), subtype="FLOAT"))
    status(page, "Done")
    said = "The sound's channels cancel each other: averaging them loses 100 % of a window's energy."
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
    expect(page.locator("#timeline")).to_be_hidden()
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
    page.locator("#overlay").fill("0")
    assert painted(page, "spectrogram") != over
    assert "laid over" not in page.locator("#spectrogram").get_attribute("aria-label")
    # The command line's verdict, and how complete it is.
    verdict = page.locator("#verdict")
    expect(verdict).to_contain_text(classifier.explain(path, label=CLASSES[1]).verdict)
    expect(verdict).to_contain_text(re.compile(r"Complete within 1 %: off by 0\.\d+ % after \d+ steps"))


@needs_chromium
def test_a_refused_file_is_named_in_its_row_and_no_result_stands_under_it(visit, sound, tmp_path):
    page = visit()
    page.set_input_files("#file", sound("good.wav"))
    status(page, "Done")
    expect(page.locator("#list")).to_be_hidden()  # one sound that is answered needs no list
    (tmp_path / "letter.mp3").write_text("dear sir or madam, " * 20)
    (tmp_path / "large.wav").write_bytes(bytes(3_000_000))
    for name, words in (("letter.mp3", "A text file"), ("large.wav", "has 3.0 MB; this service takes 2.0")):
        page.set_input_files("#file", tmp_path / name)
        expect(row(page, name)).to_have_attribute("data-state", "refused")
        expect(row(page, name).locator("p")).to_contain_text(words)
        expect(page.locator("#results")).to_be_hidden()
        status(page, f"{name} is refused")
    page.set_input_files("#file", sound("a.wav"))
    status(page, "Done")
    expect(row(page, "a.wav")).to_have_attribute("data-state", "done")
    expect(page.locator("#list-about")).to_have_text("2 of 4 answered · 2 refused")
    row(page, "good.wav").locator(".pick").click()
    expect(page.locator("#sound-title")).to_have_text("good.wav")
    page.locator("#clear").click()
    expect(page.locator("#list")).to_be_hidden()
    expect(page.locator("#results")).to_be_hidden()


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
    expect(page.locator("#timeline")).to_be_visible()
    expect(page.locator("#part")).to_have_text("long.wav · 0:00 to 0:08")
    expect(page.locator("#answer-about")).to_have_text(re.compile("in 8 windows: [45] of them alone say"))
    page.locator("details summary").click()
    rows = page.locator("#windows tr")
    assert rows.count() == 15
    rows.nth(10).locator("button").click()
    status(page, "From 0:05")
    expect(page.locator("#part")).to_have_text("long.wav · 0:05 to 0:06")
    assert page.locator("#player").evaluate("(a) => a.currentTime") == pytest.approx(5.0, abs=0.1)
    events = page.locator("#events button")
    assert [text.split()[-1] for text in events.all_text_contents()] == ["%", "%"]
    assert CLASSES[0] in events.first.inner_text()
    assert CLASSES[2] in events.last.inner_text()
    strips = page.locator("#strips li")
    assert {text.split(" · ")[0] for text in strips.locator("p").all_inner_texts()} == {CLASSES[0], CLASSES[2]}
    assert (
        len(
            {
                piece.evaluate("(e) => getComputedStyle(e).backgroundColor")
                for piece in strips.locator(".strip div").all()
            }
        )
        == 2
    )
    expect(page.locator("#timeline-about")).to_have_text(
        re.compile(r"^M\w+( of all)? .*: [345]\.\d of 8\.0 s · 2 events$")
    )
    events.last.click()
    status(page, "From 0:0[34]")
    expect(page.locator("#answer-title")).to_have_text(CLASSES[2])
    assert page.locator("#player").evaluate("(a) => a.currentTime") >= 3.0
    expect(page.locator(".problem:visible")).to_have_count(0)


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
    expect(page.locator("#record-problem")).to_contain_text(words)
    expect(page.locator("#record-problem")).to_contain_text("choose a file")
    expect(page.locator("#record")).to_have_attribute("aria-pressed", "false")
    page.set_input_files("#file", sound("a.wav"))
    status(page, "Done")


@needs_chromium
def test_the_keyboard_alone(visit, sound):
    page = visit()
    # Playwright does not wait until the browser hands over file choosers: asked for only at the key, one may open as a
    # dialog of the browser's own, which nobody answers.
    page.on("filechooser", lambda chooser: None)
    order = []
    for _ in range(5):
        page.keyboard.press("Tab")
        order.append(page.evaluate("() => document.activeElement.id || document.activeElement.className"))
    assert order[:4] == ["skip", "file", "folder", "record"]
    page.locator("#file").focus()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(sound("a.wav"))
    status(page, "Done")
    assert page.evaluate("() => document.activeElement.id") == "answer-title"
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.name") == "channel"
    page.keyboard.press("ArrowRight")
    assert page.evaluate("() => document.activeElement.value") == "2"
    for _ in range(12):  # through the player's own controls
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.id") == "why-class":
            break
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
    places = page.locator(".problem")
    assert {place.get_attribute("role") for place in places.all()} == {"alert"}
    levels = page.evaluate("() => [...document.querySelectorAll('h1, h2, h3')].map((h) => h.tagName)")
    assert levels[0] == "H1"
    assert set(levels[1:]) == {"H2", "H3"}


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
    for text, contrast in page.evaluate(LUMINANCE, "h1, h2, h3, p, th, td, label, button, a, time, span:not(:empty)"):
        assert contrast >= 4.5, (text, contrast)
    assert page.evaluate("() => document.documentElement.scrollWidth") == 360


@needs_chromium
def test_unknown_is_said_where_it_is_due(visit, classifier, sound, monkeypatch):
    strange = Prediction("", CLASSES, (0.9996, 0.0004, 0.0), unknown=True, novelty=3.25, plausible=CLASSES[:2])
    with serving(classifier) as (client, _):
        monkeypatch.setattr(classifier, "predictions", lambda raw, name="": [strange])
        page = visit(address=client.base_url)
        page.set_input_files("#file", sound("a.wav"))
        status(page, "Done: unknown, OOD score 3.25")
        expect(page.locator("#answer-score")).to_have_text("OOD score 3.25")
        assert page.locator("#classes .share").all_inner_texts() == [">99.9 %", "<0.1 %", "<0.1 %"]
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
    expect(row(page, "b.wav").locator("p")).to_contain_text("The service does not answer.")
    page.unroute("**/predict*")
    row(page, "b.wav").get_by_role("button", name="Try again").click()
    status(page, "Done")
    expect(page.locator("#sound-title")).to_have_text("b.wav")


def test_the_page_names_no_other_host_and_styles_nothing_inline():
    files = sorted(PAGE.iterdir())
    assert {"index.html", "style.css", "main.js", "recorder-worklet.js"} <= {path.name for path in files}
    for path in files:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.", text), path
        assert "innerHTML" not in text
        assert "eval(" not in text
        assert not re.search(r"\son[a-z]+=|\sstyle=", text), path
