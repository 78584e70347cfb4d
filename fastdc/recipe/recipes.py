"""Recipes: a method is one loop with five choices, and a line of the table below."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastdc.errors import unknown_name
from fastdc.options.registry import Registry
from fastdc.options.specs import split_spec, with_options
from fastdc.recipe.augmentations import AUGMENTATIONS
from fastdc.recipe.batches import BATCHES
from fastdc.recipe.formation import FORMATIONS
from fastdc.recipe.match import MATCHES
from fastdc.recipe.optimizers import OPTIMIZERS, SCHEDULES
from fastdc.recipe.pools import POOLS
from fastdc.recipe.recipe import Recipe
from fastdc.training.protocols import PROTOCOLS

# The five choices; in this order an option of a method's spec is looked for among those of its parts.
CHOICES: dict[str, Registry] = {  # type: ignore[type-arg]
    "match": MATCHES,
    "pool": POOLS,
    "batches": BATCHES,
    "augmentation": AUGMENTATIONS,
    "formation": FORMATIONS,
}


# Settings of the published methods, each a line.
RECIPES: dict[str, Recipe] = {
    "dc": Recipe(pool="fresh:train=synthetic"),
    "dd": Recipe(match="dd", matching_steps=1),
    "parameter_matching": Recipe(match="parameter_matching", matching_steps=1),
    "curriculum": Recipe(match="curriculum", matching_steps=10),
    "auto": Recipe(
        pool="fresh:train=real",
        formation="frequency",
        model="convnet:width=32",
        iterations=50,
        matching_steps=20,
        init="kmeans",
        lr_images=0.05,
        optimizer="adam:beta1=0.5,beta2=0.99",
        schedule="linear",
        batch_real=64,
    ),
    "untrained": Recipe(formation="frequency", init="kmeans", iterations=0),
    "dm": Recipe(match="features", augmentation="siamese", iterations=20000, matching_steps=1, init="real", lr_images=1.0, protocol="dsa"),
}


def recipe_named(method: str) -> Recipe:
    """The recipe that a method's spec names; each of its options is set in the first part that has one of that name.

    Raises:
        UsageError: an unknown method or option, or a value that cannot be used.

    >>> recipe_named("dd:unroll=20,networks=fixed").match, recipe_named("dd:unroll=20,networks=fixed").pool
    ('dd:unroll=20', 'fresh:networks=fixed')
    """
    name, options = split_spec(method) if isinstance(method, str) else (method, {})
    if name not in RECIPES:
        raise unknown_name("method", name, RECIPES)
    recipe = RECIPES[name]
    for key, value in options.items():
        places = {choice: registry.option_names(getattr(recipe, choice)) for choice, registry in CHOICES.items()}
        choice = next((choice for choice, names in places.items() if key in names), None)
        if choice is None:
            raise unknown_name(f"option of {name!r}", key, sorted({known for names in places.values() for known in names}))
        recipe = _with_choices(recipe, {choice: with_options(getattr(recipe, choice), **{key: value})})
    check_choices(recipe)
    return recipe


def check_choices(recipe: Recipe) -> None:
    """Raise a UsageError unless each choice names a known part with options that it takes, and optimizer,
    schedule and protocol are known."""
    for choice, registry in CHOICES.items():
        registry.options(getattr(recipe, choice))
    OPTIMIZERS.options(recipe.optimizer)
    if recipe.schedule not in SCHEDULES:
        raise unknown_name("schedule", recipe.schedule, SCHEDULES)
    PROTOCOLS.options(recipe.protocol)


def check_method(method: str) -> None:
    """Raise a UsageError unless `method` names a recipe, with options that its parts take."""
    recipe_named(method)


def in_full(recipe: Recipe) -> Recipe:
    """The recipe with every option of its choices, and of its optimizer, written out."""
    parts = {**CHOICES, "optimizer": OPTIMIZERS}
    return _with_choices(recipe, {part: registry.in_full(getattr(recipe, part)) for part, registry in parts.items()})


def trains_networks(recipe: Recipe) -> bool:
    """Whether networks are trained on the images between two steps, so that `model_epochs` has a meaning."""
    return POOLS.entry(recipe.pool).trains(POOLS.options(recipe.pool))


def _with_choices(recipe: Recipe, choices: dict[str, Any]) -> Recipe:
    return dataclasses.replace(recipe, **choices)
