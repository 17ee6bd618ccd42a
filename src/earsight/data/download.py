"""Downloads that go on where they stopped; and ESC-50, about 600 MB, from its public address.

Comes in: a folder. Goes out: the data set in it, whole or not at all. GitHub makes the archive anew from time to
time, so no hash of it is stable: instead its members' CRC-32 must hold, and ``meta/esc50.csv`` must have 2000 rows
whose files are all there.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from earsight.data import clip_tables
from earsight.errors import DataError, remedy_of
from earsight.files import publish_folder

ESC50_URL = "https://github.com/karolpiczak/ESC-50/archive/master.zip"
ESC50_ROWS = 2000
_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60.0

Progress = Callable[[int, int | None], None]


def download_esc50(
    target: Path,
    *,
    progress: Progress | None = None,
    url: str = ESC50_URL,
    sha256: str | None = None,
    rows: int = ESC50_ROWS,
) -> Path:
    """Download ESC-50, check it and unpack it into ``meta/`` and ``audio/`` of ``target``, which is returned.

    If ``target`` holds the whole set, nothing is fetched. ``progress`` is called with the bytes fetched so far and the
    bytes in all, None where the server does not say. ``sha256``, in hexadecimal digits, is for whoever wants one fixed
    archive. DataError if there is no network, the download broke off (call again: it goes on), or what came is damaged.
    """
    target = target.absolute()  # a name of its own also for "."
    if (target / "meta" / "esc50.csv").is_file():
        if fault := _fault(target, rows=rows):
            raise DataError(f"{target}: not the whole of ESC-50, {fault}; delete the folder and download it again")
        return target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target}: exists and holds something else; name a new folder for ESC-50")
    part = target.with_name(target.name + ".zip.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fetch(url, part, what="ESC-50", progress=progress)
        _check_archive(part, sha256=sha256)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
            home = _unpack(part, Path(scratch) / "set")
            if fault := _fault(home, rows=rows):
                part.unlink()
                raise DataError(f"{url}: not the whole of ESC-50, {fault}; what came was removed")
            if target.is_dir():
                target.rmdir()
            # One rename: another process sees the whole set or none.
            publish_folder(home, target)
        part.unlink()
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written ({error.strerror or error}); {remedy_of(error)} or name another"
        ) from error
    return target


def fetch(url: str, part: Path, *, what: str, progress: Progress | None = None) -> None:
    """Fetch into ``part``, from where an earlier call stopped if the server can; whoever calls checks what came.

    DataError if there is no network, or the download broke off: the same call goes on from there.
    """
    have = part.stat().st_size if part.exists() else 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "earsight"})
        if have:
            request.add_header("Range", f"bytes={have}-")
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            part_sent = (answer.headers.get("Content-Range") or "").replace("=", " ")
            resumed = answer.status == 206 and part_sent.startswith(f"bytes {have}-")
            if answer.status == 206 and not resumed:
                raise DataError(f"{url}: the server sent another part than asked for; delete {part} and try again")
            length = answer.headers.get("Content-Length")
            done = have if resumed else 0
            total = done + int(length) if length and length.isdigit() else None
            with part.open("ab" if resumed else "wb") as file:
                while chunk := answer.read(_CHUNK_BYTES):
                    file.write(chunk)
                    done += len(chunk)
                    if progress is not None:
                        progress(done, total)
        if total is not None and done < total:
            raise DataError(f"{url}: broke off after {done} of {total} bytes; call again to go on from there")
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to fetch: the part is whole, or of another archive; its check tells
            return
        raise DataError(
            f"{url}: the server answered {error.code} {error.reason}; try later or give another url"
        ) from error
    except urllib.error.URLError as error:
        raise DataError(f"{url}: cannot be reached ({error.reason}); a network is needed to download {what}") from error
    except (TimeoutError, ConnectionError, HTTPException) as error:
        raise DataError(f"{url}: the connection broke ({error!r}); call again to go on from there") from error
    except ValueError as error:
        raise DataError(f"{url}: not an address ({error}); expected https://...") from error


def _check_archive(part: Path, *, sha256: str | None) -> None:
    """Refuse, and remove, an archive with another hash or with a damaged member."""
    reason = None
    if sha256 is not None:
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256.lower():
            reason = f"its sha256 is {found}, expected {sha256.lower()}"
    if reason is None:
        try:
            with zipfile.ZipFile(part) as archive:
                damaged = archive.testzip()
            reason = f"{damaged} fails its checksum" if damaged else None
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
            reason = f"not a whole zip archive ({error})"
    if reason is not None:
        part.unlink()
        raise DataError(f"{part}: the download is damaged, {reason}; it was removed, call again to fetch it anew")


def _unpack(part: Path, scratch: Path) -> Path:
    """Unpack and return the folder that holds ``meta/``; no member may leave ``scratch`` or be a link."""
    with zipfile.ZipFile(part) as archive:
        for member in archive.infolist():
            path = PurePosixPath(member.filename.replace("\\", "/"))
            ordinary = stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
            if path.is_absolute() or ".." in path.parts or ":" in member.filename or not ordinary:
                raise DataError(f"{part}: the archive holds '{member.filename}', which may point outside; delete it")
            if member.is_dir():
                continue
            file = scratch.joinpath(*path.parts)
            file.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, file.open("xb") as sink:
                shutil.copyfileobj(source, sink, _CHUNK_BYTES)
    found = sorted(scratch.glob("**/meta/esc50.csv"))
    return found[0].parent.parent if found else scratch


def _fault(home: Path, *, rows: int) -> str | None:
    """What is missing from the set in a folder, in words."""
    table = home / "meta" / "esc50.csv"
    if not table.is_file():
        return "there is no meta/esc50.csv"
    found = clip_tables.csv_rows(table, needed=("filename", "fold", "category", "src_file"))
    if len(found) != rows:
        return f"its meta/esc50.csv has {len(found)} rows and not {rows}"
    missing = sum(not (home / "audio" / row["filename"]).is_file() for _, row in found)
    return f"{missing} of its {rows} sounds are missing" if missing else None
