"""Continual learning: stages learned one after another by one network, with a small memory of those before."""

from fastdc.experiments.continual.result import ContinualResult
from fastdc.experiments.continual.runner import continual_learning
from fastdc.experiments.continual.stages import split_classes

__all__ = ["ContinualResult", "continual_learning", "split_classes"]
