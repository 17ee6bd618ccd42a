"""What the service answers to good sounds: the same as the classifier, in every form that is asked for."""

from __future__ import annotations

import base64
import io
import json
import threading
from dataclasses import replace

import av
import numpy as np
import pytest
import soundfile
import torch
from at_port import CLASSES, RATE, error_of, serving, tone

from earsight.analysis.masking import smoothed
from earsight.features.filterbanks import FLOOR
from earsight.inference.classifier import Classifier
from earsight.serving.refusals import unreadable


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.aiff", "a.mp3"])
def test_a_body_and_a_form_get_what_the_classifier_says(client, classifier, sound, name):
    path = sound(name, seconds=1.7)
    expected = classifier.predict(path)
    raw = client.post("/predict", content=path.read_bytes())
    form = client.post("/predict", files={"file": ("ton <b>.wav", path.read_bytes())})
    for response in (raw, form):
        assert response.status_code == 200, response.text
        found = response.json()
        assert found["label"] == expected.label
        assert [one["label"] for one in found["classes"]] == list(expected.classes)
        assert [one["probability"] for one in found["classes"]] == pytest.approx(expected.probabilities, abs=1e-5)
        assert found["sound"]["seconds"] == pytest.approx(1.7, abs=0.2)
        assert found["timeline"] is found["spectrogram"] is found["explanation"] is None
        assert found["unknown"] is False
    assert raw.json()["sound"]["name"] == ""
    assert form.json()["sound"]["name"] == "ton <b>.wav"


def test_top_and_other_rates_and_channels(client, classifier, sound):
    stereo = np.stack([tone(), tone(hz=900)], axis=1)
    path = sound("stereo.wav", wave=stereo, rate=22050)
    found = client.post("/predict", params={"top": 1}, content=path.read_bytes()).json()
    assert len(found["classes"]) == 1
    assert found["sound"] | {"name": ""} == {
        **{"name": "", "seconds": pytest.approx(8000 / 22050, abs=1e-3), "sample_rate_hz": 22050},
        **{"channels": 2, "format": "WAV"},
    }
    assert found["classes"][0]["probability"] == pytest.approx(classifier.predict(path).probabilities[0], abs=1e-5)


def test_what_the_network_does_not_get_is_said(client, classifier, sound):
    y = tone(2.0)
    for params in ({}, {"hop": 0.5}, {"at": 0.5}, {"first": True}):
        cancelled = sound("cancelled.wav", wave=np.stack([y, -y], axis=1), subtype="FLOAT").read_bytes()
        found = client.post("/predict", params=params, content=cancelled).json()
        assert found["left_out"] == {"cancelled": 1.0}
        assert "channels cancel each other" in found["notes"][0]
        high = sound("high.wav", wave=0.3 * np.sin(2 * np.pi * 10000 * np.arange(48000) / 48000), rate=48000)
        found = client.post("/predict", params=params, content=high.read_bytes()).json()
        assert found["left_out"] == {"above": pytest.approx(1, abs=0.01), "above_hz": pytest.approx(10000, abs=50)}
        found = client.post("/predict", params=params, content=sound("a.wav", wave=y).read_bytes()).json()
        assert (found["left_out"], found["notes"]) == ({}, [])


def test_a_timeline_says_of_each_window_what_the_window_alone_gets(client, classifier, sound):
    wave = np.concatenate([tone(1.0), np.zeros(RATE, np.float32), tone(0.6, hz=2000)])
    found = client.post("/predict", params={"hop": 0.5}, content=sound("long.wav", wave=wave).read_bytes()).json()
    windows = found["timeline"]
    assert [one["start_seconds"] for one in windows] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert [one["end_seconds"] for one in windows] == [1.0, 1.5, 2.0, 2.5, 2.6]
    heard = soundfile.read(sound("again.wav", wave=wave), dtype="float32")[0]
    total = np.zeros(3)
    for one in windows:
        begin = round(one["start_seconds"] * RATE)
        alone = classifier.predict(heard[begin : begin + RATE], rate=RATE)
        assert one["label"] == alone.label
        assert one["classes"][0]["probability"] == pytest.approx(alone.probabilities[0], abs=1e-5)
        total += [alone.probabilities[alone.classes.index(name)] for name in CLASSES]
    assert found["label"] == CLASSES[int(total.argmax())]
    assert found["classes"][0]["probability"] == pytest.approx(total.max() / 5, abs=1e-5)
    assert (found["start_seconds"], found["end_seconds"]) == (0.0, 2.6)


