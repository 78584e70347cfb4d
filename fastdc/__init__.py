"""fastdc learns a few synthetic images per class that stand in for a whole training set."""

import sys

from fastdc import callbacks, coresets, experiments, methods, metrics
from fastdc._condense import condense
from fastdc._evaluate import evaluate
from fastdc._match import GradientMatcher
from fastdc.condensed import CondensedDataset
from fastdc.data import ImageData, load_dataset
from fastdc.errors import DataError, FastdcError, Interrupted, MissingFileError, RunError, UsageError
from fastdc.metrics import match_loss
from fastdc.runtime.versions import versions
from fastdc.training.evaluation import Evaluation

# Names of version 0.1.
applications = experiments
sys.modules["fastdc.applications"], sys.modules["fastdc.distance"] = experiments, metrics

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
    "experiments",
    "load_dataset",
    "match_loss",
    "methods",
]
