"""Start code of a process in which earsight meets what it would on Windows; put its folder into PYTHONPATH.

From earsight's own modules, `os`, `sys`, `signal`, `ctypes` and `multiprocessing` look as they do there: what Windows
lacks is missing, and names and platforms are Windows'. Others, such as Python's own library, see the system as it is.
For all of them a file that somebody has open can neither be replaced nor removed, and a folder that holds one cannot
be renamed. What earsight asked for and did not get is counted in the file that $WITHOUT_POSIX names.
"""

from __future__ import annotations

import builtins
import ctypes
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import types
import warnings
from typing import Any

from lacking import MODULES, OS, SIGNAL

LACKING: dict[types.ModuleType, set[str]] = {os: OS, signal: SIGNAL, multiprocessing: set(), sys: {"abiflags"}}
INSTEAD: dict[tuple[types.ModuleType, str], Any] = {
    (os, "name"): "nt",
    (sys, "platform"): "win32",
    (multiprocessing, "get_all_start_methods"): lambda: ["spawn"],
}


_frame = sys._getframe  # asked for at each attribute, also of `sys`


def _ours() -> bool:
    """Whether earsight's code asks: who called the function that called this one."""
    try:
        asking = _frame(2)
    except ValueError:  # C code, from no Python function
        return False
    return str(asking.f_globals.get("__name__", "")).partition(".")[0] == "earsight"


def _count(name: str) -> None:
    with open(os.environ["WITHOUT_POSIX"], "a", encoding="utf-8") as log:  # noqa: PTH123
        log.write(name + "\n")


class _Windows(types.ModuleType):
    def __getattribute__(self, name: str) -> Any:
        if _ours():
            if name in LACKING.get(self, ()):  # importlib makes all modules of the type that sys has
                _count(name)
                raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
            if (self, name) in INSTEAD:
                _count(name)
                return INSTEAD[self, name]
        return super().__getattribute__(name)


for _module in LACKING:
    _module.__class__ = _Windows

_import = builtins.__import__


def _import_there(name: str, globals: Any = None, *rest: Any, **named: Any) -> Any:  # noqa: A002
    if name.partition(".")[0] in MODULES and str((globals or {}).get("__name__", "")).startswith("earsight"):
        _count(name)
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return _import(name, globals, *rest, **named)


builtins.__import__ = _import_there

_init = ctypes.CDLL.__init__


def _cdll(self: Any, name: Any, *rest: Any, **options: Any) -> None:
    if name is None and _ours():
        _count("CDLL")
        raise TypeError("argument of type 'NoneType' is not iterable")  # what Windows' CDLL(None) says
    _init(self, name, *rest, **options)


ctypes.CDLL.__init__ = _cdll  # type: ignore[method-assign]


def _held() -> set[str]:
    """Files that this process has open or mapped."""
    held = {os.path.realpath(f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd")}  # noqa: PTH208
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:  # noqa: PTH123
        return held | {line.rstrip("\n").split(None, 5)[5] for line in maps if "/" in line}


def _refusing(function: Any, count: int) -> Any:
    def refused(*paths: Any, **options: Any) -> Any:
        for path in paths[:count]:
            if isinstance(path, (str, bytes, os.PathLike)) and not options.get("dir_fd"):
                place = os.path.realpath(os.fsdecode(path))
                if any(one == place or one.startswith(place + "/") for one in _held()):
                    raise PermissionError(13, "the file is open (WinError 32)", place)
        return function(*paths, **options)

    return refused


os.replace, os.rename = _refusing(os.replace, 2), _refusing(os.rename, 2)
os.unlink = os.remove = _refusing(os.unlink, 1)
_fsync = os.fsync


def _fsync_there(descriptor: Any) -> None:
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    with open(f"/proc/self/fdinfo/{number}", encoding="utf-8") as info:  # noqa: PTH123
        flags = next(int(line.split()[1], 8) for line in info if line.startswith("flags"))
    if not flags & (os.O_WRONLY | os.O_RDWR):
        raise OSError(9, "Bad file descriptor")  # Windows syncs only what may be written
    _fsync(descriptor)


os.fsync = _fsync_there


def _no_link(*_paths: Any, **_options: Any) -> None:
    raise OSError(1314, "A required privilege is not held by the client")


os.symlink = os.link = _no_link
shutil._use_fd_functions = False  # type: ignore[attr-defined]
subprocess.CREATE_NEW_PROCESS_GROUP = 0  # type: ignore[attr-defined]
# A text file without a coding would be cp1252.
warnings.filterwarnings("error", category=EncodingWarning, module=r"earsight(\.|$)")
