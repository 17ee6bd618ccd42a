"""ONNX export of a model file, checked against torch in ONNX Runtime before it is written.

Comes in: the path of a model file, and a data set where real clips are to be compared too. Goes out: an ONNX file, and
a dictionary of its facts with the largest differences. A file that fails the check is not written.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from earsight.data import audio
from earsight.data.datasets import Dataset
from earsight.errors import AudioError, DataError, ModelError
from earsight.inference.classifier import Classifier, load_classifier
from earsight.inference.scoring import check_labels
from earsight.models.modelfile import write_whole
from earsight.onnx.session import ALLOWED, SPECTROGRAM_ALLOWED, OnnxModel, Parity, Wave, compare, probes
from earsight.onnx.tracing import OPSET, as_bytes, check_installed, graphs_of, joined
from earsight.version import __version__

PARITY_CLIPS = 12
Progress = Callable[[int, int, str], None]


def export_onnx(
    path: str | Path,
    *,
    out: Path | None = None,
    dataset: Dataset | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a model file as ONNX, after ONNX Runtime has given torch's probabilities.

    ``out`` is by default beside the model file, with the ending ``.onnx``. Some clips of the ``dataset`` are compared
    too; with ``skip_bad`` unreadable ones are left out. ``progress`` is called with (steps done, steps in all, what is
    done next). Returns ``file``, ``bytes``, ``opset``, ``classes``, ``sample_rate_hz``, ``clip_seconds``, ``parity``
    and ``skipped``.

    ModelError if the file is no model, the packages are missing, the target cannot be written, or the check fails;
    DataError if a label is unknown to the model, or clips cannot be read.
    """
    check_installed()
    classifier = load_classifier(path)
    target = out or Path(path).with_suffix(".onnx")
    _check_target(target, model=Path(path))
    if dataset:
        check_labels(classifier, dataset)
    show = progress or (lambda *_: None)
    show(0, 3, "tracing")
    graphs = graphs_of(classifier.card, classifier.model)
    data = as_bytes(joined(graphs, classifier.card, version=__version__))
    show(1, 3, "comparing with torch")
    clips, skipped = _clips(classifier, dataset, skip_bad=skip_bad) if dataset else ([], [])
    front_end = OnnxModel(as_bytes(graphs.front_end))
    parity = compare(classifier, OnnxModel(data), front_end, probes(classifier, clips))
    _check_parity(parity, target)
    show(2, 3, "writing")
    write_whole(target, data)
    show(3, 3, "")
    return {
        "file": str(target),
        "opset": OPSET,
        "classes": len(classifier.classes),
        "sample_rate_hz": classifier.sample_rate_hz,
        "clip_seconds": classifier.samples / classifier.sample_rate_hz,
        "parity": {**parity._asdict(), "allowed": ALLOWED, "clips_of_the_data_set": len(clips)},
        "bytes": len(data),
        "skipped": skipped,
    }


def _clips(classifier: Classifier, dataset: Dataset, *, skip_bad: bool) -> tuple[list[Wave], list[str]]:
    """Waves from all over a data set, of the clip's length, and the paths of those that cannot be read."""
    waves, skipped = [], []
    count = len(dataset.clips)
    for row in np.linspace(0, count - 1, min(PARITY_CLIPS, count)).round().astype(int):
        try:
            wave, _ = classifier.waveform(dataset.file(int(row)))
        except AudioError as error:
            if not skip_bad:
                raise DataError(f"{error}\nMend or remove it, or leave it out with --skip-bad.") from error
            skipped.append(dataset.clips[row].name)
        else:
            waves.append(audio.fit(wave, classifier.samples))
    return waves, skipped


def _check_target(target: Path, *, model: Path) -> None:
    """Raise if the target cannot be written, before the work begins."""
    folder = target.parent
    if target.is_dir():
        raise ModelError(f"{target}: is a folder; name a file, such as {target / model.with_suffix('.onnx').name}")
    if not folder.is_dir():
        raise ModelError(f"{target}: cannot be written, for there is no folder {folder}; make it or name another file")
    if not os.access(folder, os.W_OK):
        raise ModelError(f"{target}: cannot be written, for the folder {folder} is read-only; name another file")
    if target.exists() and model.exists() and target.samefile(model):
        raise ModelError(f"{target}: is the model file itself; name another file")


def _check_parity(parity: Parity, target: Path) -> None:
    novelty = parity.novelty or 0.0
    if not (max(parity.probabilities, novelty) <= ALLOWED and parity.spectrograms <= SPECTROGRAM_ALLOWED):
        raise ModelError(
            f"{target}: not written, for ONNX Runtime does not compute what torch does: a probability differs by "
            f"{parity.probabilities:.1e} (of {parity.worst}), a spectrogram by {parity.spectrograms:.1e}, the OOD "
            f"score by {novelty:.1e}; allowed are {ALLOWED:g}, {SPECTROGRAM_ALLOWED:g} and {ALLOWED:g}. "
            "Use the model file itself, or another version of onnxruntime"
        )