def test_hops_longer_than_a_window_and_events(client, sound):
    body = sound("gaps.wav", seconds=5.0).read_bytes()
    found = client.post("/predict", params={"hop": 2.4}, content=body).json()
    assert [one["start_seconds"] for one in found["timeline"]] == [0.0, 2.4, 4.8]
    assert found["timeline"][-1]["end_seconds"] == 5.0
    found = client.post("/predict", params={"hop": 0.5}, content=body).json()
    loud = [one for one in found["timeline"] if one["classes"][0]["probability"] >= 0.5]
    assert bool(found["events"]) == bool(loud)
    for event in found["events"]:
        assert 0 <= event["start_seconds"] < event["end_seconds"] <= 5.0
        assert event["score"] == max(one["classes"][0]["probability"] for one in loud if one["label"] == event["label"])


def test_at_begins_where_it_says(client, classifier, sound):
    wave = np.concatenate([tone(1.0), tone(1.0, hz=2000)])
    path = sound("two.wav", wave=wave)
    found = client.post("/predict", params={"at": 1.0}, content=path.read_bytes()).json()
    second = classifier.predict(soundfile.read(path, dtype="float32")[0][RATE:], rate=RATE)
    assert found["classes"][0]["probability"] == pytest.approx(second.probabilities[0], abs=1e-5)
    assert (found["start_seconds"], found["end_seconds"]) == (1.0, 2.0)
    beyond = client.post("/predict", params={"at": 2.5}, content=path.read_bytes())
    assert beyond.status_code == 422
    assert error_of(beyond)["code"] == "past_the_end"


def test_a_long_sound_is_heard_whole(client, classifier, sound):
    path = sound("long.wav", wave=np.concatenate([tone(2.5), tone(0.7, hz=2000)]))
    content, expected = path.read_bytes(), classifier.predict(path)
    found = client.post("/predict", content=content).json()
    assert (found["windows"], found["calibrated"], expected.windows) == (4, None, 4)
    assert found["agreement"] == pytest.approx(expected.agreement)
    assert [one["label"] for one in found["classes"]] == list(expected.classes)
    assert [one["probability"] for one in found["classes"]] == pytest.approx(expected.probabilities, abs=1e-5)
    assert (found["start_seconds"], found["end_seconds"], found["timeline"]) == (0.0, 3.2, None)
    alone = classifier.predict(path, first=True)
    for params in ({"first": True}, {"at": 0.0}):
        found = client.post("/predict", params=params, content=content).json()
        assert found["classes"][0]["probability"] == pytest.approx(alone.probabilities[0], abs=1e-6)
        assert (found["windows"], found["agreement"], found["end_seconds"]) == (1, 1.0, 1.0)
    found = client.post("/predict", params={"hop": 1.0}, content=content).json()
    assert (found["windows"], len(found["timeline"])) == (4, 4)
    assert found["agreement"] == np.mean([one["label"] == found["label"] for one in found["timeline"]])


def test_of_a_long_sound_the_window_that_speaks_most_is_explained(client, classifier, sound):
    path = sound("long.wav", wave=np.concatenate([tone(2.0), tone(1.2, hz=2000)]))
    params = {"explain": True, "spectrogram": True, "label": CLASSES[1]}
    found = client.post("/predict", params=params, content=path.read_bytes()).json()
    expected = classifier.explain(path, label=CLASSES[1], curves=False)
    why = found["explanation"]
    assert (why["start_seconds"], why["end_seconds"]) == pytest.approx((expected.begin_seconds, expected.end_seconds))
    assert why["probability"] == pytest.approx(expected.probability, abs=1e-5)
    assert found["spectrogram"]["start_seconds"] == why["start_seconds"]
    assert found["waveform"]["seconds"] == pytest.approx(3.2)


