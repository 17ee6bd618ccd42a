"""Machine code of numba kernels on disk: read only if its digests match and only its user can have written it.

Comes in: the folder of a kernel, and a function that has numba compile it. Goes out: the kernel. Numba's files are
pickles, which can run code, so a file whose SHA-256 is not in ``SHA256SUMS`` beside it is removed and the kernel
compiled anew. Folders that a group or others can write are not used, the cache folder above them neither.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from earsight.cache import default_cache, made_cache
from earsight.files import replacing
from earsight.signals import stops_wait

T = TypeVar("T")
DIGESTS = "SHA256SUMS"
_LOCK_SECONDS = 120.0  # for another process to compile a kernel
_SETTINGS = threading.RLock()


def code_folder(*modules: str) -> Path:
    """Folder of kernels' machine code below the cache folder, named by source, numba and processor."""
    return default_cache() / "kernels" / _code_key(modules)


@cache
def _code_key(modules: tuple[str, ...]) -> str:
    numba, registry = (importlib.import_module(name) for name in ("numba", "numba.core.registry"))
    processor = registry.cpu_target.target_context.codegen().magic_tuple()
    digest = hashlib.sha256(repr((processor, numba.__version__, sys.version)).encode())
    for module in (Path(__file__).stem, *modules):
        digest.update(Path(__file__).with_name(f"{module}.py").read_bytes())
    return digest.hexdigest()[:16]


def load_or_compile(folder: Path, build: Callable[[bool], T]) -> T:
    """A kernel's ``build(True)``, which numba reads from a `code_folder`'s folder or compiles and keeps there.

    Where nothing can be kept, or others could have written it, this is ``build(False)``. One process at a time compiles
    a kernel; what it compiled for others is read by them.
    """
    build = _undisturbed(build)
    settings = {"CACHE_DIR": str(folder), "CACHE_LOCATOR_CLASSES": f"{__name__}.{CodePlace.__name__}"}
    try:
        if _is_private(folder):
            with numba_settings(**settings):
                return build(True) if _is_whole(folder) else _compile(folder, build)
    except (OSError, RuntimeError):
        # The disk is full or may not be written, another process is stopped while it compiles, or numba lacks the
        # object code that it wants to keep.
        pass
    return build(False)


class CodePlace:
    """Tells numba to keep code in its ``CACHE_DIR`` itself, a `code_folder`, named by all that the code depends on.

    Numba's own way adds the path of the source: code that another copy of earsight compiles would come beside what has
    its digests already, and the next process would take that for damage.
    """

    def __init__(self, function: Any, file: str) -> None:
        self._py_file = file  # numba names it in messages
        self._line = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function: Any, file: str) -> CodePlace:
        """The place of a function's code; numba asks for it, and for all below."""
        return cls(function, file)

    def get_cache_path(self) -> str:
        """The folder."""
        config: Any = importlib.import_module("numba.core.config")
        return str(config.CACHE_DIR)

    def ensure_cache_path(self) -> None:
        """Nothing: the folder is there."""

    def get_source_stamp(self) -> str:
        """What changes with the source: here the folder's name does."""
        return ""

    def get_disambiguator(self) -> str:
        """What tells functions of one name in one file apart."""
        return str(self._line)


def is_kept(folder: Path) -> bool:
    """Whether a kernel's code is there; it is checked when it is loaded."""
    return (folder / DIGESTS).is_file()


@contextmanager
def numba_settings(**values: Any) -> Iterator[None]:
    """Settings of numba for a block, whatever the environment says; one thread at a time is in such a block."""
    from numba.core import config

    with _SETTINGS:
        before = {name: getattr(config, name, None) for name in values}
        try:
            for name, value in values.items():
                setattr(config, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(config, name, value)


def _undisturbed(build: Callable[[bool], T]) -> Callable[[bool], T]:
    """LLVM hands code over in callbacks of C, where Python drops exceptions: a stop there would lose the code."""

    def built(keep: bool) -> T:
        with stops_wait():
            return build(keep)

    return built


def _is_private(folder: Path) -> bool:
    """Make the folder and whether this user alone can write on the way to it; else that is reported.

    A cache folder may be writable for others if it is sticky as /tmp is: what is in it stays its owner's.
    """
    top = made_cache()
    sticky = bool(top.stat().st_mode & stat.S_ISVTX)
    for place in (top, *reversed([one for one in (folder, *folder.parents) if top in one.parents])):
        place.mkdir(mode=0o700, exist_ok=True)
        if _others_write(place, 0 if place == top and sticky else 0o022):
            _warn(
                f"{place}: other users can write there, so compiled kernels are neither read nor kept, and every "
                f"process compiles its own; if it is yours alone, chmod go-w '{place}', else take another folder with "
                "EARSIGHT_CACHE"
            )
            return False
    return os.access(folder, os.W_OK)


def _others_write(path: Path, bits: int = 0o022) -> bool:
    found = path.stat()
    return hasattr(os, "geteuid") and (found.st_uid not in (0, os.geteuid()) or bool(found.st_mode & bits))


def _digests(folder: Path) -> bytes:
    """The lines of ``SHA256SUMS``, as `sha256sum` writes and checks them."""
    files = sorted(folder.rglob("*.nb[ic]"))
    lines = (
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}" for path in files
    )
    return "".join(f"{line}\n" for line in lines).encode()


def _is_whole(folder: Path) -> bool:
    return (
        is_kept(folder)
        and (folder / DIGESTS).read_bytes() == _digests(folder)
        and not any(map(_others_write, folder.rglob("*")))
    )


def _compile(folder: Path, build: Callable[[bool], T]) -> T:
    from filelock import FileLock  # only here: it takes a while to import

    with FileLock(folder / ".lock", timeout=_LOCK_SECONDS):
        if _is_whole(folder):  # by another process, meanwhile
            return build(True)
        if any(folder.rglob("*.nb[ic]")) or is_kept(folder):
            what = "differ from their digests" if is_kept(folder) else "were left unfinished"
            _warn(f"{folder.parent}: compiled kernels {what}; they are removed and compiled anew")
        _clear(folder)
        try:
            kernel = build(True)
            for path in folder.rglob("*"):
                path.chmod(path.stat().st_mode & ~0o022)  # whatever the umask says
            with replacing(folder / DIGESTS) as part:
                part.write_bytes(_digests(folder))
                part.chmod(0o644)
        except (OSError, RuntimeError):
            _clear(folder)
            raise
        return kernel


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()


@cache
def _warn(text: str) -> None:
    """Report once in a process; without a set-up of logging it is a line on standard error."""
    logging.getLogger("earsight.kernels").warning("note: %s", text)
