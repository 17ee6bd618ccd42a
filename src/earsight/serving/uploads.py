"""Uploads: write a request's body to a file, within a size and a time.

Comes in: a request with a sound as its raw body, or as the one file of a form (multipart/form-data). Goes out: the path
of a file in the service's own folder, and the name that the sender gave it, which is shown and never opened.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from earsight.errors import NO_ROOM
from earsight.serving.limits import Limits
from earsight.serving.refusals import Refusal

FORM_EXTRA_BYTES = 64 * 1024  # a form's own lines, beside the file
_NAME_CHARACTERS = 200


@dataclass(frozen=True)
class Upload:
    """An uploaded file, and the sender's name for it."""

    path: Path
    name: str


@asynccontextmanager
async def uploaded(request: Request, *, folder: Path, limits: Limits) -> AsyncIterator[Upload]:
    """A request's sound as a file, removed when the block ends; `ClientDisconnect` if the sender went away.

    `Refusal` 400 for a form that cannot be read, 408 if it takes too long, 413 if it is too large, 422 if there is no
    file in it, 507 if the disk is full.
    """
    path = folder / f"{secrets.token_hex(8)}.sound"
    try:
        try:
            pace = Pace(limits, asyncio.get_running_loop().time())
            async with asyncio.timeout_at(pace.deadline) as timer:
                name = await _receive(_Body(request, limits, pace, timer), path)
        except TimeoutError as error:
            least = f"{limits.pace_bytes / limits.pace_seconds / 1000:g} kB/s for {limits.pace_seconds:g} s"
            message = f"the upload came at less than {least}, or took more than {limits.upload_seconds:g} s"
            remedy = "send a smaller file, or over a faster line"
            raise Refusal(408, "upload_timeout", message, remedy, close=True) from error
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            message = "the upload cannot be written: the disk is full"
            remedy = "try again later; whoever runs the service must make room"
            raise Refusal(507, "no_space", message, remedy, close=True) from error
        if path.stat().st_size == 0:
            raise Refusal(422, "empty", "the request holds no byte of sound", "send a sound file, raw or in a form")
        yield Upload(path, name)
    finally:
        path.unlink(missing_ok=True)
        path.with_suffix(".raw").unlink(missing_ok=True)


class Pace:
    """How fast an upload comes: by when the next bytes must be here.

    Any ``limits.pace_seconds`` must bring ``limits.pace_bytes``, and all of it may take ``limits.upload_seconds``.
    Times are seconds of any clock that does not go back; ``now`` is that of the upload's begin.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits, self._end, self._bytes = limits, now + limits.upload_seconds, 0
        self._marks = deque([(now, 0)])  # times, and the bytes that had come by then

    def add(self, count: int, now: float) -> None:
        """So many bytes have come."""
        self._bytes += count
        self._marks.append((now, self._bytes))
        while self._marks[0][1] <= self._bytes - self._limits.pace_bytes:
            self._marks.popleft()

    @property
    def deadline(self) -> float:
        """The time at which the upload is too slow, should nothing more come."""
        return min(self._end, self._marks[0][0] + self._limits.pace_seconds)


class _Body:
    """A request's body, cut off at the size limit whatever its headers say."""

    def __init__(self, request: Request, limits: Limits, pace: Pace, timer: asyncio.Timeout) -> None:
        self.is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
        self.most = limits.body_bytes + (FORM_EXTRA_BYTES if self.is_form else 0)
        self.declared = request.headers.get("content-length", "")
        self.request = Request(request.scope, self._receive)
        self._limits, self._from, self._bytes = limits, request.receive, 0
        self._pace, self._timer = pace, timer

    async def _receive(self) -> Message:
        message = await self._from()
        count = len(message.get("body", b""))
        self._bytes += count
        self._pace.add(count, asyncio.get_running_loop().time())
        self._timer.reschedule(self._pace.deadline if message.get("more_body", False) else None)
        if self._bytes > self.most:
            raise self.too_large("more")
        return message

    def too_large(self, found: str) -> Refusal:
        """The refusal of a body of so many bytes."""
        message = f"the upload has {found}, this service takes {self._limits.body_bytes:,} bytes"
        remedy = "send a shorter sound, or one that is compressed (FLAC, OGG, MP3)"
        return Refusal(413, "too_large", message, remedy, close=True)


async def _receive(body: _Body, path: Path) -> str:
    """Write the sound to the path; its name."""
    if body.declared.isdigit() and int(body.declared) > body.most:
        raise body.too_large(f"{int(body.declared):,} bytes")
    if body.is_form:
        return await _receive_form(body.request, path)
    with path.open("xb") as file:
        async for chunk in body.request.stream():
            file.write(chunk)
    return ""


async def _receive_form(request: Request, path: Path) -> str:
    try:
        form = await request.form(max_files=1, max_fields=8)
    except (HTTPException, FormParserError) as error:  # the second from starlette 1.0 and older
        message = f"the form cannot be read ({getattr(error, 'detail', str(error)).rstrip('.')})"
        raise Refusal(400, "bad_form", message, "send one file as multipart/form-data", close=True) from error
    try:
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        if not files:
            remedy = "send the sound in a field of type file, such as `file`"
            raise Refusal(422, "no_file", "the form holds no file", remedy)
        with path.open("xb") as out:
            await asyncio.to_thread(shutil.copyfileobj, files[0].file, out, 1 << 20)
        return "".join(sign for sign in files[0].filename or "" if sign.isprintable())[:_NAME_CHARACTERS]
    finally:
        await form.close()
