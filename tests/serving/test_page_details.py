"""Small things of the page that people rely on, and what its functions give."""

from __future__ import annotations

import base64
import re

import numpy as np
import pytest
from at_port import CLASSES, RATE, tone
from playwright.sync_api import Page, Route, expect
from visiting import answered_as, needs_chromium, row, status

from earsight.serving.views import explanation_of

PIXEL = """([id, x, y]) => { const c = document.getElementById(id);
  const place = [Math.floor(x * (c.width - 1)), Math.floor(y * (c.height - 1))];
  return [...c.getContext("2d").getImageData(...place, 1, 1).data]; }"""


def held(page: Page) -> list[Route]:
    """Hold the next request to /predict, and no other."""
    found: list[Route] = []
    page.route("**/predict*", lambda route: route.continue_() if found else found.append(route))
    return found


def done(page: Page, path) -> None:
    page.set_input_files("#file", path)
    status(page, "Done")


@needs_chromium
def test_numbers_are_written_as_people_read_them(visit):
    page = visit()
    found = page.evaluate(
        """async () => { const w = await import("./words.js");
        return { clock: [0, 7.5, 59.96, 61, 600.25].map((s) => w.clock(s)), tenths: w.clock(5, true),
          percent: [1, 0.9996, 0.5, 0.0004, 0].map(w.percent), part: [1, 0.25, 0.1234].map(w.part),
          off: [0.034, 0.01002, 0.00998, 0.01].map((s) => w.off(s, 0.01)), seconds: [9.94, 10.2].map(w.secondsWords),
          ticks: w.ticks(0, 30, 6).map(([, text]) => text) }; }"""
    )
    assert found == {
        "clock": ["0:00", "0:07.5", "1:00", "1:01", "10:00.3"],
        "tenths": "0:05.0",
        "percent": [">99.9 %", ">99.9 %", "50.0 %", "<0.1 %", "<0.1 %"],
        "part": ["100 %", "25 %", "12.3 %"],
        "off": ["3.4", "1.002", "0.998", "1.0"],
        "seconds": ["9.9 s", "10 s"],
        "ticks": ["0:00", "0:05", "0:10", "0:15", "0:20", "0:25", "0:30"],
    }


@needs_chromium
def test_strips_add_up_seconds_that_overlap_once_and_join_what_is_rare(visit):
    events = [{"label": f"class_{n}", "start_seconds": 0, "end_seconds": 20 - n, "score": 0.9} for n in range(10)]
    events += [{"label": "class_0", "start_seconds": 10, "end_seconds": 25, "score": 0.5}]
    events += [{"label": "never", "start_seconds": 3, "end_seconds": 3, "score": 0.5}]
    windows = [{"start_seconds": s, "end_seconds": s + 10, "unknown": s == 10} for s in (0, 10, 20)]
    answer = {"sound": {"seconds": 60}, "events": events, "timeline": windows, "label": "class_0"}
    page = visit()
    found = page.evaluate(
        """async (answer) => { const t = await import("./timeline.js"); const strips = t.stripsOf(answer);
        return [strips.map(({ name, seconds, color }) => [name, seconds, color]), t.mostly(answer, strips),
          t.mostly({ ...answer, sound: { seconds: 40 } }, strips), t.mostly({ ...answer, events: [] }, [])]; }""",
        answer,
    )
    strips, most_of_all, mostly, nothing = found
    assert [name for name, _, _ in strips] == [*(f"class {n}" for n in range(7)), "3 other classes", "unknown"]
    assert [seconds for _, seconds, _ in strips] == [25, 19, 18, 17, 16, 15, 14, 13, 10]
    assert [color for _, _, color in strips][-2:] == ["rest", "strange"]
    assert most_of_all == "Most of all class 0: 25 of 60 s"
    assert mostly == "Mostly class 0: 25 of 40 s"
    assert nothing == "Nothing stands out; on average nearest to class 0"


