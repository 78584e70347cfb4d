"""Continual learning: stages learned one after another by one network, with a small memory of those before."""

from fastdc.applications.continual.course import continual_learning
from fastdc.applications.continual.result import ContinualResult
from fastdc.applications.continual.stages import split_classes

__all__ = ["ContinualResult", "continual_learning", "split_classes"]
