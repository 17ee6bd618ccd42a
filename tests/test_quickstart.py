"""The first run: no network, everything written, and a second time nothing done twice."""

from __future__ import annotations

import re
import socket

import pytest
from typer.testing import CliRunner

from earsight.cli import app


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("quickstart reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_quickstart(tmp_path, no_network, monkeypatch):
    folder = tmp_path / "first run"
    done = CliRunner().invoke(app, ["quickstart", "--out", str(folder), "--epochs", "1"])
    assert done.exit_code == 0, (done.stderr, done.exception)
    found = re.search(r"held-out accuracy on the synthetic set: ([\d.]+) % of 40 clips .*chance is 10.0 %", done.stdout)
    assert found is not None, done.stdout
    # Pretrained weights, heard for one epoch, already tell most kinds apart; chance does not reach this.
    assert float(found[1]) > 30
    assert re.search(r"predicted \S+\.wav: \w+ with [\d.]+ %; it is \w+", done.stdout)
    assert done.stdout.rstrip().splitlines()[-2:] == [
        "  earsight check my_sounds/",
        "  earsight train my_sounds/ --out runs/mine",
    ]
    assert (folder / "spectrogram.png").read_bytes().startswith(b"\x89PNG")
    [model] = folder.glob("run-*/model.safetensors")
    assert str(model) in done.stdout
    assert "3. training: 10 of 10" in done.stderr
    assert "synthetic" in done.stderr.splitlines()[0]

    sound = next((folder / "synthetic" / "audio").glob("*.wav"))
    predicted = CliRunner().invoke(app, ["predict", str(model), str(sound), "--threads", "1"])
    assert predicted.exit_code == 0
    assert predicted.stdout.startswith(f"{sound}\t")

    from earsight.training import trial

    monkeypatch.setattr(trial, "fit", lambda *args, **kwargs: pytest.fail("trained a second time"))
    again = CliRunner().invoke(app, ["quickstart", "--out", str(folder), "--epochs", "1"])
    assert again.exit_code == 0, (again.stderr, again.exception)
    assert found[0] in again.stdout


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "taken").write_text("mine")
    done = CliRunner().invoke(app, ["quickstart", "--out", str(tmp_path / "taken")])
    assert done.exit_code == 2
    assert "name another folder" in done.stderr
    assert (tmp_path / "taken").read_text() == "mine"
