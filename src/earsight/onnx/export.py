"""A model file becomes one ONNX file that was seen to answer as it does.

Comes in: the path of a model file and, for what is measured, a data set. Goes out: an ONNX file, and a dictionary that
says how far it is from the model file, and with a data set how right and how fast both are. What fails the check is not
written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earsight.data import audio
from earsight.data.datasets import Dataset
from earsight.data.synthetic import synthetic_waves
from earsight.errors import AudioError, DataError, ModelError
from earsight.evaluation.statistics import bootstrap_accuracy
from earsight.inference.classifier import Classifier, load_classifier
from earsight.inference.scoring import check_labels, trained_rows
from earsight.models.modelfile import write_whole
from earsight.onnx.session import ALLOWED, ALLOWED_IN_PICTURES, OnnxModel, Parity, Score, Wave, compare, probes, race
from earsight.onnx.tracing import OPSET, Graphs, as_bytes, check_installed, graphs_of, joined, quantised
from earsight.version import __version__

CALIBRATION_CLIPS = 200
PARITY_CLIPS = 12
_BATCH = 8
Progress = Callable[[int, int, str], None]


def export_onnx(
    path: str | Path,
    *,
    out: Path | None = None,
    int8: bool = False,
    dataset: Dataset | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a model as ONNX, after ONNX Runtime has answered as torch does.

    Parameters
    ----------
    path : str or Path
        A model file.
    out : Path, optional
        Default: beside the model file, with the ending ``.onnx`` or ``.int8.onnx``.
    int8 : bool
        The network in int8. The check is then made of the float32 graph that it comes from, and what int8 changes is
        measured.
    dataset : Dataset, optional
        Labelled clips: some are compared, those that were held out in training are measured, and the others calibrate
        int8, which without them takes its ranges from synthetic sounds.
    skip_bad : bool
        Leave unreadable clips out instead of stopping.
    progress : callable, optional
        Called with (steps done, steps in all, what is done next).

    Returns
    -------
    dict
        ``file``, ``bytes``, ``opset``, ``classes``, ``sample_rate_hz``, ``clip_seconds``, ``parity``
        (of float32), with int8 ``int8`` (its differences, and what it was calibrated on), and with a data set
        ``measured``.

    Raises
    ------
    ModelError
        If the file is no model, the packages are missing, the target cannot be written, or the check fails.
    DataError
        If a label is unknown to the model, or clips cannot be read.
    """
    check_installed()
    classifier = load_classifier(path)
    target = out or Path(path).with_suffix(".int8.onnx" if int8 else ".onnx")
    _check_target(target, model=Path(path))
    clips = _Clips(classifier, dataset, skip_bad=skip_bad)
    tell = progress or (lambda *_: None)
    tell(0, 4, "tracing")
    graphs = graphs_of(classifier.card, classifier.model)
    data = _whole(classifier, graphs)
    tell(1, 4, "comparing with torch")
    plain, front_end = OnnxModel(data), OnnxModel(as_bytes(graphs.front_end))
    sounds = clips.some(PARITY_CLIPS)
    parity = compare(classifier, plain, front_end, probes(classifier, sounds))
    _check_parity(parity, target)
    sides = {"torch": classifier.probabilities, "onnx": _answering(plain)}
    result = _facts(classifier, target, parity, clips=len(sounds))
    if int8:
        tell(2, 4, "calibrating int8")
        data = _whole(classifier, quantised(graphs, clips.seen()))
        rough = OnnxModel(data)
        changed = compare(classifier, rough, front_end, probes(classifier, sounds))
        sides["int8"] = _answering(rough)
        result["int8"] = {**changed._asdict(), "calibrated_on": clips.calibrated_on}
    if len(clips.measured):
        tell(3, 4, "measuring")
        result["measured"] = clips.measure(sides)
    write_whole(target, data)
    tell(4, 4, "")
    return result | {"bytes": len(data), "skipped": clips.skipped}