@needs_chromium
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plausible": [CLASSES[1], CLASSES[0]], "label": CLASSES[1]}, f"It may also be {CLASSES[0]}."),
        ({"windows": 3, "agreement": 2 / 3, "calibrated": False}, "2 of them alone say"),
        ({"windows": 3, "calibrated": False}, "The model was not calibrated for several windows."),
        ({"left_out": {"lacking": 0.9}}, "The channel that the model takes is nearly silent, another is not."),
        ({"left_out": {"below": 0.25}}, "25 % of its energy lies too low for the model."),
        ({"left_out": {"above": 0.5, "above_hz": 12_345}}, "Up to 50 % of a moment's energy lies too high"),
        ({"labels": []}, "which does not reach its threshold."),
    ],
)
def test_what_stands_beside_an_answer(visit, sound, changes, words):
    page = visit()
    answered_as(page, **changes)
    page.set_input_files("#file", sound("a.wav"))
    expect(page.locator("#answer-about")).to_contain_text(words)


@needs_chromium
def test_the_threshold_of_unknown_stands_beside_its_score(visit, sound):
    page = visit()
    page.route("**/model", lambda route: route.fulfill(json=route.fetch().json() | {"unknown_above": 2.5}))
    page.reload()
    expect(page.locator("html[data-ready]")).to_be_attached()
    answered_as(page, unknown=True, novelty=3.25)
    done(page, sound("a.wav"))
    expect(page.locator("#answer-score")).to_have_text("OOD score 3.25; the model's threshold is 2.5")


@needs_chromium
def test_a_file_is_what_it_is_called_here_and_a_refusal_says_what_to_do(visit, sound, tmp_path):
    page = visit()
    content = sound("a.wav", wave=np.stack([tone(), tone(hz=900)], axis=1)).read_bytes()
    name = "long " * 50 + ".wav"  # the service keeps 200 characters
    done(page, {"name": name, "mimeType": "audio/wav", "buffer": content})
    expect(page.locator("#sound-title")).to_have_text(name)
    expect(page.locator("#sound-about")).to_contain_text("stereo")
    (tmp_path / "letter.mp3").write_text("dear sir or madam, " * 20)
    page.set_input_files("#file", tmp_path / "letter.mp3")
    expect(row(page, "letter.mp3").locator("p")).to_contain_text("Send a WAV, FLAC")
    page.set_input_files("#file", tmp_path / "letter.mp3")  # the same again
    expect(row(page, "letter.mp3")).to_have_count(2)


@needs_chromium
def test_what_waits_can_be_cancelled_and_tried_again(visit, sound):
    page = visit()
    first = held(page)
    page.set_input_files("#file", [sound("first.wav"), sound("second.wav")])
    expect(row(page, "second.wav")).to_have_attribute("data-state", "waiting")
    row(page, "second.wav").get_by_role("button", name="Cancel").click()
    expect(row(page, "second.wav")).to_have_attribute("data-state", "cancelled")
    first[0].continue_()
    status(page, "Done")
    expect(row(page, "second.wav")).to_have_attribute("data-state", "cancelled")
    row(page, "second.wav").get_by_role("button", name="Try again").click()
    expect(row(page, "second.wav")).to_have_attribute("data-state", "done")


@needs_chromium
def test_what_speaks_for_an_answer_is_orange_and_a_trace_is_nothing(visit, sound, monkeypatch):
    def drawn(levels: np.ndarray):
        text = base64.b64encode(levels.astype(np.int8).tobytes()).decode()
        return lambda found, *, start: explanation_of(found, start=start).model_copy(update={"levels": text})

    levels = np.zeros((32, 32))
    levels[:8], levels[8:16], levels[16:] = 127, -127, 7  # from the lowest band up
    monkeypatch.setattr("earsight.serving.service.explanation_of", drawn(levels))
    page = visit()
    done(page, sound("a.wav"))
    expect(page.locator("#overlay-choice")).to_be_hidden()
    page.locator("#explain").click()
    status(page, "Explained")
    page.locator("#overlay").fill("100")
    assert page.evaluate(PIXEL, ["spectrogram", 0.5, 1])[:3] == [255, 159, 28]
    assert page.evaluate(PIXEL, ["spectrogram", 0.5, 0.65])[:3] == [63, 167, 255]
    red, green, blue, _ = page.evaluate(PIXEL, ["spectrogram", 0.5, 0.2])
    assert red == green == blue


