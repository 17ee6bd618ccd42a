"""Files that are replaced whole or not at all, and state that is checked when it is read back.

A file is written beside its name, then renamed. State is a JSON object with a digest of itself; what is damaged is
named, with its remedy. State without a digest, as earlier versions wrote it, is read too.
"""

from __future__ import annotations

import errno
import functools
import glob
import hashlib
import json
import logging
import math
import os
import re
import secrets
import shutil
import tempfile
import time
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from earsight.errors import EarsightError

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from numpy.typing import NDArray

_DIGEST = "digest"
_ARRAYS = "arrays"
_ARRAY_ERRORS = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, BadZipFile, zlib.error),
)
"""What numpy and zipfile raise at a damaged file; a NotImplementedError is a RuntimeError."""
_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8)  # seconds
SEAL = "# Digest of the lines below: "
TURNING = "\u2028\u2029\u202a-\u202e\u2066-\u2069"
"""Characters that break or turn the line around them: gpj.exe reads as exe.jpg."""


@contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """A temporary path beside ``path``; renamed to ``path`` when the block succeeds, and removed otherwise.

    Its hidden name is random, so that no two threads or processes (even of one number in two containers) write to one
    file. What a kill leaves under such a name is never read. With ``sync`` file and name are on the disk at the end, so
    that a power cut keeps them. OSError where the disk refuses; ``path`` is then as it was.
    """
    if path.is_dir():  # else the error would name the temporary file
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        yield part
        if sync:
            _sync(part)
        take_place(part, path)
        if sync and os.name == "posix":  # elsewhere a folder cannot be opened, nor need it be
            _sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder that is removed at the block's end, or, where a kill comes first, by `remove_stale`.

    A lock beside it, which ends with the process, shows that it is in use.
    """
    from filelock import FileLock

    remove_stale(prefix)
    folder = Path(tempfile.gettempdir()) / f"{prefix}{secrets.token_hex(6)}"
    lock = folder.with_name(f"{folder.name}.lock")
    with FileLock(lock) as held:
        try:
            folder.mkdir(mode=0o700)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            let_go(held)


def remove_stale(prefix: str) -> int:
    """Remove the `scratch_folder` s of processes that have died; returns how many others are in use."""
    from filelock import FileLock, Timeout

    used = 0
    for lock in Path(tempfile.gettempdir()).glob(f"{glob.escape(prefix)}*.lock"):
        try:
            if hasattr(os, "getuid") and (lock.is_symlink() or lock.lstat().st_uid != os.getuid()):
                continue  # another user's, or one that another user laid there
            with FileLock(lock, timeout=0) as held:
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                let_go(held)
        except Timeout:
            used += 1
        except OSError:
            continue  # removed meanwhile
    return used


def let_go(lock: BaseFileLock) -> None:
    """Release a lock and remove its file, while it is held, so that nobody can have begun to wait for it.

    On Windows an open file cannot be removed: there it is released first, and stays where another process has it.
    """
    file = Path(lock.lock_file)
    if _at_once():
        file.unlink(missing_ok=True)
        lock.release()
    else:
        lock.release()
        with suppress(PermissionError):
            file.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name that is not taken yet; a copy on a file system without links."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def publish_folder(built: Path, target: Path) -> None:
    """Give a folder that is built whole its name; a folder of that name is moved aside first, and removed after."""
    older = target.with_name(f".{target.name}.old")
    shutil.rmtree(older, ignore_errors=True)
    if target.exists():
        target.rename(older)
    built.rename(target)
    shutil.rmtree(older, ignore_errors=True)


def replace_text(path: Path, text: str, *, sync: bool = False) -> None:
    """Write a UTF-8 text file whole or not at all; see `replacing`."""
    replace_bytes(path, text.encode(), sync=sync)


def replace_bytes(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Write a file whole or not at all; see `replacing`."""
    with replacing(path, sync=sync) as part:
        part.write_bytes(data)


def write_state(path: Path, content: Mapping[str, Any], *, sync: bool = False, indent: int | None = None) -> None:
    """Write a JSON object with a digest of itself, whole or not at all; see `replacing` and `json_text`."""
    held = json.loads(json_text({key: value for key, value in content.items() if key != _DIGEST}))
    text = json_text(held | {_DIGEST: _digest_of(held)}, indent=indent)
    replace_text(path, text + "\n" * (indent is not None), sync=sync)


