"""What is compared in a matching step, and which way to move the images."""

from __future__ import annotations

from fastdc.options.registry import Registry
from fastdc.recipe.match.base import Match
from fastdc.recipe.match.characteristic import CharacteristicMatching
from fastdc.recipe.match.curriculum import Curriculum
from fastdc.recipe.match.dd import DatasetDistillation
from fastdc.recipe.match.features import FeatureMatching
from fastdc.recipe.match.gradients import GradientMatching
from fastdc.recipe.match.parameter_matching import ParameterMatching

__all__ = ["MATCHES", "Match"]

MATCHES: Registry[Match] = Registry(
    "match",
    {
        "gradients": GradientMatching,
        "features": FeatureMatching,
        "characteristic": CharacteristicMatching,
        "dd": DatasetDistillation,
        "parameter_matching": ParameterMatching,
        "curriculum": Curriculum,
    },
)
