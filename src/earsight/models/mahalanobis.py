"""Mahalanobis distance of a sound's features from the training clips, as an OOD score.

Comes in: features (clips, channels) float32, the inputs of a network's classifier, and labels (clips,). Goes out:
`MahalanobisStatistics`, which the model file keeps beside the weights, and distances (clips,) without unit: about 1 for
sounds like those that trained the network, higher for others.

The distance is to the nearest class mean (Lee et al. 2018), of features normalised to length 1, because their length
also grows with loudness. All classes share one covariance. Clips are fewer than channels, so it is shrunk halfway to
equal variances, and kept as its leading directions and one variance for the rest. K. Lee et al., "A Simple
Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from earsight.errors import ModelError
from earsight.models.ensemble import Ensemble

DIRECTIONS = 64
SHRINKAGE = 0.5
_ATTRIBUTE = "_earsight_mahalanobis"


@dataclass(frozen=True)
class MahalanobisStatistics:
    """Class means and common covariance of the training clips' features.

    ``means``, float32 of shape (classes, channels), are of features of length 1. ``directions``, (directions,
    channels): the leading eigenvectors of the covariance within classes, orthonormal. ``variances``, (directions + 1,):
    along each direction; the last one is for all other directions.
    """

    means: Tensor
    directions: Tensor
    variances: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """The tensors for a model file."""
        return {"means": self.means, "directions": self.directions, "variances": self.variances}

    def distance(self, features: Tensor) -> NDArray[np.float64]:
        """Mahalanobis distance to the nearest class, shape (clips,), of features (clips, channels)."""
        return np.asarray(self.distances(features.detach().cpu()).numpy())

    def distances(self, features: Tensor) -> Tensor:
        """`distance` as a tensor of float64, in operations that ONNX has too."""
        unit = features.double()
        unit = unit / torch.clamp(unit.square().sum(dim=1, keepdim=True).sqrt(), min=1e-12)
        means, directions, variances = (part.double() for part in (self.means, self.directions, self.variances))
        # |x - m|² without an array of (clips, classes, channels), which many classes would make large.
        whole = unit.square().sum(dim=1)[:, None] + means.square().sum(dim=1) - 2 * unit @ means.T
        along = ((unit @ directions.T)[:, None] - (means @ directions.T)).square()
        rest = torch.clamp(whole - along.sum(dim=2), min=0)
        squared = (along / variances[:-1]).sum(dim=2) + rest / variances[-1]
        return torch.sqrt(squared.amin(dim=1) / means.shape[1])


def mahalanobis_statistics(
    features: NDArray[np.floating], labels: NDArray[Any], *, classes: int
) -> MahalanobisStatistics | None:
    """Statistics of training clips' features (clips, channels); None if all clips of each class have equal features.

    ``labels`` is (clips,); each class has a clip. Of several labels they are (clips, classes): a clip counts for the
    mean of each of its classes, and as apart from the nearest of them (of all, if it has none); a class without a clip
    has the mean of all clips.
    """
    unit = features.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    if labels.ndim == 2:
        means = np.stack([unit[mine if mine.any() else slice(None)].mean(axis=0) for mine in (labels == 1).T])
        squares = (means**2).sum(axis=1) - 2 * unit @ means.T
        own = (labels == 1) | ~(labels == 1).any(axis=1, keepdims=True)
        apart = unit - means[np.where(own, squares, np.inf).argmin(axis=1)]
    else:
        means = np.stack([unit[labels == label].mean(axis=0) for label in range(classes)])
        apart = unit - means[labels]
    clips, channels = apart.shape
    _, lengths, directions = np.linalg.svd(apart / max(clips - classes, 1) ** 0.5, full_matrices=False)
    along = lengths**2
    equal = along.sum() / channels
    if not equal > 0:
        return None
    kept = min(DIRECTIONS, len(along), channels - 1)
    others = along[kept:].sum() / (channels - kept)
    variances = (1 - SHRINKAGE) * np.append(along[:kept], others) + SHRINKAGE * equal
    return MahalanobisStatistics(
        *(torch.from_numpy(part.astype(np.float32)) for part in (means, directions[:kept], variances))
    )


def statistics_from_tensors(tensors: Mapping[str, Tensor], *, classes: int) -> MahalanobisStatistics:
    """The statistics that `MahalanobisStatistics.tensors` gave.

    ModelError if the tensors do not fit each other, or the classes.
    """
    if set(tensors) != {"means", "directions", "variances"}:
        raise ModelError(
            f"Mahalanobis statistics of {', '.join(sorted(tensors))}; expected means, directions and variances"
        )
    found = MahalanobisStatistics(**tensors)
    rows, channels = tuple(found.means.shape) if found.means.ndim == 2 else (0, 0)
    wanted = (classes, (found.variances.numel() - 1, channels))
    fits = (rows, tuple(found.directions.shape)) == wanted and found.variances.ndim == 1 and channels > 0
    if not fits or {value.dtype for value in tensors.values()} != {torch.float32}:
        raise ModelError(f"Mahalanobis statistics whose parts do not fit each other or {classes} classes")
    if not bool((found.variances > 0).all()):
        raise ModelError("Mahalanobis statistics with a variance of 0 or below")
    return found


def attach_statistics(network: nn.Module, statistics: MahalanobisStatistics | None) -> None:
    """Attach statistics to a network, or remove them with None. Its state dict does not change.

    ModelError if they have other channels than the network's classifier takes.
    """
    classifier: Any = network.get_classifier() if has_features(network) else None  # type: ignore[operator]
    if statistics is not None and getattr(classifier, "in_features", None) != statistics.means.shape[1]:
        raise ModelError(f"Mahalanobis statistics of {statistics.means.shape[1]} channels, which the network has not")
    setattr(network, _ATTRIBUTE, statistics)


def statistics_of(model: nn.Module) -> tuple[MahalanobisStatistics | None, ...]:
    """The statistics attached to a single network, or to each member of an ensemble."""
    networks = model.networks if isinstance(model, Ensemble) else [model]
    return tuple(getattr(network, _ATTRIBUTE, None) for network in networks)


def has_features(network: nn.Module) -> bool:
    """Whether a network has timm's methods for the features that its classifier takes."""
    return all(hasattr(network, name) for name in ("forward_features", "forward_head", "get_classifier"))


def logits_and_features(network: nn.Module, spectrograms: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (batch, classes) of normalised spectrograms, and the features (batch, channels) behind them."""
    parts: Any = network
    if hasattr(parts, "logits_and_features"):  # computed together
        logits, features = parts.logits_and_features(spectrograms)
        return logits, features
    features = parts.forward_head(parts.forward_features(spectrograms), pre_logits=True)
    return parts.get_classifier()(features), features
