"""Data sets and sound files: from a path to clips with folds, and from a clip to samples."""

from earsight.data.annotations import Box, Boxes, read_boxes
from earsight.data.boxes import BoxRules, open_recordings
from earsight.data.datasets import Clip, Dataset, Hints
from earsight.data.layouts import open_dataset

__all__ = ["Box", "BoxRules", "Boxes", "Clip", "Dataset", "Hints", "open_dataset", "open_recordings", "read_boxes"]
