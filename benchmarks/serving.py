"""``python -m benchmarks.serving MODEL [SOUND ...] [--clients N ...] [--seconds S] [--json]``: the service under load.

Two servers of the same model on this machine, one with micro-batches and one that answers one request at a time
(``--batch 1``); N clients each, which send one sound after another over a connection that they keep, for S seconds.
Both are asked in turn, and nothing leaves this machine. Prints p50, p99 in milliseconds and clips a second. The clients
take their share of the same cores.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import itertools
import json
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from earsight.training.device import describe_machine

MODES = {"micro-batches": ["--batch", "16"], "one at a time": ["--batch", "1", "--wait-ms", "0"]}


@contextlib.contextmanager
def served(model: Path, options: list[str]) -> Iterator[int]:
    """A server of its own process; its port."""
    command = [sys.executable, "-m", "earsight", "serve", str(model), "--port", "0", "--queue", "512", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                yield int(found.group(1))
                break
        else:
            raise SystemExit(f"{model}: the server did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        process.stderr.close()


def load(port: int, bodies: list[bytes], *, clients: int, seconds: float) -> dict[str, float]:
    """Answer times of some clients that ask without a pause."""
    times: list[float] = []
    wrong: list[int] = []
    turn = itertools.count()
    until = time.perf_counter() + seconds

    def ask() -> None:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while (began := time.perf_counter()) < until:
            line.request("POST", "/predict?top=1", bodies[next(turn) % len(bodies)])
            response = line.getresponse()
            response.read()
            if response.status != 200:
                wrong.append(response.status)
            times.append(time.perf_counter() - began)
        line.close()

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lasted = time.perf_counter() - began
    if wrong:
        raise SystemExit(f"{len(wrong)} requests were refused, the first with {wrong[0]}")
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {
        "p50_ms": 1000 * cuts[49],
        "p99_ms": 1000 * cuts[98],
        "clips_per_s": len(times) / lasted,
        "clips": len(times),
    }


def sounds(paths: list[Path]) -> list[bytes]:
    """The files' bytes, or five seconds of noise."""
    if paths:
        return [path.read_bytes() for path in paths]
    file = io.BytesIO()
    soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(5 * 44100), 44100, format="OGG")
    return [file.getvalue()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("sounds", type=Path, nargs="*")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    bodies = sounds(arguments.sounds)
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(served(arguments.model, options)) for name, options in MODES.items()}
        for port in ports.values():
            load(port, bodies, clients=4, seconds=1.0)
        for clients in arguments.clients:
            for name, port in ports.items():
                found = load(port, bodies, clients=clients, seconds=arguments.seconds)
                rows.append({"server": name, "clients": clients, **found})
                cells = "  ".join(f"{key} {value:.4g}" for key, value in found.items())
                sys.stderr.write(f"{name:15} {clients:3} clients  {cells}\n")
    if arguments.json:
        json.dump({"machine": describe_machine(torch.device("cpu")), "rows": rows}, sys.stdout, indent=2)
        sys.stdout.write("\n")


if __name__ == "__main__":
    main()
