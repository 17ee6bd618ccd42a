"""Kernels' machine code on disk: nothing is read that was changed, or that others could have written."""

import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from earsight.kernels import stft_power
from earsight.kernels.code_cache import DIGESTS, _warn
from earsight.kernels.runtime import power_kernel

PROGRAM = """
import torch
from earsight.kernels import runtime
from earsight.models.fast.depthwise import convolve
torch.manual_seed(0)
torch.set_num_threads(1)
x, weight = torch.randn(2, 4, 5, 3).to(memory_format=torch.channels_last), torch.randn(4, 1, 3, 3)
out = convolve(x.requires_grad_(), weight.requires_grad_(), stride=1, begin=(1, 1), sizes=(5, 3))
out.square().sum().backward()
print(hash((out.detach().numpy().tobytes(), x.grad.numpy().tobytes(), weight.grad.numpy().tobytes())))
kernel = runtime.power_kernel((2, 2, 2, 2), 2)
print(sum(kernel.stats.cache_hits.values()), [runtime.compiled(name, "float32")[0].cache_hits for name in USED])
""".replace("USED", '("convolve3", "weight_gradient3")')
READ, COMPILED = "1 [1, 1]", "0 [0, 0]"


def start(cache):
    environment = os.environ | {"EARSIGHT_CACHE": str(cache), "PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "0"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(process):
    """Bits, which kernels were read, and the lines of standard error, of a process that went well."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    return (*out.splitlines(), err.splitlines())


def code(cache):
    return sorted(cache.rglob("*.nb[ic]"))


def cut(path, _):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path, draw):
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def test_damaged_code_is_compiled_anew_with_the_same_bits(tmp_path):
    """Two processes compile at once, later ones read; what was cut or flipped never gets as far as numba."""
    both = [start(tmp_path), start(tmp_path)]
    (bits, _, said), other = map(finished, both)
    assert (other[0], said, other[2]) == (bits, [], [])
    assert len(code(tmp_path)) == 6
    assert finished(start(tmp_path)) == (bits, READ, [])
    draw = random.Random(13)
    for path in code(tmp_path):
        draw.choice([cut, flip])(path, draw)
    *found, lines = finished(start(tmp_path))
    assert found == [bits, COMPILED]
    # Once for the kernels of feature maps, and once for those of the STFT.
    assert ["differ from their digests" in line for line in lines] == [True, True], lines
    assert finished(start(tmp_path)) == (bits, READ, [])


@pytest.fixture
def load(tmp_path, monkeypatch, caplog):
    """Loads a kernel as a new process would; returns how often numba has read it, and what was reported."""
    monkeypatch.setenv("EARSIGHT_CACHE", str(tmp_path / "cache"))

    def again():
        _warn.cache_clear()
        caplog.clear()
        kernel = power_kernel.__wrapped__((2, 2, 2, 2), 2)
        kept = type(kernel._cache).__name__ != "NullCache"
        return "read" if kernel.stats.cache_hits else "compiled" if kept else "not kept", caplog.messages

    assert again() == ("compiled", [])
    assert again() == ("read", [])
    return again


@pytest.mark.parametrize("damage", [cut, flip])
@pytest.mark.parametrize("name", ["*.nbi", "*.nbc", DIGESTS])
def test_one_damaged_file_is_noticed(load, tmp_path, name, damage):
    (path,) = tmp_path.rglob(name)
    for seed in range(3 if damage is flip else 1):
        damage(path, random.Random(seed))
        seen, (line,) = load()
        assert seen == "compiled"
        assert line.startswith(f"note: {tmp_path / 'cache' / 'kernels'}")
        assert load() == ("read", [])


def test_unknown_code_is_removed(load, tmp_path):
    """As a killed process leaves it, before its digests are written."""
    (path,) = tmp_path.rglob(DIGESTS)
    path.unlink()
    seen, lines = load()
    assert seen == "compiled"
    assert ["were left unfinished" in line for line in lines] == [True]
    (data,) = tmp_path.rglob("*.nbc")
    planted = data.with_name("planted.1.nbc")
    planted.write_bytes(data.read_bytes())
    assert load()[0] == "compiled"
    assert not planted.exists()


@pytest.mark.skipif(os.name != "posix", reason="modes and owners are those of POSIX")
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_a_folder_that_others_can_write_is_not_used(load, tmp_path, depth):
    (digests,) = tmp_path.rglob(DIGESTS)
    place = [*reversed(digests.parents)][len(tmp_path.parts) :][depth]
    for mode in (0o777, 0o775):
        place.chmod(mode)
        before = digests.stat().st_mtime_ns
        seen, (line,) = load()
        assert seen == "not kept"
        assert line.startswith(f"note: {place}: other users can write there")
        assert f"chmod go-w '{place}'" in line
        assert digests.stat().st_mtime_ns == before
    place.chmod(0o1777 if depth == 0 else 0o755)  # as /tmp
    assert load() == ("read", [])


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_a_folder_of_another_user_is_not_used(load, tmp_path, depth):
    (digests,) = tmp_path.rglob(DIGESTS)
    place = [*reversed(digests.parents)][len(tmp_path.parts) :][depth]
    os.chown(place, 12345, -1)
    seen, (line,) = load()
    assert (seen, str(place) in line) == ("not kept", True)


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_files_that_others_can_write_are_compiled_anew(load, tmp_path):
    for name in ("*.nbc", "*.nbi", DIGESTS):
        (path,) = tmp_path.rglob(name)
        path.chmod(0o666)
        assert load()[0] == "compiled"
    assert load() == ("read", [])


def test_another_copy_of_earsight_reads_what_one_has_compiled(load, tmp_path, monkeypatch):
    """Else it would compile into the same folder, and who comes next would find code without digests there."""
    copy = tmp_path / "elsewhere" / "stft_power.py"
    copy.parent.mkdir()
    copy.write_bytes(Path(stft_power.__file__).read_bytes())
    spec = importlib.util.spec_from_file_location(stft_power.__name__, copy)
    module = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, stft_power.__name__, module)
        spec.loader.exec_module(module)
        assert load() == ("read", [])
        assert len(code(tmp_path)) == 2
    assert load() == ("read", [])


@pytest.mark.skipif(os.name != "posix", reason="there is no umask elsewhere")
def test_whatever_the_umask_says_only_the_user_can_write(tmp_path, monkeypatch):
    monkeypatch.setenv("EARSIGHT_CACHE", str(tmp_path / "cache"))
    before = os.umask(0o002)
    try:
        power_kernel.__wrapped__((2, 2, 2, 2), 2)
    finally:
        os.umask(before)
    for path in (tmp_path / "cache", *(tmp_path / "cache").rglob("*")):
        assert path.name == ".lock" or path.stat().st_mode & 0o022 == 0, path
    kernel = power_kernel.__wrapped__((2, 2, 2, 2), 2)
    assert kernel.stats.cache_hits


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("numba.core.caching.IndexDataCacheFile._save_data", OSError(28, "No space left on device")),
        ("numba.core.codegen.CodeLibrary._get_compiled_object", RuntimeError("no compiled object yet")),
    ],
)
def test_code_that_cannot_be_kept_leaves_nothing_half_written(load, tmp_path, monkeypatch, target, error):
    (digests,) = tmp_path.rglob(DIGESTS)
    digests.unlink()

    def refuse(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(target, refuse)
        assert load()[0] == "not kept"
    assert not code(Path(digests.parent))
    assert load() == ("compiled", [])


STOPPED = """
import llvmlite.binding.executionengine as engine
import signal
from earsight.kernels.runtime import compiled
from earsight.signals import stop_at
stop_at(signal.SIGTERM)
real = engine.ExecutionEngine._raw_object_cache_notify
def notify(self, data):
    signal.raise_signal(signal.SIGTERM)
    real(self, data)
engine._notify_c_hook = engine._ObjectCacheNotifyFunc(notify)
try:
    compiled("add_gradient", "float32")
except KeyboardInterrupt as error:
    print("stopped", error.args)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_a_stop_while_llvm_hands_code_over_waits_for_its_end(tmp_path):
    """It would be dropped there, and the code with it: numba would have nothing to keep, and end in a traceback."""
    environment = os.environ | {"EARSIGHT_CACHE": str(tmp_path / "cache"), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", STOPPED], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("stopped (143,)\n", "")
    assert len(code(tmp_path)) == 2  # whole, before the process stops
