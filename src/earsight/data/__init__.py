"""Data sets and sound files: from a path to clips with folds, and from a clip to samples."""

from earsight.data.datasets import Clip, Dataset, Hints
from earsight.data.layouts import open_dataset

__all__ = ["Clip", "Dataset", "Hints", "open_dataset"]
