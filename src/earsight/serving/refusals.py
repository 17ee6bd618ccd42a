"""Refusals: a status code and the JSON body ``{"error": {"code", "message", "what_to_do"}}``."""

from __future__ import annotations

from starlette.responses import JSONResponse

from earsight.data.contents import INSTALL
from earsight.data.decoders import format_names

RETRY_SECONDS = 1


class Refusal(Exception):  # noqa: N818 - it is no error of the service
    """A request that is refused.

    ``code`` is one word for programs, the same in every version. With ``close`` the rest of the request is not read,
    and the connection ends.
    """

    def __init__(self, status: int, code: str, message: str, remedy: str, *, close: bool = False) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.remedy, self.close = status, code, message, remedy, close


def busy(what: str, *, close: bool = False, code: str = "busy") -> Refusal:
    """The refusal of a request beyond the service's capacity, or of one that comes as it stops."""
    return Refusal(503, code, what, f"send it again after {RETRY_SECONDS} s", close=close)


def unreadable(reason: str) -> Refusal:
    """A file that is no sound, from an `AudioError`'s reason, which names the remedy after a semicolon or a colon."""
    message, _, remedy = reason.partition("; " if "; " in reason else ": ")
    if not remedy or "remove it" in remedy:  # a remedy for files of a data set, not for an upload
        *names, last = format_names()
        remedy = f"send a {', '.join(names)} or {last} file"
    # Sound that this installation has no decoder for, where a browser may have one.
    code = "needs_formats" if f"does not read: `{INSTALL}`" in reason else "unreadable"
    return Refusal(422, code, message, remedy)


def refused(error: Refusal) -> JSONResponse:
    """The response that carries a refusal."""
    headers = {"Retry-After": str(RETRY_SECONDS)} if error.status == 503 else {}
    if error.close:
        headers["Connection"] = "close"
    content = {"error": {"code": error.code, "message": error.message, "what_to_do": error.remedy}}
    return JSONResponse(content, status_code=error.status, headers=headers)
