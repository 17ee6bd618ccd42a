"""What a fitted network's training clips look like to it, and how far from them the held-out clips are.

Comes in: a fitted model and its rows. Goes out: the `Reference` for the model file, and distances (test rows,) for
``predictions.npz``, from which `earsight calibrate` takes the threshold of *unknown*.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from earsight.models.reference import Reference, has_features, measure_reference, seen_by
from earsight.training.loop import Data

BATCH = 32


def known_sounds(
    model: nn.Module,
    data: Data,
    *,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    logits: NDArray[np.float32],
) -> tuple[Reference | None, NDArray[np.float64] | None]:
    """The reference of the training rows, unchanged by augmentation, and the distance of the test rows from it.

    Parameters
    ----------
    model : nn.Module
    data : Data
    train, test : ndarray of int64
        Rows.
    logits : ndarray of float32, shape (test rows, classes)
        What the model says of the test rows.

    Returns
    -------
    reference : Reference or None
    distance : ndarray of float64, shape (test rows,), or None
        Both None where the network cannot be asked for what its last layer takes.
    """
    head = model.get_classifier() if has_features(model) else None  # type: ignore[operator]
    if not isinstance(head, nn.Linear):
        return None, None
    again, features = _seen(model, data, test)
    # A head that does more than its classifier (a scale, a second classifier) has no features in this sense.
    if not np.allclose(again, logits, atol=1e-4, rtol=1e-4):
        return None, None
    reference = measure_reference(_seen(model, data, train)[1].numpy(), data.labels[train], classes=data.classes)
    return reference, None if reference is None else reference.distance(features)


def _seen(model: nn.Module, data: Data, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], torch.Tensor]:
    """Logits and features of unchanged pictures, on the CPU."""
    model.eval()
    logits, features = [], []
    with torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            said, seen = seen_by(model, data.pictures(rows[start : start + BATCH]))
            logits.append(said.float().cpu())
            features.append(seen.float().cpu())
    return torch.cat(logits).numpy(), torch.cat(features)
