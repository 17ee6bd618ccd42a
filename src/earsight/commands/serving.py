"""The verb ``serve``: a model behind HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from earsight.commands.options import Device, Model, Threads, verb
from earsight.commands.steps import computer
from earsight.console import say
from earsight.errors import ServiceError

_NEEDS = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


@verb
def serve(
    model: Model,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")] = 8000,
    most_mb: Annotated[float, typer.Option("--max-mb", min=0.001, help="Largest upload, in megabytes.")] = 50.0,
    most_seconds: Annotated[float, typer.Option("--max-seconds", min=0.1, help="Longest sound.")] = 900.0,
    decode_seconds: Annotated[float, typer.Option(min=0.1, help="Longest time that decoding a sound may take.")] = 20.0,
    queue: Annotated[int, typer.Option(min=1, help="Most requests in flight; further ones get status 503.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Windows in a batch of the network.")] = 16,
    wait_ms: Annotated[float, typer.Option(min=0, help="How long a batch waits to be filled.")] = 4.0,
    decoders: Annotated[int, typer.Option(min=1, help="Processes that decode.")] = 2,
    stop_seconds: Annotated[float, typer.Option(min=1, help="Longest wait for requests in flight at the stop.")] = 15.0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Name that it is reached by, beside localhost and addresses; * for any. Repeatable."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Site whose pages may use it, such as https://example.org; * for any. Repeatable."),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Serve a model over HTTP: POST /predict, /healthz, /metrics, /openapi.json, and a page at /.

    Starts only if the model's predictions here equal those saved with it. Ctrl-C lets open requests end.
    """
    import asyncio
    import importlib.util

    if missing := [name for name in _NEEDS if importlib.util.find_spec(name) is None]:
        raise ServiceError(f"serve needs {', '.join(missing)}: python -m pip install 'earsight[serve]'")
    from earsight.inference.classifier import load_classifier
    from earsight.serving.limits import Limits
    from earsight.serving.server import Server, bind, check_parity
    from earsight.serving.visitors import listening_at
    from earsight.training.device import keep_freed_memory

    limits = Limits(
        body_bytes=round(most_mb * 1e6),
        sound_seconds=most_seconds,
        decode_seconds=decode_seconds,
        queue=queue,
        batch=batch,
        wait_seconds=wait_ms / 1000,
        decoders=decoders,
        stop_seconds=stop_seconds,
    )
    with bind(host, port) as listening:
        keep_freed_memory()
        classifier = load_classifier(model, device=computer(device, threads)).use_kernels()
        if note := check_parity(model, classifier):
            say(f"  note: {note}")
        address = f"{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        started = f"{model}: served at http://{address} (Ctrl-C stops it)"
        known = listening_at(host, hosts=allow_host or [], origins=allow_origin or [])
        server = Server(classifier, limits, listening=listening, started=lambda: say(started), known=known)
        asyncio.run(server.work())
    say("earsight: stopped; what was in flight has been answered")
