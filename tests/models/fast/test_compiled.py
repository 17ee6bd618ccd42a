"""Compiled networks say what their originals say, whoever asks, and where they cannot, the originals are asked."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from earsight.models.backbones import build
from earsight.models.ensemble import Ensemble, Member
from earsight.models.fast.compiled import CompiledNetwork, bfloat16_pays, why_not_reduced, with_compiled
from earsight.models.mahalanobis import attach_statistics, logits_and_features, mahalanobis_statistics, statistics_of

NAMES = ["test_resnet", "test_efficientnet", "densenet121", "soundnet8"]


def _spectrograms(batch=1, seed=1):
    return torch.randn(batch, 3, 64, 48, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=NAMES)
def pair(request):
    """A network and its compiled form."""
    network = build(request.param, classes=5, weights="none", seed=3).eval()
    found = with_compiled(network, spectrogram=_spectrograms())
    assert isinstance(found, CompiledNetwork)
    return network, found


def test_logits_and_features_are_those_of_the_network(pair):
    network, found = pair
    x = _spectrograms(7, seed=2).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(found(x), network(x), atol=1e-5, rtol=1e-5)
        if hasattr(network, "forward_head"):
            for got, wanted in zip(logits_and_features(found, x), logits_and_features(network, x), strict=True):
                torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_neither_company_nor_threads_change_a_bit(pair):
    _, found = pair
    x, before = _spectrograms(10, seed=2), torch.get_num_threads()
    with torch.inference_mode():
        whole = found(x)
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                assert torch.equal(found(x), whole)
                assert torch.equal(torch.cat([found(one[None]) for one in x]), whole)
                with ThreadPoolExecutor(3, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
                    for got in pool.map(found, [x] * 6):
                        assert torch.equal(got, whole)
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("several", [False, True])
def test_an_ensemble_keeps_its_way_to_one_answer(several):
    members = [
        Member(build(name, classes=4, weights="none", seed=1).eval(), (0.1, 1, 2), (1, 2, 1), 1.5, weight)
        for name, weight in (("test_resnet", 0.3), ("test_efficientnet", 0.7))
    ]
    model = Ensemble(members, several=several).eval()
    before = list(model.networks)
    found = with_compiled(model, spectrogram=_spectrograms())
    assert list(model.networks) == before
    assert all(isinstance(network, CompiledNetwork) for network in found.networks)
    with torch.inference_mode():
        x = _spectrograms(5, seed=4)
        torch.testing.assert_close(found(x), model(x), atol=1e-5, rtol=1e-5)


def test_statistics_of_features_are_kept():
    network = build("test_resnet", classes=3, weights="none").eval()
    features = torch.rand(30, 96, generator=torch.Generator().manual_seed(0)).numpy()
    attach_statistics(network, mahalanobis_statistics(features, torch.arange(30).numpy() % 3, classes=3))
    assert statistics_of(with_compiled(network, spectrogram=_spectrograms())) == statistics_of(network) != (None,)


class _Odd(nn.Module):
    """Answers otherwise than its graph, as one whose control flow tracing does not see."""

    def forward(self, x):
        return x.mean(dim=(2, 3)) + (1.0 if not torch.jit.is_tracing() else 0.0)


class _Unknown(nn.Module):
    """Has an operation that OpenVINO lacks."""

    def forward(self, x):
        return torch.special.bessel_j0(x).mean(dim=(2, 3))


class _Infinite(nn.Module):
    def forward(self, x):
        return x.mean(dim=(2, 3)) / 0


@pytest.mark.parametrize("network", [_Odd(), _Unknown(), _Infinite()], ids=lambda one: type(one).__name__)
def test_what_cannot_be_compiled_stays(network):
    found = with_compiled(network, spectrogram=_spectrograms())
    assert type(found) is type(network)
    torch.testing.assert_close(found(_spectrograms()), network(_spectrograms()), rtol=0, atol=0, equal_nan=True)


def test_without_openvino_batch_norms_are_folded(monkeypatch):
    def missing():
        raise ImportError("no module named openvino")

    monkeypatch.setattr("earsight.models.fast.compiled._core", missing)
    network = build("test_resnet", classes=3, weights="none").eval()
    found = with_compiled(network, spectrogram=_spectrograms())
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert not any(isinstance(module, nn.BatchNorm2d | CompiledNetwork) for module in found.modules())
    with torch.inference_mode():
        torch.testing.assert_close(found(_spectrograms()), network(_spectrograms()), rtol=1e-4, atol=1e-4)
    assert "openvino cannot be imported" in why_not_reduced()


@pytest.mark.skipif(bool(why_not_reduced()), reason=f"bfloat16: {why_not_reduced()}")
def test_reduced_precision_is_near(monkeypatch):
    monkeypatch.setattr("earsight.models.fast.compiled.bfloat16_pays", lambda: True)
    network = build("test_efficientnet", classes=5, weights="none", seed=3).eval()
    found = with_compiled(network, spectrogram=_spectrograms(), reduced=True)
    x = _spectrograms(4, seed=2)
    with torch.inference_mode():
        exact, near = network(x), found(x)
    assert not torch.allclose(near, exact, atol=1e-6), "it was computed in float32"
    torch.testing.assert_close(near, exact, atol=0.05 * float(exact.abs().max()), rtol=0)


@pytest.mark.parametrize(
    ("name", "features", "pays"),
    [
        ("znver5", {"avx512bf16": True}, True),
        ("sapphirerapids", {"avx512bf16": True, "amx-bf16": True}, True),
        ("emeraldrapids", {"avx512bf16": True, "amx-bf16": False}, False),
        ("cooperlake", {"avx512bf16": True}, False),
    ],
)
def test_bfloat16_is_taken_where_it_is_faster(monkeypatch, name, features, pays):
    monkeypatch.setattr("llvmlite.binding.get_host_cpu_name", lambda: name)
    monkeypatch.setattr("llvmlite.binding.get_host_cpu_features", lambda: features)
    network = build("test_resnet", classes=3, weights="none").eval()
    if pays and why_not_reduced():
        assert bfloat16_pays()
        return
    found = with_compiled(network, spectrogram=_spectrograms(), reduced=True)
    with torch.inference_mode():
        assert torch.allclose(found(_spectrograms()), network(_spectrograms()), atol=1e-6) != pays


NOTHING_SENT = """
import socket, sys
asked = []
def refused(*arguments, **names):
    asked.append(arguments)
    raise OSError
