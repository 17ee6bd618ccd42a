"""Whatever is sent, the service says what is wrong with it and answers the next request."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import threading
import time
import zlib

import httpx
import numpy as np
import pytest
from at_port import RATE, encoded, error_of, serving, tone

from earsight.inference.classifier import load_classifier
from earsight.serving import decoder_pool

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4
MP4 = b"\x00\x00\x00\x18ftypM4A \x00\x00\x00\x00M4A mp42isom" + bytes(4000)


def header(*, rate=RATE, channels=1, data=b"", promised=None, bits=16):
    """A WAV file with a header of our own."""
    promised = len(data) if promised is None else promised
    block = channels * bits // 8
    middle = struct.pack("<HHIIHH", 1, channels, rate, (rate * block) & 0xFFFFFFFF, block & 0xFFFF, bits)
    inner = b"WAVEfmt " + struct.pack("<I", 16) + middle + b"data" + struct.pack("<I", promised & 0xFFFFFFFF)
    return b"RIFF" + struct.pack("<I", (len(inner) + promised) & 0xFFFFFFFF) + inner + data


def still_well(client):
    """A good sound gets its answer."""
    response = client.post("/predict", content=encoded(tone()))
    assert response.status_code == 200, response.text


def hours_of_silence():
    """Two hours in a FLAC file of some 20 kB."""
    return encoded(np.zeros(2 * 3600 * 1000, np.int16), 1000, format="FLAC")


BAD = {
    "text": (lambda: b"this is no sound at all\n" * 20, "unreadable", "text"),
    "html": (lambda: b"<!DOCTYPE html><html></html>", "unreadable", "HTML"),
    "an image": (lambda: PNG, "unreadable", "PNG"),
    "an MP4 named .mp3": (lambda: MP4, "unreadable", "MP4"),
    "a zip": (lambda: b"PK\x03\x04" + zlib.compress(bytes(10_000)), "unreadable", "ZIP"),
    "a pickle": (lambda: b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\xff\xfe.", "unreadable", "pickle"),
    "zeros": (lambda: bytes(5000), "unreadable", "zero bytes"),
    "noise": (lambda: np.random.default_rng(0).bytes(5000), "unreadable", "not a sound file"),
    "one byte": (lambda: b"R", "unreadable", "text"),
    "nothing": (lambda: b"", "empty", "no byte"),
    "a header alone": (lambda: encoded(np.zeros(0, np.float32)), "unreadable", "0 samples"),
    "cut WAV": (lambda: encoded(tone())[:5000], "unreadable", "truncated"),
    "cut FLAC": (lambda: encoded(tone(), format="FLAC")[:3000], "unreadable", "truncated"),
    "cut OGG": (lambda: encoded(tone(), format="OGG")[:2000], "unreadable", "truncated"),
    "NaN": (lambda: encoded(np.full(RATE, np.nan, np.float32), subtype="FLOAT"), "unreadable", "NaN"),
    "infinite": (lambda: encoded(np.full(RATE, np.inf, np.float32), subtype="FLOAT"), "unreadable", "NaN or infinite"),
    "huge floats": (
        lambda: encoded(np.full(RATE, 1e30, np.float32), subtype="FLOAT"),
        "unreadable",
        "beyond any scale",
    ),
    "hours in 20 kB": (hours_of_silence, "too_long", "7200.0 s"),
    "rate 1 Hz": (lambda: encoded(np.zeros(100, np.int16), 1), "too_long", "100.0 s"),
    "a rate of 4 GHz": (lambda: header(rate=0xFFFFFFFF, data=bytes(4000)), "unreadable", ""),
    "rate 0": (lambda: header(rate=0, data=bytes(4000)), "unreadable", ""),
    "no channel": (lambda: header(channels=0, data=bytes(4000)), "unreadable", ""),
    "65535 channels": (lambda: header(channels=65535, data=bytes(400_000)), "unreadable", ""),
    "a promise of 4 GB": (lambda: header(data=bytes(4000), promised=0x7FFFEFFF), "unreadable", "truncated"),
}


@pytest.mark.parametrize(("extra", "last"), [(True, "AU, M4A or WebM file"), (False, "AIFF or AU file")])
def test_the_formats_that_are_read_here_are_named(client, monkeypatch, extra, last):
    monkeypatch.setattr("earsight.data.decoders.has_ffmpeg", lambda: extra)
    assert error_of(client.post("/predict", content=BAD["noise"][0]()))["what_to_do"].endswith(last)
    assert ("M4A" in client.get("/model").json()["formats"]) is extra


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("way", ["body", "form"])
def test_what_is_no_sound_is_named(client, name, way):
    make, code, words = BAD[name]
    content = make()
    sent = {"content": content} if way == "body" else {"files": {"file": ("ton.mp3", content, "audio/mpeg")}}
    response = client.post("/predict", **sent)
    assert response.status_code == 422
    assert error_of(response)["code"] == code
    assert words in error_of(response)["message"]
    still_well(client)


@pytest.mark.parametrize(
    "content",
    [
        encoded(np.zeros(5, np.int16), 1),
        encoded(0.1 * np.ones((300, 1000), np.float32)),
        encoded(tone(0.001)),
        encoded(tone(), 192_000),
        header(rate=1_000_000, data=bytes(40_000)),
        encoded(tone()) + bytes(100_000),
        b"".join([encoded(tone())[:36], b"junk", struct.pack("<I", 7), bytes(8), encoded(tone())[36:]]),
    ],
    ids=["1 Hz, 5 s", "1000 channels", "8 samples", "192 kHz", "1 MHz", "rubbish behind", "a strange chunk"],
)
def test_odd_sounds_get_an_answer(client, content):
    for params in ({}, {"hop": 0.5}, {"spectrogram": True}):
        response = client.post("/predict", params=params, content=content)
        assert response.status_code == 200, response.text
        assert sum(one["probability"] for one in response.json()["classes"]) == pytest.approx(1, abs=1e-4)


def test_a_result_that_is_not_finite_is_an_error_of_that_sound(model_file):
    broken = load_classifier(model_file)
    plain, broken._mean = broken._mean, broken._mean * float("nan")
    with serving(broken) as (client, _):
        for params in ({}, {"hop": 0.5}, {"explain": True}):
            response = client.post("/predict", params=params, content=encoded(tone()))
            assert (response.status_code, error_of(response)["code"]) == (422, "not_finite")
            assert error_of(response)["message"] == "the model gives NaN or infinity for it"
        broken._mean = plain
        still_well(client)


def test_too_large_whether_declared_or_not(client):
    def pieces():
        for _ in range(50):
            yield bytes(100_000)

    for sent in ({"content": bytes(3_000_000)}, {"content": pieces()}, {"files": {"file": bytes(3_000_000)}}):
        response = client.post("/predict", **sent)
        assert response.status_code == 413
        assert error_of(response)["code"] == "too_large"
        assert "2,000,000" in error_of(response)["message"]
    still_well(client)


@pytest.mark.parametrize(
    ("kind", "body", "status", "code"),
    [
        ("multipart/form-data", b"x", 400, "bad_form"),
        ("multipart/form-data; boundary=b", b"no form at all", 400, "bad_form"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b--',
            422,
            "no_file",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="a"; filename="f"\r\n\r\nRIFF',
            422,
            "no_file",
        ),
    ],
)
def test_forms_that_hold_no_file(client, kind, body, status, code):
    response = client.post("/predict", headers={"Content-Type": kind}, content=body)
    assert response.status_code == status
    assert error_of(response)["code"] == code
    still_well(client)


def test_wrong_ways_and_places(client):
    assert error_of(client.get("/nothing/../../etc/passwd"))["code"] == "not_found"
    assert error_of(client.put("/predict"))["code"] == "wrong_method"
    assert client.get("/%2e%2e/app.py").status_code == 404
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
        found = client.request(method, "/predict")
        assert (found.status_code, found.headers["allow"]) == (405, "POST")
    assert error_of(client.get("/predict"))["code"] == "wrong_method"


# Processes that decode


def child_of(server):
    """The process that decodes next, and its number."""
    child = server.service.decoders._idle._queue[0]
    return child._process.pid


def test_a_process_that_dies_or_hangs_is_replaced(classifier):
    with serving(classifier, decoders=1, decode_seconds=1.0) as (client, server):
        for kind, status, code in ((signal.SIGSTOP, 504, "decode_timeout"), (signal.SIGKILL, 422, "decoder_died")):
            pid = child_of(server)
            os.kill(pid, kind)
            response = client.post("/predict", content=encoded(tone()))
            assert response.status_code == status
            assert error_of(response)["code"] == code
            still_well(client)
            assert child_of(server) != pid
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        text = client.get("/metrics").text
        assert 'earsight_decoders_replaced_total{why="timeout"} 1.0' in text
        assert 'earsight_decoders_replaced_total{why="crash"} 1.0' in text


def test_memory_and_time_are_the_kernels_to_give(classifier):
    with serving(classifier, decoders=1, decode_bytes=450_000_000, sound_seconds=1e6) as (client, _):
        # Eleven hours, in a file of 100 kB; the wave alone is beyond what may be had.
        wave = encoded(np.zeros(40_000_000, np.int16), 1000, format="FLAC")
        response = client.post("/predict", params={"at": 39_000.0}, content=wave)
        assert response.status_code == 422
        assert error_of(response)["code"] == "too_much_memory"
        still_well(client)
        assert 'why="worn"} 1.0' in client.get("/metrics").text


def test_a_worn_decoder_counts_until_its_successor_is_there(classifier, monkeypatch):
    """Monitors that ask meanwhile hear of no trouble, unless it does not come."""
    monkeypatch.setattr(decoder_pool, "_JOBS_OF_ONE", 1)
    start, broken = decoder_pool._Child.start, threading.Event()

    async def started(*limits):
        await asyncio.sleep(0.2)
        if broken.is_set():
            raise OSError("no memory")
        return await start(*limits)

    monkeypatch.setattr(decoder_pool._Child, "start", started)
    with serving(classifier, decoders=1) as (client, server):
        pid = child_of(server)
        for _ in range(2):
            still_well(client)
            response = client.get("/healthz")
            assert (response.status_code, response.json()["decoders"]) == (200, 1)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        broken.set()
        deadline = time.monotonic() + 30
        while client.get("/healthz").status_code != 503 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert client.get("/healthz").json()["decoders"] == 0
        broken.clear()
        still_well(client)


def test_a_decoder_may_write_no_file_and_start_no_process(served):
    _, server = served
    limits = dict(
        line.rsplit(None, 3)[:2] if line.startswith("Max processes") else (line[:26].strip(), line[26:47].strip())
        for line in open(f"/proc/{child_of(server)}/limits").read().splitlines()[1:]  # noqa: PTH123, SIM115
    )
    assert limits["Max core file size"] == "0"
    assert int(limits["Max address space"]) == 1 << 30
    assert int(limits["Max file size"]) <= 4 * 61 * RATE
    assert int(limits["Max open files"]) == 32


# Too much at once


def test_more_than_the_queue_takes_is_asked_to_come_again(classifier):
    with serving(classifier, queue=1) as (client, server):
        go, asked = threading.Event(), threading.Event()

        def slowly():
            asked.set()
            yield encoded(tone())[:1000]
            assert go.wait(30)
            yield encoded(tone())[1000:]

        first = []
        thread = threading.Thread(target=lambda: first.append(client.post("/predict", content=slowly())))
        thread.start()
        assert asked.wait(30)
        while not server.service.in_flight:
            time.sleep(0.01)
        response = client.post("/predict", content=encoded(tone()))
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "1"
        assert error_of(response)["code"] == "busy"
        assert client.get("/healthz").status_code == 200
        go.set()
        thread.join(30)
        assert first[0].status_code == 200
        still_well(client)


def test_explanations_have_a_queue_of_their_own(classifier):
    with serving(classifier, explanations=1) as (client, server):
        server.service._explaining = 1
        response = client.post("/predict", params={"explain": True}, content=encoded(tone()))
        assert response.status_code == 503
        server.service._explaining = 0
        still_well(client)


def test_a_full_disk_is_said_and_survived(classifier, monkeypatch, caplog):
    with serving(classifier) as (client, server):
        place = server.service.folder
        server.service.folder = place / "absent"
        assert error_of(client.post("/predict", content=encoded(tone())))["code"] == "internal"
        assert "absent" in caplog.text  # where whoever runs it looks
        server.service.folder = place
        if os.path.exists("/dev/full"):  # noqa: PTH110
            import earsight.serving.uploads as uploads

            monkeypatch.setattr(uploads.secrets, "token_hex", lambda count: "full")
            (place / "full.raw").symlink_to("/dev/full")
            response = client.post("/predict", content=encoded(tone()))
            assert response.status_code == 507
            assert error_of(response)["code"] == "no_space"
            (place / "full.raw").symlink_to(place / "gone" / "full.raw")  # no lack of room, and nobody's sound
            response = client.post("/predict", content=encoded(tone()))
            assert (response.status_code, error_of(response)["code"]) == (500, "internal")
            assert "the decoded sound cannot be written (No such file or directory)" in caplog.text
            monkeypatch.undo()
        still_well(client)


def test_a_fault_of_the_network_is_no_answer_and_no_end(classifier):
    def broken(waves):
        raise RuntimeError("out of luck")

    with serving(classifier) as (client, server):
        compute, server.service._batcher._compute = server.service._batcher._compute, broken
        response = client.post("/predict", content=encoded(tone()))
        assert response.status_code == 500
        assert error_of(response)["code"] == "internal"
        assert "luck" not in response.text
        server.service._batcher._compute = compute
        still_well(client)


# Odd clients


def talk(client, *parts, wait=0.0):
    """Send bytes as they are; what comes back until the other side closes."""
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=20) as line:
        for part in parts:
            line.sendall(part)
            time.sleep(wait)
        out = b""
        while piece := line.recv(65536):
            out += piece
        return out


POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"


def test_clients_that_are_slow_lie_or_go_away(classifier, monkeypatch):
    import earsight.serving.connections as module

    monkeypatch.setattr(module, "HEADER_SECONDS", 0.5)
    body = encoded(tone())
    with serving(classifier, upload_seconds=0.5) as (client, server):
        promised = POST + f"Content-Length: {len(body) + 1000}\r\n\r\n".encode()
        late = talk(client, promised, body)
        assert late.startswith(b"HTTP/1.1 408")
        assert b'"upload_timeout"' in late
        short = talk(client, POST + b"Content-Length: 100\r\nConnection: close\r\n\r\n" + body)
        assert b'"unreadable"' in short
        for rubbish in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", POST + b"Content-Length: -5\r\n\r\n"):
            answer = talk(client, rubbish)
            assert answer.startswith(b"HTTP/1.1 400")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "bad_request"
        assert talk(client, b"POST /predict HT", wait=0.1) == b""  # the rest never comes
        with socket.create_connection((client.base_url.host, client.base_url.port)) as line:
            line.sendall(promised + body[:100])
        still_well(client)
        while server.service.in_flight:
            time.sleep(0.01)
        assert list(server.service.folder.iterdir()) == []


def test_answers_do_not_carry_what_the_sender_did_not_send(client):
    names = ["../../etc/passwd", "a\r\nSet-Cookie: x=1", "\x00", "x" * 1000, "<script>alert(1)</script>"]
    for name in names:
        response = client.post("/predict", files={"file": (name, encoded(tone()))})
        assert response.status_code == 200, (name[:20], response.text)
        assert response.headers["content-type"] == "application/json"
        assert "set-cookie" not in response.headers
        assert len(response.json()["sound"]["name"]) <= 200


def test_connections_are_dropped_without_harm(client):
    with httpx.Client(base_url=client.base_url, timeout=0.001, trust_env=False) as hasty:
        for _ in range(5):
            with pytest.raises(httpx.TimeoutException):
                hasty.post("/predict", params={"explain": True}, content=encoded(tone(5.0)))
    still_well(client)
