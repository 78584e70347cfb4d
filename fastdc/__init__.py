"""fastdc learns a few synthetic images per class that stand in for a whole training set."""

from fastdc import applications, callbacks, coresets, methods
from fastdc.condense import condense
from fastdc.condensed import CondensedDataset
from fastdc.data import ImageData, load_dataset
from fastdc.distance import match_loss
from fastdc.errors import DataError, FastdcError, Interrupted, MissingFileError, RunError, UsageError
from fastdc.evaluate import Evaluation, evaluate
from fastdc.info import versions
from fastdc.matcher import GradientMatcher

__version__ = versions()["fastdc"]

__all__ = [
    "CondensedDataset",
    "DataError",
    "Evaluation",
    "FastdcError",
    "GradientMatcher",
    "ImageData",
    "Interrupted",
    "MissingFileError",
    "RunError",
    "UsageError",
    "applications",
    "callbacks",
    "condense",
    "coresets",
    "evaluate",
    "load_dataset",
    "match_loss",
    "methods",
]