socket.socket.connect = socket.getaddrinfo = refused
import concurrent.futures as futures
submit = futures.ThreadPoolExecutor.submit
futures.ThreadPoolExecutor.submit = lambda self, work, *more: asked.append(work) or submit(self, work, *more)
from earsight.models.fast.compiled import _core
_core()
import openvino_telemetry  # whoever wants it has it
print(asked)
"""


def test_openvino_reports_nothing(tmp_path):
    """It would where it does not find itself in a CI service, and write a number for this user into the home folder."""
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    environment |= {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", NOTHING_SENT], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    assert not list(tmp_path.iterdir())


SIGNALS = """
import gc, os, signal, threading, torch
from earsight.models.backbones import build
from earsight.models.fast.compiled import CompiledNetwork, with_compiled
x = torch.zeros(1, 3, 64, 48)
def compiled():
    network = build("test_resnet", classes=3, weights="none").eval()
    found.append(with_compiled(network, spectrogram=x))
    assert isinstance(found[-1], CompiledNetwork)
found, got = [], []
signal.signal(signal.SIGTERM, lambda number, _frame: got.append(number))
compiled()
other = threading.Thread(target=lambda: (compiled(), found.clear(), gc.collect()))
other.start()
other.join()
os.kill(os.getpid(), signal.SIGTERM)
print(got == [signal.SIGTERM])
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_a_process_that_has_dropped_its_networks_takes_signals():
    done = subprocess.run([sys.executable, "-c", SIGNALS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n")
