"""The HTTP routes of the service and their parameters (FastAPI).

``POST /predict``, ``GET /model``, ``/healthz``, ``/metrics``, ``/openapi.json``, and the page at ``/``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from earsight.calibration.apply import own_thresholds
from earsight.data.decoders import format_names
from earsight.inference.classifier import Classifier
from earsight.serving import meters
from earsight.serving.answers import Options
from earsight.serving.guard import Guard
from earsight.serving.limits import Limits
from earsight.serving.refusals import Refusal, busy, refused
from earsight.serving.schemas import Answer, ErrorBody, Health, ModelBody
from earsight.serving.service import Service
from earsight.serving.uploads import uploaded
from earsight.serving.visitors import Known, add_visitors
from earsight.version import __version__

_log = logging.getLogger("earsight.serving")
PAGE = Path(str(files("earsight.serving") / "page"))
_BODY = {
    "required": True,
    "description": "The sound: any file that libsndfile reads, known by its bytes and not by its name or type.",
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary"}},
            }
        },
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}
_REFUSALS = {
    400: "The form cannot be read.", 408: "The upload takes too long.", 413: "The upload is too large.",
    422: "The file is no sound, the sound is too long, or a parameter does not fit.", 500: "An internal error.",
    503: "Too many requests at once; send it again after Retry-After.", 504: "Decoding takes too long.",
    507: "The service's disk is full.",
}  # fmt: skip


def create_app(classifier: Classifier, limits: Limits, known: Known) -> FastAPI:
    """The ASGI application that serves a classifier to known visitors; ``state.service`` is its `Service`."""
    service = Service(classifier, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.opened():
            yield

    # No /docs: those pages load their scripts from outside hosts.
    app = FastAPI(
        title="earsight",
        version=__version__,
        description="Names the class of a sound, and explains it.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    app.add_middleware(Guard)
    _handle_errors(app)
    _add_predict(app, service)
    _add_small_routes(app, service)
    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    add_visitors(app, known)
    return app


def _add_predict(app: FastAPI, service: Service) -> None:
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": text} for status, text in _REFUSALS.items()
    }

    @app.post(
        "/predict",
        response_model=Answer,
        responses=refusals,
        openapi_extra={"requestBody": _BODY},
        summary="Name the class of a sound",
    )
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, le=1000, description="How many classes to list.")] = 5,
        hop: Annotated[
            float | None,
            Query(gt=0, allow_inf_nan=False, description="Look at the whole sound, a window every so many seconds."),
        ] = None,
        at: Annotated[
            float | None,
            Query(ge=0, allow_inf_nan=False, description="Use only the window that begins here, in seconds."),
        ] = None,
        first: Annotated[bool, Query(description="Use only the first window, however long the sound is.")] = False,
        explain: Annotated[
            bool,
            Query(
                description="Explain the first class, by the window that speaks most for it (with `hop`, the first)."
            ),
        ] = False,
        label: Annotated[str | None, Query(description="Explain this class instead.")] = None,
        spectrogram: Annotated[bool, Query(description="Give the spectrogram and the waveform too.")] = False,
        picture: Annotated[bool, Query(deprecated=True, description="The old name of `spectrogram`.")] = False,
    ) -> Answer:
        """The model's prediction for a sound, sent as the raw body or as the one file of a form."""
        if label is not None and label not in service.classifier.classes:
            raise Refusal(422, "unknown_label", f"label is {label[:80]!r}, no class of the model", "see GET /model")
        if hop is not None and (at or first):
            raise Refusal(
                *(422, "bad_parameter", f"{'at' if at else 'first'} and hop were both given"),
                f"give {'at' if at else 'first'} alone, or hop alone",
            )
        options = Options(
            top=top,
            hop=hop,
            at=at if hop is None else None,
            explain=explain,
            spectrogram=spectrogram or picture,
            label=label,
            first=first,
        )
        began = time.perf_counter()
        code, status = "", 200
        try:
            async with service.admitted(), uploaded(request, folder=service.folder, limits=service.limits) as upload:
                return await service.predict(upload, options)
        except Refusal as error:
            code, status = error.code, error.status
            raise
        except ClientDisconnect:
            code, status = "gone", 499
            raise
        except Exception as error:
            code, status = "internal", 500
            _log.exception("a request to /predict failed")
            # Not left to the server, which would end the connection too.
            raise _fault() from error
        except asyncio.CancelledError as error:
            code, status = "stopping", 503
            raise busy("this service is being stopped", close=True, code="stopping") from error
        finally:
            service.meters.requests.labels(str(status), code).inc()
            service.meters.seconds.observe(time.perf_counter() - began)

    @app.api_route("/predict", methods=["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"], include_in_schema=False)
    async def wrong_method() -> None:
        # The page's files, which stand at all other paths, would say that there is no such file.
        raise HTTPException(405, headers={"Allow": "POST"})


def _add_small_routes(app: FastAPI, service: Service) -> None:
    classifier, limits = service.classifier, service.limits

    @app.get("/healthz", response_model=Health, summary="Whether the service can answer")
    async def health(response: Response) -> Health:
        """200 while sounds can be decoded, else 503."""
        alive = service.decoders.alive
        response.status_code = 200 if alive else 503
        status = "ok" if alive == limits.decoders else "degraded"
        return Health(status=status, decoders=alive, in_flight=service.in_flight)

    @app.get("/model", response_model=ModelBody, summary="The model, and what the service takes")
    async def model() -> ModelBody:
        """The classes, the window, and the limits."""
        card = classifier.card
        return ModelBody(
            classes=list(classifier.classes),
            sample_rate_hz=classifier.sample_rate_hz,
            clip_seconds=classifier.samples / classifier.sample_rate_hz,
            backbone=card.recipe.backbone.name,
            trained_on=str(card.trained_on.get("dataset", "")),
            several=card.several,
            thresholds=own_thresholds(card),
            unknown_above=(card.calibration.get("unknown") or {}).get("threshold"),
            tells_unknown=bool(card.calibration.get("unknown")),
            earsight=__version__,
            most_bytes=limits.body_bytes,
            most_seconds=limits.sound_seconds,
            most_windows=limits.windows,
            explanation_seconds=limits.explanation_seconds,
            formats=list(format_names()),
        )

    @app.get("/metrics", summary="Counters for Prometheus", response_class=Response)
    async def metrics() -> Response:
        """Prometheus's text format."""
        return Response(service.meters.text(), media_type=meters.CONTENT_TYPE)


def _fault() -> Refusal:
    return Refusal(500, "internal", "a fault of the service, which has logged it", "send it again, or report it")


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refuse(request: Request, error: Refusal) -> JSONResponse:
        return refused(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        name, found = str(first["loc"][-1]), str(first.get("input"))[:80]
        message = f"{name} is {found!r}: {first['msg']}"
        return refused(Refusal(422, "bad_parameter", message, f"correct {name}; see /openapi.json"))

    @app.exception_handler(HTTPException)
    async def missing(request: Request, error: HTTPException) -> JSONResponse:
        known = "there are POST /predict, GET /model, /healthz, /metrics, /openapi.json and the page at /"
        code = {404: "not_found", 405: "wrong_method"}.get(error.status_code, "bad_request")
        message = f"{request.method} {request.url.path[:80]}: {error.detail}"
        response = refused(Refusal(error.status_code, code, message, known))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:
        return refused(_fault())