def test_short_sounds_have_the_bits_of_one_window(client, sound):
    for seconds in (0.4, 1.0, 1.09):
        content = sound("short.flac", seconds=seconds, rate=11025).read_bytes()
        whole, first = (client.post("/predict", params={"first": one}, content=content).json() for one in (False, True))
        assert whole == first


def test_the_spectrogram_is_what_the_network_sees(client, classifier, sound):
    path = sound("a.wav", seconds=1.0)
    found = client.post("/predict", params={"spectrogram": True}, content=path.read_bytes()).json()
    drawn = found["spectrogram"]
    assert client.post("/predict", params={"picture": True}, content=path.read_bytes()).json() == found  # the old name
    levels = np.frombuffer(base64.b64decode(drawn["levels"]), np.uint8).reshape(3, drawn["rows"], drawn["columns"])
    wave = torch.from_numpy(classifier.waveform(path)[0])[None]
    bands = classifier.front_end.band_energies(wave)[0, 0].numpy()
    step = (drawn["high"] - drawn["low"]) / 255
    assert np.abs(drawn["low"] + step * levels - bands).max() < step
    assert drawn["low"] >= FLOOR
    assert len(drawn["bands_hz"]) == drawn["rows"] == 32
    assert drawn["windows_ms"] == [25, 50, 100]
    outline = found["waveform"]
    assert max(outline["high"]) == pytest.approx(tone().max(), abs=1e-3)
    assert min(outline["low"]) == pytest.approx(tone().min(), abs=1e-3)


def test_an_explanation_can_be_seen_and_heard(client, classifier, sound):
    path = sound("a.wav", seconds=1.0)
    expected = classifier.explain(path, label=CLASSES[1], curves=False)
    found = client.post("/predict", params={"explain": True, "label": CLASSES[1]}, content=path.read_bytes()).json()
    made = found["explanation"]
    assert made["label"] == CLASSES[1]
    assert made["used_probability"] == pytest.approx(expected.used_probability, abs=1e-5)
    levels = np.frombuffer(base64.b64decode(made["levels"]), np.int8).reshape(made["rows"], made["columns"])
    assert (
        np.abs(levels * made["largest"] / 127 - smoothed(expected.merged, seconds=1.0)).max() <= made["largest"] / 250
    )
    used, rate = soundfile.read(io.BytesIO(base64.b64decode(made["used_wav"])))
    unused, _ = soundfile.read(io.BytesIO(base64.b64decode(made["unused_wav"])))
    assert rate == RATE
    assert np.abs(used + unused - expected.wave).max() < 1e-3


def test_an_explanation_has_the_verdict_of_the_command_line(client, classifier, sound):
    path = sound("a.wav", seconds=1.0)
    expected = classifier.explain(path, label=CLASSES[1])
    found = client.post("/predict", params={"explain": True, "label": CLASSES[1]}, content=path.read_bytes()).json()
    made = found["explanation"]
    assert made["verdict"] == expected.verdict
    assert made["believed"] == expected.believed
    begins = {"yes": "Believe the", "with care": "Believe with care the", "no": "Do not believe the"}[made["believed"]]
    assert made["verdict"].startswith(f"{begins} attribution")
    assert made["complete"]
    assert made["steps"] == expected.attribution.steps


def test_an_explanation_that_does_not_end_in_time_says_how_far_it_is(classifier, sound, monkeypatch):
    """In place of a refusal that no visitor can do anything about."""
    monkeypatch.setattr("earsight.analysis.attribution.Attribution.complete", False)
    with serving(classifier, explanation_seconds=1e-6) as (client, _):
        assert client.get("/model").json()["explanation_seconds"] == 1e-6
        found = client.post("/predict", params={"explain": True}, content=sound("a.wav").read_bytes()).json()
    assert (found["explanation"]["complete"], found["explanation"]["steps"]) == (False, 256)
    assert found["notes"] == []