class _Clips:
    """The data set's clips as the model hears them: those that calibrate int8, and those that are measured."""

    def __init__(self, classifier: Classifier, dataset: Dataset | None, *, skip_bad: bool) -> None:
        self.classifier, self.dataset, self.skip_bad = classifier, dataset, skip_bad
        self.calibration = self.measured = np.zeros(0, dtype=np.int64)
        self.held_out: bool | None = None
        self.skipped: list[str] = []
        self.calibrated_on = "one synthetic sound of each kind"
        if dataset is None:
            return
        check_labels(classifier, dataset)
        trained, _ = trained_rows(classifier, dataset)
        rows = np.arange(len(dataset.clips))
        if trained is None:  # another data set: nothing was seen in training, or it cannot be told
            self.calibration, self.measured = rows[::2], rows[1::2]
        else:
            self.calibration, self.measured = rows[trained], rows[~trained]
            self.held_out = bool(len(self.measured))

    def some(self, count: int) -> list[Wave]:
        """Clips from all over the measured ones, or where there are none over the others."""
        rows = self.measured if len(self.measured) else self.calibration
        return [wave for wave, _ in self._heard(_spread(rows, count))]

    def seen(self) -> Iterator[NDArray[np.float32]]:
        """Spectrograms (1, 3, bands, frames) that calibrate int8."""
        if self.dataset is None:
            seconds = self.classifier.samples / self.classifier.sample_rate_hz
            waves: Iterator[Wave] = synthetic_waves(seconds=seconds, sample_rate_hz=self.classifier.sample_rate_hz)
        else:
            rows = _spread(self.calibration, CALIBRATION_CLIPS)
            self.calibrated_on = f"{len(rows)} clips that are not measured"
            waves = (wave for wave, _ in self._heard(rows))
        for wave in waves:
            with torch.inference_mode():
                yield self.classifier.front_end(torch.from_numpy(wave)[None]).numpy()

    def measure(self, sides: dict[str, Callable[[Wave], NDArray[np.float32]]]) -> dict[str, Any]:
        """How right and how fast each side is on the measured clips, and how far the others are from torch."""
        scores = race(sides, self._batches())
        truth = np.concatenate(scores["torch"].probabilities)
        return {
            "clips": scores["torch"].clips,
            "held_out": self.held_out,
            "batch": _BATCH,
            "threads": torch.get_num_threads(),
            "sides": {name: _row(score, truth) for name, score in scores.items()},
        }

    def _batches(self) -> Iterator[tuple[Wave, NDArray[np.int64]]]:
        heard = self._heard(self.measured)
        while batch := list(islice(heard, _BATCH)):
            yield np.stack([wave for wave, _ in batch]), np.array([label for _, label in batch])

    def _heard(self, rows: NDArray[np.int64]) -> Iterator[tuple[Wave, int]]:
        """Waves of the clip's length with the numbers of their classes."""
        if self.dataset is None:
            return
        number = {name: index for index, name in enumerate(self.classifier.classes)}
        for row in rows:
            clip = self.dataset.clips[int(row)]
            try:
                wave, _ = self.classifier.heard(self.dataset.file(int(row)))
            except AudioError as error:
                if not self.skip_bad:
                    raise DataError(f"{error}\nMend or remove it, or leave it out with --skip-bad.") from error
                if clip.path not in self.skipped:
                    self.skipped.append(clip.path)
                continue
            yield audio.fit(wave, self.classifier.samples), number[clip.label]


def _spread(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most so many rows, evenly from all of them."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64)
    return rows[places]


def _whole(classifier: Classifier, graphs: Graphs) -> bytes:
    return as_bytes(joined(graphs, classifier.card, version=__version__))


def _answering(model: OnnxModel) -> Callable[[Wave], NDArray[np.float32]]:
    return lambda waves: model(waves)["probabilities"]


def _row(score: Score, truth: NDArray[np.float32]) -> dict[str, Any]:
    shares = np.concatenate(score.probabilities)
    interval = bootstrap_accuracy(score.hits, folds=np.zeros(score.clips, dtype=np.int64))
    return {
        "accuracy": float(score.hits.mean()),
        "ci95": [interval.low, interval.high],
        "clips_per_second": score.clips / score.seconds,
        "largest_difference": float(np.abs(shares - truth).max()),
        "other_labels": int((shares.argmax(axis=1) != truth.argmax(axis=1)).sum()),
    }


def _facts(classifier: Classifier, target: Path, parity: Parity, *, clips: int) -> dict[str, Any]:
    return {
        "file": str(target),
        "opset": OPSET,
        "classes": len(classifier.classes),
        "sample_rate_hz": classifier.sample_rate_hz,
        "clip_seconds": classifier.samples / classifier.sample_rate_hz,
        "parity": {**parity._asdict(), "allowed": ALLOWED, "clips_of_the_data_set": clips},
    }


def _check_target(target: Path, *, model: Path) -> None:
    """Refuse a place that cannot be written before the work that would be lost."""
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
    if (
        not max(parity.probabilities, parity.novelty or 0.0) <= ALLOWED
        or not parity.spectrograms <= ALLOWED_IN_PICTURES
    ):
        raise ModelError(
            f"{target}: not written, for ONNX Runtime does not answer as torch does: a probability differs by "
            f"{parity.probabilities:.1e} (of {parity.worst}), a spectrogram by {parity.spectrograms:.1e}, the novelty by "
            f"{parity.novelty or 0:.1e}; allowed are {ALLOWED:g}, {ALLOWED_IN_PICTURES:g} and {ALLOWED:g}. "
            "Use the model file itself, or another version of onnxruntime"
        )
