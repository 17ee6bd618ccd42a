"""A request's body becomes a file, within a size and a time.

Comes in: a request with a sound as its raw body, or as the one file of a form (multipart/form-data). Goes out: the path
of a file in a folder of the service's own, and the name that the sender gave it, which is shown and never opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from earsight.serving.limits import Limits
from earsight.serving.refusals import Refusal

_NAME_CHARACTERS = 200
_DRAIN_SECONDS = 2.0
_FORM_EXTRA_BYTES = 64 * 1024  # a form's own lines, beside the file


@dataclass(frozen=True)
class Upload:
    """A file that was sent."""

    path: Path
    name: str


@asynccontextmanager
async def uploaded(request: Request, *, folder: Path, limits: Limits) -> AsyncIterator[Upload]:
    """A request's sound as a file, removed when the block ends.

    Raises
    ------
    Refusal
        400 for a form that cannot be read, 408 if it takes too long, 413 if it is too large, 422 if there is no file in
        it, 507 if the disk is full.
    starlette.requests.ClientDisconnect
        If the sender went away.
    """
    path = folder / f"{secrets.token_hex(8)}.sound"
    try:
        try:
            async with asyncio.timeout(limits.upload_seconds):
                name = await _receive(request, path, limits)
        except TimeoutError as error:
            raise Refusal(
                *(408, "upload_timeout", f"the upload took more than {limits.upload_seconds:g} s"),
                "send a smaller file, or over a faster line",
                close=True,
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise Refusal(
                *(507, "no_space", "the upload cannot be written: the disk is full"),
                "try again later; whoever runs the service must make room",
                close=True,
            ) from error
        if path.stat().st_size == 0:
            raise Refusal(
                422, "empty", "the request holds no byte of sound", "send a sound file as the body or in a form"
            )
        yield Upload(path, name)
    finally:
        path.unlink(missing_ok=True)
        path.with_suffix(".raw").unlink(missing_ok=True)


async def drain(request: Request) -> None:
    """Let the rest of a refused body pass for a moment: many senders read no answer before they have sent it all."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while (await request.receive()).get("more_body", False):
                pass


async def _receive(request: Request, path: Path, limits: Limits) -> str:
    """Write the sound to the path; its name."""
    form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    most = limits.body_bytes + (_FORM_EXTRA_BYTES if form else 0)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise _too_large(f"{int(declared):,} bytes", limits)
    counted = _counted(request, most, limits)
    if form:
        return await _receive_form(counted, path)
    with path.open("xb") as file:
        async for chunk in counted.stream():
            file.write(chunk)
    return ""


def _counted(request: Request, most: int, limits: Limits) -> Request:
    """The same request, whose body stops at a size whatever its headers promise."""
    got = 0

    async def receive() -> Message:
        nonlocal got
        message = await request.receive()
        got += len(message.get("body", b""))
        if got > most:
            raise _too_large(f"more than {most:,} bytes", limits)
        return message

    return Request(request.scope, receive)


def _too_large(found: str, limits: Limits) -> Refusal:
    return Refusal(
        *(413, "too_large", f"the upload has {found}; this service takes {limits.body_bytes:,}"),
        "send a shorter sound, or one that is compressed (FLAC, OGG, MP3)",
        close=True,
    )


async def _receive_form(request: Request, path: Path) -> str:
    try:
        form = await request.form(max_files=1, max_fields=8)
    except HTTPException as error:
        raise Refusal(
            400,
            "bad_form",
            f"the form cannot be read ({error.detail.rstrip('.')})",
            "send one file as multipart/form-data",
            close=True,
        ) from error
    try:
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        if not files:
            raise Refusal(
                422, "no_file", "the form holds no file", "send the sound in a field of type file, such as `file`"
            )
        with path.open("xb") as out:
            await asyncio.to_thread(shutil.copyfileobj, files[0].file, out, 1 << 20)
        return "".join(sign for sign in files[0].filename or "" if sign.isprintable())[:_NAME_CHARACTERS]
    finally:
        await form.close()