def test_sounds_that_only_another_decoder_reads_have_a_code_of_their_own():
    missing = "AAC in MP4, which libsndfile does not read: `pip install 'earsight[formats]'`, or convert it"
    assert unreadable(missing).code == "needs_formats"
    cut = (
        "truncated or damaged sound (cut); copy it again or `pip install 'earsight[formats]'`, which reads more codings"
    )
    assert unreadable(cut).code == "unreadable"


def test_what_cannot_be_explained_is_answered_with_a_note(client, sound):
    response = client.post(
        "/predict", params={"explain": True}, content=sound("s.wav", wave=np.zeros(RATE)).read_bytes()
    )
    assert response.status_code == 200
    assert response.json()["explanation"] is None
    assert "silent" in response.json()["notes"][0]


@pytest.mark.parametrize(
    ("params", "code", "words"),
    [
        ({"top": "x"}, "bad_parameter", "top is 'x'"),
        ({"top": 0}, "bad_parameter", "top is '0'"),
        ({"hop": "nan"}, "bad_parameter", "hop is 'nan'"),
        ({"hop": -1}, "bad_parameter", "hop is '-1'"),
        ({"at": "inf"}, "bad_parameter", "at is 'inf'"),
        ({"hop": 1, "at": 1}, "bad_parameter", "at and hop"),
        ({"explain": True, "label": "wolf"}, "unknown_label", "'wolf'"),
        ({"hop": 0.001}, "too_many_windows", "4001 windows"),
    ],
)
def test_parameters_that_do_not_fit(client, sound, params, code, words):
    response = client.post("/predict", params=params, content=sound("a.wav", seconds=5.0).read_bytes())
    assert response.status_code == 422
    assert error_of(response)["code"] == code
    assert words in error_of(response)["message"]


def test_requests_that_come_together_are_computed_together(classifier, sound):
    body = sound("a.wav").read_bytes()
    sizes = []
    with serving(classifier, wait_seconds=5.0, batch=4) as (client, server):
        batcher = server.service._batcher
        compute, batcher._coming = batcher._compute, lambda: 4
        batcher._compute = lambda spectrograms: sizes.append(len(spectrograms)) or compute(spectrograms)
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(client.post("/predict", content=body).json()))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sizes == [4]
        assert len({json.dumps(answer) for answer in answers}) == 1


def test_nobody_waits_for_requests_that_are_not_coming(classifier, sound):
    with serving(classifier, wait_seconds=1000.0) as (client, _):
        assert client.post("/predict", content=sound("a.wav").read_bytes()).status_code == 200


def test_health_model_and_metrics(client, sound):
    client.post("/predict", content=sound("a.wav", seconds=2.0).read_bytes())
    client.post("/predict", content=b"no sound")
    assert client.get("/healthz").json() == {"status": "ok", "decoders": 2, "in_flight": 0}
    model = client.get("/model").json()
    assert model["classes"] == list(CLASSES)
    assert (model["sample_rate_hz"], model["clip_seconds"], model["tells_unknown"]) == (RATE, 1.0, False)
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    lines = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#"))
    assert float(lines['earsight_requests_total{code="",status="200"}']) >= 1
    assert float(lines['earsight_requests_total{code="unreadable",status="422"}']) >= 1
    assert float(lines["earsight_request_seconds_count"]) >= 2
    assert lines["earsight_requests_in_flight"] == "0.0"
    assert lines["earsight_decoders"] == "2.0"


def test_the_description_names_every_field_and_every_refusal(client):
    tree = client.get("/openapi.json").json()
    predict = tree["paths"]["/predict"]["post"]
    assert set(predict["responses"]) == {"200", "400", "408", "413", "422", "500", "503", "504", "507"}
    assert set(predict["requestBody"]["content"]) == {"multipart/form-data", "application/octet-stream"}
    assert all(parameter["description"] for parameter in predict["parameters"])
    assert [one["name"] for one in predict["parameters"] if one.get("deprecated")] == ["picture"]
    schemas = tree["components"]["schemas"]
    assert "ErrorBody" in predict["responses"]["413"]["content"]["application/json"]["schema"]["$ref"]
    for name in ("Answer", "Window", "ErrorContent", "SpectrogramImage", "ExplanationBody"):
        described = [field for field in schemas[name]["properties"].values() if field.get("description")]
        assert len(described) >= 1, name


