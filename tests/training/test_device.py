"""What the machine is asked for, and what it says of itself."""

import sys

import pytest
import torch

from earsight.errors import RecipeError
from earsight.training import device
from earsight.training.device import describe_machine, keep_freed_memory, pick_device, training_dtype

CPU = torch.device("cpu")


def test_auto_is_a_device_that_is_there():
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "cpu:x", "", "cuda:99"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(RecipeError, match=f"^device {name}: not available here .*; use auto or cpu$"):
        pick_device(name)


@pytest.mark.parametrize("name", ["mps", "xpu"])
def test_a_device_without_float64(name):
    with pytest.raises(RecipeError, match=f"^device {name}: not supported, .*; use auto or cpu$"):
        pick_device(name)


def test_precision(monkeypatch):
    assert training_dtype("float32", CPU) == torch.float32
    assert training_dtype("bfloat16", CPU) == torch.bfloat16
    for capability, expected in (("AVX2", torch.float32), ("DEFAULT", torch.float32)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=capability: found)
        assert training_dtype("auto", CPU) == expected
    monkeypatch.setattr(device, "_cpu_has_bfloat16", lambda: True)
    assert training_dtype("auto", CPU) == torch.bfloat16


def test_the_machine_describes_itself():
    found = describe_machine(CPU)
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["device"]
    assert found["cores"] >= 1


def test_the_allocator_is_left_alone_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert keep_freed_memory() is False