def read_state(
    path: Path, fields: Mapping[str, type], *, remedy: str, error: type[EarsightError] = EarsightError
) -> dict[str, Any]:
    """Read what `write_state` wrote, without its digest; files of earlier versions have none and are not checked.

    Raises ``error``, with ``remedy`` for what to do, if the file is missing, unreadable or damaged, or lacks one of the
    ``fields``, which are members and their types.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise error(f"{path}: is not there any more; {remedy}") from cause
    except (OSError, ValueError, RecursionError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else "it is no JSON"
        raise error(f"{path}: cannot be read ({reason}); {remedy}") from cause
    known = found.pop(_DIGEST, None) if isinstance(found, dict) else None
    if not isinstance(found, dict) or not all(isinstance(found.get(name), kind) for name, kind in fields.items()):
        raise error(f"{path}: cannot be read (it lacks what earsight writes there); {remedy}")
    if known is not None and known != _digest_of(found):
        raise error(f"{path}: cannot be read (it does not fit its digest, so it is damaged); {remedy}")
    return found


def save_arrays(path: Path, about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write numpy arrays by name, and a JSON object that says which there are, as an npz, whole or not at all."""
    import numpy as np

    text = np.array(json_text({**about, _ARRAYS: sorted(arrays)}))
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays, about=text)


def read_arrays(
    path: Path, names: Collection[str], *, what: str, remedy: str, error: type[EarsightError]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what `save_arrays` wrote: the JSON object and the arrays; raises ``error`` as `read_lines` does.

    A zip file has a checksum of each array, but none of its directory, where a changed name hides one. Earlier versions
    did not write which there are: of ``names`` alone theirs can be, without comments, which hide what follows.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            if (damaged := file.zip.testzip()) is not None:
                raise ValueError(f"{damaged} does not fit its checksum")
            arrays = {name: file[name] for name in file.files}
            about = dict(json.loads(str(arrays.pop("about"))))
            listed = about.pop(_ARRAYS, None)
            hidden = any(one.comment or one.extra for one in file.zip.infolist()) or not arrays.keys() <= set(names)
            if hidden if listed is None else arrays.keys() != set(listed):
                raise ValueError("it has other arrays than were written")
    except _ARRAY_ERRORS as cause:
        raise error(f"{path}: not {what} ({cause}); {remedy}") from cause
    return about, arrays


def sealed(text: str) -> str:
    """A text of a format whose comments begin with #, under a line with its digest: a cut shows too."""
    return f"{SEAL}{_digest_of(text)}\n{text}"


def seal_fits(text: str) -> bool:
    """Whether the first line of what `sealed` gave fits the others; texts of earlier versions have none, which fits."""
    first, _, rest = text.partition("\n")
    changed = sum(found != wanted for found, wanted in zip(first, SEAL, strict=False))
    none = not text or changed > 1 or (len(first) < len(SEAL) and "\n" in text)
    return (none and SEAL not in text) or text == sealed(rest)


def read_lines(path: Path, *, what: str, remedy: str, error: type[EarsightError]) -> list[dict[str, Any]]:
    """JSON objects, one a line; raises ``error``, which says that the file is not ``what``, as `read_state` does."""
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not all(isinstance(one, dict) for one in found):
            raise ValueError("a line is no object")
    except (OSError, ValueError, RecursionError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else cause
        raise error(f"{path}: not {what} ({reason}); {remedy}") from cause
    return found


def content_digest(path: Path) -> str | None:
    """BLAKE2b (32 hex digits) of a file's bytes, by which what is derived knows it; None if it cannot be read.

    Size and time do not show that files were exchanged, or written anew with their times kept.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except (OSError, ValueError):
        return None


def say_damage(text: str) -> None:
    """Report damage that was repaired: a line on standard error, unless logging is set up otherwise."""
    logging.getLogger("earsight").warning("earsight: %s", text)


@functools.cache
def say_once(text: str) -> None:
    """Report, once in a process, state that cannot be checked."""
    say_damage(text)


def json_text(content: Any, *, indent: int | None = None) -> str:
    """JSON that every reader takes: numbers that are not finite are null, and text is UTF-8.

    Names that are no UTF-8, and characters that a terminal would obey, are written with escapes.
    """
    try:
        text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json_text(_finite(content), indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(content, indent=indent)
    return re.sub(f"[\x7f-\x9f{TURNING}]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _finite(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _digest_of(content: Any) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def take_place(part: Path, path: Path) -> None:
    """Rename; Windows refuses as long as somebody, a virus scanner perhaps, has either file open."""
    for wait in (None,) if _at_once() else (*_WAITS, None):
        try:
            part.replace(path)
            return
        except PermissionError:
            if wait is None:
                raise
            time.sleep(wait)


def _at_once() -> bool:
    """Whether a file can be replaced and removed while it is open."""
    return os.name != "nt"


def _sync(path: Path) -> None:
    # Windows syncs only what may be written; a folder may only be read.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