def test_nothing_may_come_from_another_host(client):
    for path in ("/healthz", "/openapi.json", "/nothing"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "http" not in policy
        assert "unsafe" not in policy
    assert client.get("/docs").status_code == 404


@pytest.mark.parametrize("of", [("mp4", "aac", "fltp"), ("mp4", "alac", "s16p"), ("webm", "libopus", "flt")])
def test_what_ffmpeg_alone_reads_is_decoded_under_the_same_limits(client, of):
    container, coding, sample_format = of
    rate = 48000
    wave = (0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)).astype(np.float32)
    plain, content = io.BytesIO(), io.BytesIO()
    soundfile.write(plain, wave, rate, format="WAV")
    samples = wave if sample_format.startswith("f") else np.round(wave * 32767).astype(np.int16)
    with av.open(content, "w", format=container) as out:
        stream = out.add_stream(coding, rate=rate)
        stream.layout, stream.format = "mono", sample_format
        for frame in _frames(samples, sample_format, rate, stream.frame_size or 960):
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    answers = []
    for sent in (plain.getvalue(), content.getvalue()):
        response = client.post("/predict", content=sent)
        assert response.status_code == 200, response.text
        answers.append({one["label"]: one["probability"] for one in response.json()["classes"]})
    assert answers[0] == pytest.approx(answers[1], abs=0.02)
    assert client.post("/predict", content=content.getvalue()[:-3000]).status_code == 422


def _frames(samples, sample_format, rate, size):
    """The wave as FFmpeg's frames of so many samples."""
    frame = av.AudioFrame.from_ndarray(samples[None], format=sample_format, layout="mono")
    frame.sample_rate, frame.pts = rate, 0
    resampler = av.AudioResampler(format=sample_format, layout="mono", rate=rate, frame_size=size)
    return [*resampler.resample(frame), *resampler.resample(None)]


@pytest.fixture(scope="module")
def together(classifier):
    """The same network as one whose classes may sound together, with thresholds of its own."""
    limits = dict(zip(CLASSES, (0.01, 0.02, 0.999), strict=True))
    card = replace(
        classifier.card,
        several=True,
        thresholds={name: {"threshold": limit, "rule": "best-f1", "ci95": [0, 1]} for name, limit in limits.items()},
    )
    made = Classifier(card, classifier.model)
    with serving(made) as (client, _):
        yield client, made


def test_classes_that_sound_together_are_all_named(together, sound):
    client, model = together
    about = client.get("/model").json()
    assert about["several"]
    assert about["thresholds"][CLASSES[0]] == 0.01
    path = sound("a.wav", seconds=1.0)
    found = client.post("/predict", params={"top": 1}, content=path.read_bytes()).json()
    wanted = model.predict(path)
    assert found["labels"] == list(wanted.named)
    assert set(found["labels"]) == set(CLASSES[:2])
    # All that are named are among the classes, however few were asked for.
    assert set(found["labels"]) <= {one["label"] for one in found["classes"]}
    shares = dict(zip(wanted.classes, wanted.probabilities, strict=True))
    assert all(one["probability"] == pytest.approx(shares[one["label"]], abs=1e-5) for one in found["classes"])
    found = client.post("/predict", params={"hop": 0.5}, content=sound("b.wav", seconds=2.0).read_bytes()).json()
    assert {one["label"] for one in found["events"]} == set(CLASSES[:2])
    assert all(set(one["labels"]) == set(CLASSES[:2]) for one in found["timeline"])
    text = client.get("/metrics").text
    assert f'earsight_labels_total{{label="{CLASSES[0]}"}} 2.0' in text
    assert client.get("/model").json()["classes"] == list(CLASSES)


def test_a_model_of_one_class_names_no_labels(client, sound):
    assert client.post("/predict", content=sound("a.wav", seconds=1.0).read_bytes()).json()["labels"] is None
