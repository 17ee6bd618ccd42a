"""The page in Chromium, state by state: lists of sounds, uploads, explanations, phones, timelines, several labels."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from at_port import CLASSES, serving, tone
from codings import by_ffmpeg
from playwright.sync_api import expect
from visiting import PHONE, needs_chromium, painted, row, status

from earsight.calibration.apply import Raw
from earsight.inference.classifier import Classifier
from earsight.serving.views import explanation_of

REFUSAL = {"code": "needs_formats", "message": "AAC in MP4, which is not read", "what_to_do": "send FLAC"}


def refuse(route, code="needs_formats", status=422):
    route.fulfill(status=status, json={"error": REFUSAL | {"code": code}})


@needs_chromium
def test_several_files_have_a_row_each_and_are_looked_at_by_choice(visit, sound, tmp_path):
    page = visit()
    (tmp_path / "notes.wav").write_text("no sound " * 30)
    page.set_input_files("#file", [sound("first.wav"), tmp_path / "notes.wav", sound("last.wav", seconds=2.5)])
    expect(page.locator("#list-about")).to_have_text("2 of 3 answered · 1 refused")
    assert page.locator("#files .name").all_inner_texts() == ["first.wav", "notes.wav", "last.wav"]
    expect(page.locator("#sound-title")).to_have_text("first.wav")
    assert re.search(r"\d %$", row(page, "last.wav").locator(".beside").inner_text())
    expect(row(page, "notes.wav").locator(".pick")).to_be_disabled()
    row(page, "last.wav").locator(".pick").click()
    expect(page.locator("#sound-title")).to_have_text("last.wav")
    expect(page.locator("#timeline")).to_be_visible()
    assert row(page, "last.wav").locator(".pick").get_attribute("aria-current") == "true"
    row(page, "first.wav").locator(".pick").click()
    expect(page.locator("#sound-title")).to_have_text("first.wav")
    expect(page.locator("#timeline")).to_be_hidden()


@needs_chromium
def test_a_folder_gives_its_sounds_and_says_what_it_leaves_out(visit, sound, tmp_path):
    (tmp_path / "day" / "deep").mkdir(parents=True)
    for name in ("a.wav", "deep/b.wav"):
        sound(name.split("/")[-1]).rename(tmp_path / "day" / name)
    (tmp_path / "day" / "readme.txt").write_text("nothing")
    page = visit()
    page.set_input_files("#folder", tmp_path / "day")
    expect(page.locator("#list-about")).to_have_text("2 of 2 answered")
    assert sorted(page.locator("#files .name").all_inner_texts()) == ["a.wav", "b.wav"]
    expect(page.locator("#drop-about")).to_have_text(
        "2 of the 3 files in this folder may be sounds; 1 other is left out."
    )


@needs_chromium
def test_an_upload_shows_how_far_it_is_and_can_be_cancelled(visit, sound):
    page = visit()
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 100_000}
    network.send("Network.emulateNetworkConditions", slow)
    page.set_input_files("#file", [sound("long.wav", seconds=50.0), sound("next.wav")])
    page.wait_for_function("() => { const v = document.querySelector('progress')?.value; return v > 0 && v < 1; }")
    expect(row(page, "next.wav")).to_have_attribute("data-state", "waiting")
    row(page, "long.wav").get_by_role("button", name="Cancel").click()
    expect(row(page, "long.wav")).to_have_attribute("data-state", "cancelled")
    network.send("Network.emulateNetworkConditions", slow | {"uploadThroughput": -1})
    expect(page.locator("#sound-title")).to_have_text("next.wav")
    expect(page.locator("#list-about")).to_have_text("1 of 2 answered · 1 cancelled")


@needs_chromium
@pytest.mark.parametrize("coding", [("webm", "libopus", "flt", 48000), ("mp4", "aac", "fltp", 44100)])
def test_what_a_phone_records_is_decoded_by_the_service(visit, tmp_path, coding):
    container, codec, form, rate = coding
    wave = np.interp(np.arange(rate) / rate, np.arange(8000) / 8000, tone()).astype(np.float32)
    (tmp_path / "memo").write_bytes(by_ffmpeg(container, codec, wave=wave, rate=rate, sample_format=form))
    page = visit()
    expect(page.locator("#limits")).to_contain_text("M4A, WebM and more")
    page.set_input_files("#file", tmp_path / "memo")
    status(page, "Done")
    expect(page.locator("#answer-decoded")).to_be_hidden()


@needs_chromium
def test_what_the_service_has_no_decoder_for_this_browser_decodes_and_says_so(visit, tmp_path):
    wave = np.interp(np.arange(48000) / 48000, np.arange(8000) / 8000, tone()).astype(np.float32)
    for name in ("memo.webm", "other.webm"):
        content = by_ffmpeg("webm", "libopus", wave=wave, rate=48000, sample_format="flt")
        (tmp_path / name).write_bytes(content if name == "memo.webm" else content[:200])
    page = visit()
    steps = iter(["refuse", "answer", "refuse"])
    page.route("**/predict*", lambda route: refuse(route) if next(steps) == "refuse" else route.continue_())
    page.set_input_files("#file", tmp_path / "memo.webm")
    status(page, "Done")
    expect(page.locator("#answer-decoded")).to_contain_text("This browser decoded the sound")
    expect(page.locator("#sound-about")).to_contain_text("48.0 kHz")
    page.set_input_files("#file", tmp_path / "other.webm")
    expect(row(page, "other.webm").locator("p")).to_contain_text("nor does this browser")


@needs_chromium
def test_damage_is_no_reason_to_ask_the_browser(visit, sound):
    page = visit()
    page.route("**/predict*", lambda route: refuse(route, code="unreadable"))
    page.set_input_files("#file", sound("a.wav"))
    expect(row(page, "a.wav")).to_have_attribute("data-state", "refused")
    expect(page.locator("#results")).to_be_hidden()


@needs_chromium
def test_what_cannot_be_explained_is_said_where_it_was_asked(visit, sound):
    page = visit()
    page.set_input_files("#file", sound("silent.wav", wave=np.zeros(8000)))
    status(page, "Done")
    page.locator("#explain").click()
    expect(page.locator("#why-problem")).to_contain_text("silent")
    expect(page.locator("#explained")).to_be_hidden()
    expect(page.locator("#explain")).to_be_enabled()


@needs_chromium
def test_an_explanation_that_is_not_to_be_believed_says_so(visit, sound, monkeypatch):
    page = visit()
    sentence = "Do not believe the attribution: better than random orders in neither curve."
    doubtful = {"verdict": sentence, "believed": "no", "complete": False, "completeness_error": 0.01002}
    monkeypatch.setattr(
        "earsight.serving.service.explanation_of",
        lambda found, *, start: explanation_of(found, start=start).model_copy(update=doubtful),
    )
    page.set_input_files("#file", sound("a.wav"))
    status(page, "Done")
    page.locator("#explain").click()
    status(page, "Explained")
    verdict = page.locator("#verdict")
    expect(verdict).to_contain_text("Do not believe the attribution")
    expect(verdict).to_contain_text("Not complete within 1 %: off by 1.002 % after")
    assert verdict.get_attribute("data-believed") == "no"
    page.set_input_files("#file", sound("b.wav"))
    status(page, "Done")
    expect(page.locator("#explained")).to_be_hidden()
    expect(page.locator("#overlay-choice")).to_be_hidden()


@needs_chromium
@pytest.mark.parametrize("seconds", [1.0, 6.0])
def test_the_answer_is_above_the_fold_of_a_phone(visit, sound, seconds):
    page = visit(viewport=PHONE, has_touch=True, is_mobile=True)
    page.set_input_files("#file", sound("a.wav", seconds=seconds))
    status(page, "Done")
    page.wait_for_function("() => document.querySelector('#answer-score').getBoundingClientRect().bottom < innerHeight")
    box = page.evaluate("() => document.querySelector('#answer-title').getBoundingClientRect().toJSON()")
    assert 0 <= box["top"] < box["bottom"] <= PHONE["height"]
    assert page.evaluate("() => document.documentElement.scrollWidth") == PHONE["width"]


@needs_chromium
def test_the_spectrogram_has_ticks_in_hertz_and_seconds_and_even_colours(visit, sound):
    page = visit()
    page.set_input_files("#file", sound("a.wav"))
    status(page, "Done")
    ticks = page.locator("#hertz span")
    names = ticks.all_inner_texts()
    assert {"500 Hz", "1 kHz", "2 kHz"} <= set(names)
    places = [tick.bounding_box()["y"] for tick in ticks.all()]
    assert places == sorted(places, reverse=True)
    frame = page.locator("#spectrogram-frame").bounding_box()
    middle = ticks.nth(names.index("1 kHz")).bounding_box()
    share = 1 - (middle["y"] + middle["height"] / 2 - frame["y"]) / frame["height"]
    mel = 2595 * np.log10(1 + np.array([1000.0, 4000.0]) / 700)
    assert share == pytest.approx(mel[0] / mel[1], abs=0.04)
    assert page.locator("#spectrogram-axis span").all_inner_texts()[:2] == ["0:00.0", "0:00.2"]
    colors = np.array(page.evaluate("async () => (await import('./draw.js')).MAP")) / 255
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    light = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.where(light > 0.008856, 116 * np.cbrt(light) - 16, 903.3 * light)  # CIE 1976
    assert (np.diff(lightness) > -0.3).all()
    assert (
        np.abs(lightness - np.linspace(lightness[0], lightness[-1], 256)).max() < 6
    )  # inferno is even in CAM02-UCS, and nearly so here


@needs_chromium
def test_what_sounds_most_is_said_with_its_share(visit, sound, classifier):
    def rare(spectrograms):
        """A quarter of the sound is one class, the rest is none above its threshold."""
        high = [spectrogram[0, 0].mean(dim=1).argmax() > 20 for spectrogram in spectrograms]
        return [Raw(np.log(np.array([[0.02, 0.03, 0.95] if one else [0.35, 0.33, 0.32]])), None) for one in high]

    with serving(classifier) as (client, server):
        server.service._batcher._compute = rare
        page = visit(address=client.base_url)
        page.set_input_files("#file", sound("rare.wav", wave=np.concatenate([tone(9.0), tone(3.0, hz=2500)])))
        status(page, "Done: Most of all")
        about = page.locator("#timeline-about")
        expect(about).to_have_text(re.compile(rf"^Most of all {CLASSES[2]}: \d\.\d of 12 s · 1 event$"))
        assert 2 <= float(re.search(r": (\d\.\d)", about.inner_text())[1]) <= 4
        piece = page.locator("#strips .strip div").first
        assert piece.get_attribute("title").startswith(f"{CLASSES[2]}, 95.0 %, 0:")


@needs_chromium
def test_beside_unknown_stands_the_ood_score_in_the_timeline_too(visit, sound, classifier, monkeypatch):
    predictions = classifier.predictions
    monkeypatch.setattr(
        classifier,
        "predictions",
        lambda *raw, **how: [replace(one, unknown=True, novelty=12.3456) for one in predictions(*raw, **how)],
    )
    page = visit()
    page.set_input_files("#file", sound("a.wav", seconds=4.0))
    status(page, "Done: Mostly unknown: 4.0 of 4.0 s")
    page.locator("details summary").click()
    cells = page.locator("#windows tr").first.locator("td").all_inner_texts()
    assert cells[2:4] == ["unknown", "OOD 12.35"]
    expect(page.locator("#strips p")).to_have_text("unknown · 4.0 s")


@needs_chromium
def test_classes_that_sound_together_have_their_thresholds_on_the_page(visit, sound, classifier):
    limits = dict(zip(CLASSES, (0.01, 0.02, 0.999), strict=True))
    rules = {name: {"threshold": limit, "rule": "best-f1", "ci95": [0, 1]} for name, limit in limits.items()}
    several = Classifier(replace(classifier.card, several=True, thresholds=rules), classifier.model)
    with serving(several) as (client, _):
        page = visit(address=client.base_url)
        expect(page.locator("#model")).to_contain_text("3 classes, which may sound together")
        page.set_input_files("#file", sound("a.wav"))
        status(page, "Done")
        title = page.locator("#answer-title").inner_text()
        assert all(name.lower() in title.lower() for name in CLASSES[:2])
        assert page.locator("#answer-score").inner_text().count("%") == 2
        expect(page.locator("#classes tr.below")).to_have_count(1)
        marks = {
            one.locator("th").inner_text(): one.locator(".track").get_attribute("title")
            for one in page.locator("#classes tr").all()
        }
        assert marks == {
            CLASSES[0]: "named from 1.0 % on",
            CLASSES[1]: "named from 2.0 % on",
            CLASSES[2]: "named from 99.9 % on",
        }
        left = page.locator("#classes tr.below .mark").evaluate("(e) => e.offsetLeft / e.parentElement.offsetWidth")
        assert left == pytest.approx(0.999, abs=0.02)
        page.set_input_files("#file", sound("b.wav", seconds=4.0))
        status(page, "Done")
        expect(page.locator("#strips li")).to_have_count(2)


@needs_chromium
def test_the_three_channels_can_be_seen_as_colours(visit, sound):
    page = visit()
    page.set_input_files("#file", sound("a.wav"))
    status(page, "Done")
    before = painted(page, "spectrogram")
    page.locator("#channels label").last.click()
    expect(page.locator("#channels label").last).to_contain_text("red, green, blue")
    assert painted(page, "spectrogram") != before