@needs_chromium
def test_low_tones_are_drawn_low(visit, sound):
    page = visit()
    done(page, sound("low.wav", wave=tone(hz=200.0)))
    low, high = (sum(page.evaluate(PIXEL, ["spectrogram", 0.5, y])) for y in (0.9, 0.2))
    assert low > high


@needs_chromium
def test_the_part_that_is_looked_at_is_explained_and_no_other(visit, sound):
    page = visit()
    done(page, sound("long.wav", seconds=4.0))
    page.locator("details summary").click()
    page.locator("#windows tr").nth(4).locator("button").click()
    status(page, "From 0:02")
    first = held(page)
    page.locator("#explain").click()
    page.wait_for_timeout(200)
    assert "at=2" in first[0].request.url
    page.locator("#windows tr").first.locator("button").click()
    status(page, "From 0:00")
    first[0].continue_()
    expect(page.locator("#explain")).to_be_enabled()
    expect(page.locator("#explained")).to_be_hidden()  # it is of another part


@needs_chromium
def test_the_player_follows_the_pictures_and_they_follow_it(visit, sound):
    page = visit()
    done(page, sound("a.wav", seconds=4.0))
    page.locator("#wave-frame").click()  # in the middle
    page.wait_for_function("() => Math.abs(document.getElementById('player').currentTime - 2) < 0.1")
    head = page.locator(".through > .playhead")
    expect(head).to_have_attribute("style", re.compile(r"left: (49|50)"))


@needs_chromium
def test_what_this_browser_cannot_play_is_answered_all_the_same(visit, sound):
    page = visit()
    done(page, sound("a.au"))
    expect(page.locator("#unplayable")).to_be_visible()
    expect(page.locator("#player")).to_be_hidden()
    done(page, sound("b.wav"))
    expect(page.locator("#unplayable")).to_be_hidden()


@needs_chromium
def test_a_folder_can_be_dropped(visit, sound):
    page = visit()
    page.evaluate(
        """([one, two]) => { const file = (name, bytes) => ({ isFile: true,
            file: (done) => done(new File([new Uint8Array(bytes)], name, { type: "" })) });
        const batches = [[file("a.wav", one)], [{ isDirectory: true, createReader: () => ({ n: 0,
            readEntries(done) { done(this.n++ ? [] : [file("b.wav", two), file("notes.txt", [1])]); } }) }], []];
        DataTransferItem.prototype.webkitGetAsEntry = () => ({ isDirectory: true,
            createReader: () => ({ readEntries: (done) => done(batches.shift()) }) }); }""",
        [list(sound("a.wav").read_bytes()), list(sound("b.wav", seconds=0.5).read_bytes())],
    )
    data = page.evaluate_handle(
        "() => { const all = new DataTransfer(); all.items.add(new File(['x'], 'folder')); return all; }"
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    expect(page.locator("#list-about")).to_have_text("2 of 2 answered")
    assert page.locator("#files .name").all_inner_texts() == ["a.wav", "b.wav"]


@needs_chromium
def test_recordings_are_numbered(visit):
    page = visit(permissions=["microphone"])
    for title in ("Recording", "Recording 2"):
        page.locator("#record").click()
        expect(page.locator("#record-text")).to_have_text(re.compile("Stop · 0:0[1-9]"))
        page.locator("#record").click()
        expect(page.locator("#sound-title")).to_have_text(title)
        status(page, "Done")


@needs_chromium
def test_what_this_browser_decodes_keeps_its_channels(visit, sound):
    page = visit()
    content = sound("a.wav", wave=np.stack([tone(), 0 * tone()], axis=1), rate=RATE).read_bytes()
    found = page.evaluate(
        """async (bytes) => { const { decoded } = await import("./wav.js");
        const view = new DataView(await (await decoded(new Blob([new Uint8Array(bytes)]))).arrayBuffer());
        let [left, right] = [0, 0];
        for (let at = 44; at + 4 <= view.byteLength; at += 4) {
          left = Math.max(left, Math.abs(view.getInt16(at, true)));
          right = Math.max(right, Math.abs(view.getInt16(at + 2, true))); }
        return [view.getUint16(22, true), view.getUint32(24, true), left > 5000, right]; }""",
        list(content),
    )
    assert found == [2, 48000, True, 0]
