"""fastdc learns a few synthetic images per class that stand in for a whole training set."""

import sys

from fastdc import callbacks, coresets, experiments, metrics, recipe
from fastdc._condense import condense
from fastdc._estimate import Estimate, estimate
from fastdc._evaluate import evaluate
from fastdc._match import GradientMatcher
from fastdc.condensed import CondensedDataset
from fastdc.data import ImageData, load_dataset
from fastdc.errors import DataError, FastdcError, Interrupted, MissingFileError, RunError, UsageError
from fastdc.metrics import match_loss
from fastdc.recipe import RECIPES, Recipe
from fastdc.runtime.versions import versions
from fastdc.training.evaluation import Evaluation

# Names of version 0.1.
applications, methods = experiments, recipe
sys.modules |= {"fastdc.applications": experiments, "fastdc.distance": metrics, "fastdc.methods": recipe}

__version__ = versions()["fastdc"]

__all__ = [
    "RECIPES",
    "CondensedDataset",
    "DataError",
    "Estimate",
    "Evaluation",
    "FastdcError",
    "GradientMatcher",
    "ImageData",
    "Interrupted",
    "MissingFileError",
    "Recipe",
    "RunError",
    "UsageError",
    "applications",
    "callbacks",
    "condense",
    "coresets",
    "estimate",
    "evaluate",
    "experiments",
    "load_dataset",
    "match_loss",
    "methods",
    "recipe",
]
