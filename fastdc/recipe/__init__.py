"""Recipes: a method is one loop with five choices, each of them a registry, and a line in `RECIPES`.

match: what is compared; pool: whose networks; batches: which real images; augmentation: what is done to both sides; formation: how
what is stored becomes images.
"""

from __future__ import annotations

from typing import Any, NoReturn

from fastdc.errors import UsageError
from fastdc.recipe.augmentations import AUGMENTATIONS, Augmentation
from fastdc.recipe.batches import BATCHES, Batches
from fastdc.recipe.formation import FORMATIONS, Formation
from fastdc.recipe.groups import ClassGroup
from fastdc.recipe.match import MATCHES, Match
from fastdc.recipe.optimizers import OPTIMIZERS, SCHEDULES, Optimizer
from fastdc.recipe.pools import POOLS, Pool
from fastdc.recipe.problem import Problem
from fastdc.recipe.recipe import Recipe
from fastdc.recipe.recipes import BUILT_IN, CHOICES, RECIPES, SCALES, check_choices, check_method, in_full, recipe_named, trains_networks
from fastdc.recipe.state import State

__all__ = [
    "AUGMENTATIONS",
    "BATCHES",
    "BUILT_IN",
    "CHOICES",
    "FORMATIONS",
    "MATCHES",
    "OPTIMIZERS",
    "POOLS",
    "RECIPES",
    "SCALES",
    "SCHEDULES",
    "Augmentation",
    "Batches",
    "ClassGroup",
    "Formation",
    "Match",
    "Optimizer",
    "Pool",
    "Problem",
    "Recipe",
    "State",
    "check_choices",
    "check_method",
    "in_full",
    "needs_whole_set",
    "recipe_named",
    "trains_networks",
]


def needs_whole_set(recipe: Recipe) -> bool:
    """Whether a process needs real images of all classes, where several share them."""
    return MATCHES.entry(recipe.match).needs_all_classes or POOLS.entry(recipe.pool).needs_whole_set(POOLS.options(recipe.pool))


def register(name: str, method: Any) -> NoReturn:
    """The way of version 0.1 to a method of one's own, refused with the present one.

    Raises:
        UsageError: always.
    """
    raise UsageError(
        f"methods are recipes now: make a subclass of fastdc.recipe.Match, name it by fastdc.recipe.MATCHES.add({name!r}, ...), "
        f"and give method=fastdc.Recipe(match={name!r}), or put that into fastdc.RECIPES."
    )
