"""``python -m benchmarks.hostile MODEL SOUND [--run RUN]``: what strangers send, and what disks refuse.

A service of its own process, with the limits that `serve` has by default, gets every kind of broken, hostile, huge,
empty and mislabelled upload and of odd client. After each it must be well: /healthz says ok, a good sound gets its
answer, no upload is left on the disk. Then `predict`, `serve`, `calibrate` and `report` meet the same files, full and
read-only disks, a model of another version and a port in use. Ends with 1 where anything was not as it should be.
Disks are small tmpfs mounts, which root alone can make; without them their rows say so.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks import broken, clients, disks
from benchmarks.watched import Row, Site
from earsight.training.device import describe_machine

STATUS = {
    "": 200,
    "empty": 422,
    "unreadable": 422,
    "too_long": 422,
}
WELL = ((200, ""), (422, "unreadable"), (422, "too_long"), (422, "decoder_died"), (422, "too_much_memory"))
"""What may come of a file of which nobody can say whether a decoder passes over its damage."""


def uploads(site: Site, *, fuzz: int) -> Iterator[Row]:
    """Every file as the raw body and as a form, then files of random damage."""
    for name, file in broken.files().items():
        expected = WELL if file.code == "any" else ((STATUS[file.code], file.code),)
        for way, send in (("body", site.post), ("form", site.post_form)):
            yield site.row(f"{name} ({way})", expected, lambda send=send, content=file.content: send(content))
    for path in ("/predict?hop=0.5", "/predict?explain=true&spectrogram=true"):
        for name in ("silence", "1 sample", "64 channels", "1 Hz, 5 s"):
            content = broken.files()[name].content
            yield site.row(f"{name}, {path}", ((200, ""),), lambda content=content, path=path: site.post(content, path))
    yield site.fuzz(broken.fuzzed(fuzz), WELL)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("sound", type=Path, help="A good sound.")
    parser.add_argument("--run", type=Path, help="A run folder, for calibrate and report.")
    parser.add_argument("--fuzz", type=int, default=200)
    parser.add_argument("--only", default="", help="Only the rows whose name has this word.")
    parser.add_argument("--verbs", action="store_true", help="Only the verbs' part, without a service.")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows: list[Row] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        site = Site(arguments.model, arguments.sound.read_bytes(), Path(scratch) / "served", only=arguments.only)
        parts: list[Callable[[], Iterator[Row]]] = [
            lambda: uploads(site, fuzz=arguments.fuzz),
            lambda: clients.odd(site),
        ]
        if not arguments.verbs:
            with site:
                for part in parts:
                    rows += _shown(part())
            rows += _shown(iter([site.ended()]))
        place = Path(scratch) / "disks"
        place.mkdir()
        rows += _shown(disks.met(arguments.model, arguments.sound, arguments.run, place, only=arguments.only))
    bad = [row.what for row in rows if not row.ok]
    summary = {
        "rows": len(rows),
        "not as they should be": bad,
        "service_mb": site.memory,
        "seconds": round(time.perf_counter() - began),
        "machine": describe_machine(torch.device("cpu")),
    }
    sys.stderr.write(json.dumps(summary, indent=2) + "\n")
    if arguments.json:
        json.dump({"summary": summary, "rows": [row._asdict() for row in rows]}, sys.stdout, indent=2)
    sys.exit(bool(bad))


def _shown(rows: Iterator[Row | None]) -> list[Row]:
    out = []
    for row in rows:
        if row is not None:
            state = f"{'ok ' if row.ok else 'NOT'} {row.seconds:6.2f} s  {row.service_mb:5} MB"
            sys.stderr.write(f"{state}  {row.what}: {row.found}\n")
            out.append(row)
    return out


if __name__ == "__main__":
    main()
