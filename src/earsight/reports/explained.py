"""The files of an explanation: figures, arrays, numbers, and the sound with and without what was used.

Comes in: an `Explanation` and a folder. Goes out: ``NAME.png``, ``NAME.faithfulness.png`` (where there are curves),
``NAME.npz``, ``NAME.used.wav``, ``NAME.unused.wav`` and, last of all, ``NAME.json``, each written whole or not at all.
The sounds are mono at the model's rate, and add up to what the model heard; 32-bit floats, which do not clip.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from earsight.inference.explanation import Explanation
from earsight.reports.explanations import explanation_figure, faithfulness_figure


def file_names(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each path with a name for its files: its stem, and a number where an earlier one has the same."""
    used: set[str] = set()
    for path in paths:
        stem = Path(path).stem or "sound"
        name, number = stem, 1
        while name in used:
            number += 1
            name = f"{stem}-{number}"
        used.add(name)
        yield path, name


def made_from(model: Path, **settings: Any) -> str:
    """Twelve hexadecimal digits that name the model file's bytes and the settings of an explanation."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    with model.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()[:12]


def read_explained(folder: Path, name: str, *, sound: str, origin: str) -> dict[str, Any] | None:
    """The numbers of an explanation that is there, if it is of this sound as it is now and of this origin.

    Parameters
    ----------
    folder : Path
    name : str
        From `file_names`.
    sound : str
        Path of the sound.
    origin : str
        From `made_from`.
    """
    try:
        found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        same = found["made_from"] == {"origin": origin, "sound": _state(sound)}
        return found if same and all(Path(file).is_file() for file in found["files"].values()) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_explained(explanation: Explanation, folder: Path, name: str, *, origin: str) -> dict[str, Any]:
    """Write an explanation's files and return its numbers, with where the files are under ``files``."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"figure": folder / f"{name}.png"}
    explanation_figure(explanation, path=files["figure"])
    if explanation.curves:
        files["faithfulness"] = folder / f"{name}.faithfulness.png"
        faithfulness_figure(explanation, path=files["faithfulness"])
    files["arrays"] = folder / f"{name}.npz"
    with _whole(files["arrays"]) as file:
        np.savez_compressed(file, allow_pickle=False, **explanation.arrays())
    for key, wave in (("used", explanation.used), ("unused", explanation.unused)):
        files[key] = folder / f"{name}.{key}.wav"
        with _whole(files[key]) as file:
            soundfile.write(file, wave, explanation.sample_rate_hz, format="WAV", subtype="FLOAT")
    content = explanation.to_dict() | {
        "files": {key: str(path) for key, path in files.items()},
        "made_from": {"origin": origin, "sound": _state(explanation.path)},
    }
    with _whole(folder / f"{name}.json") as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())
    return content


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name when the block has ended well."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _state(sound: str) -> list[Any]:
    status = Path(sound).stat()
    return [str(Path(sound).absolute()), status.st_size, status.st_mtime_ns]


def explanation_lines(content: dict[str, Any]) -> Iterator[str]:
    """What `write_explained` returned, in a few lines for a person."""
    complete, audible, faithful = (content[key] for key in ("completeness", "audible", "faithfulness"))
    yield f"{content['path']}: {content['label']}, probability {100 * content['probability']:.1f} %" + (
        "" if content["label"] == content["top_label"] else f" (the model says {content['top_label']})"
    )
    yield (
        f"  complete: the attributions add up to {complete['sum_of_attributions']:.4g}, the scores differ by "
        f"{complete['difference']:.4g}; {100 * complete['error']:.2f} % off in {complete['steps']} steps"
    )
    yield (
        f"  audible: with only what was used {100 * audible['used_probability']:.1f} %, without it "
        f"{100 * audible['unused_probability']:.1f} %; it is {100 * audible['used_energy']:.1f} % of the sound's energy"
    )
    for kind in ("deletion", "insertion") if faithful else ():
        areas, random = faithful[kind]["area"], faithful[kind]["random_area"]
        others = ", ".join(f"{name} {area:.2f}" for name, area in areas.items())
        low, high = random["interval95"]
        yield f"  area under {kind}: {others}, random {random['mean']:.2f} ({low:.2f} to {high:.2f})"
    if faithful:
        yield f"  {faithful['verdict']}"
    yield f"  {content['files']['figure']}"
