"""Recipes: a method is one loop with five choices, and a line of the table below."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastdc.errors import UsageError, unknown_name
from fastdc.options.registry import Registry
from fastdc.options.specs import split_spec, with_options
from fastdc.recipe.augmentations import AUGMENTATIONS
from fastdc.recipe.batches import BATCHES
from fastdc.recipe.formation import FORMATIONS
from fastdc.recipe.match import MATCHES
from fastdc.recipe.optimizers import OPTIMIZERS, SCHEDULES
from fastdc.recipe.pools import POOLS
from fastdc.recipe.pools.training import SIAMESE
from fastdc.recipe.recipe import Recipe
from fastdc.training.operations import chosen_operations
from fastdc.training.protocols import PROTOCOLS

# The five choices; in this order an option of a method's spec is looked for among those of its parts.
CHOICES: dict[str, Registry] = {  # type: ignore[type-arg]
    "match": MATCHES,
    "pool": POOLS,
    "batches": BATCHES,
    "augmentation": AUGMENTATIONS,
    "formation": FORMATIONS,
}


_IDC_TRAINING = "train=real,augmentation=color+crop,cutmix=0.5"
_ALL_OF_THREE = "siamese:operations=color+crop+cutout,mode=all"
_IDC = Recipe(
    pool=f"fresh:{_IDC_TRAINING}",
    augmentation=_ALL_OF_THREE,
    formation="tiles:clamp=true",
    iterations=2000,
    matching_steps=100,
    init="real",
    lr_images_each=2 * 7.66e-6,  # which with all classes in one step and no momentum is the authors' 7.66e-6 a class with 0.5
    optimizer="sgd:momentum=0.0,pixels=true",
    batch_real=64,
    distance="l1:rows=convolutions",
    protocol="idc",
)
_DANCE = Recipe(
    match="features:cross_entropy=1",
    pool="pretrained:networks=20,epochs=60,augmented=true,change=interpolate",
    augmentation=_ALL_OF_THREE,
    formation="tiles:clamp=true",
    iterations=10000,
    matching_steps=1,
    init="real",
    lr_images_each=0.01,
    optimizer="sgd:pixels=true",
    batch_real=128,
    protocol="idc",
)
_AUTO = Recipe(
    pool="fresh:train=real",
    formation="frequency",
    model="convnet:width=32",
    iterations=50,
    matching_steps=20,
    init="kmeans",
    lr_images=0.1,
    optimizer="adam:beta1=0.5,beta2=0.99",
    schedule="linear",
    batch_real=64,
    distance="mse:rows=convolutions",
)

# Settings of the published methods, each a line.
RECIPES: dict[str, Recipe] = {
    "dc": Recipe(pool="fresh:train=synthetic"),
    "dd": Recipe(match="dd", matching_steps=1),
    "parameter_matching": Recipe(match="parameter_matching", matching_steps=1),
    "curriculum": Recipe(match="curriculum", matching_steps=10),
    "dsa": Recipe(pool="fresh:train=synthetic,augmentation=siamese", augmentation="siamese", init="real", protocol="dsa"),
    "dm": Recipe(match="features", augmentation="siamese", iterations=20000, matching_steps=1, init="real", lr_images=1.0, protocol="dsa"),
    "idc": _IDC,
    "dream": replace(
        _IDC, pool=f"fresh:{_IDC_TRAINING},batch=128", batches="representatives:every=10", iterations=250, init="kmeans", batch_real=128
    ),
    "accdd": replace(_IDC, pool=f"pretrained:{_IDC_TRAINING},networks=5,epochs=2,augmented=true,change=perturb", iterations=400),
    "dance": _DANCE,
    "ncfm": replace(
        _DANCE,
        match="characteristic:frequencies=4096,cross_entropy=1",
        iterations=20000,
        lr_images=0.01,  # of normalised pixels: about as far in a step as the authors' twenty with 0.001 of pixels, and so is the decay
        lr_images_each=None,
        optimizer="adam:decay=0.001",
        batch_real=1024,
    ),
    "auto": _AUTO,
    "untrained": Recipe(formation=_AUTO.formation, init=_AUTO.init, iterations=0),
}
BUILT_IN = tuple(RECIPES)  # without those that others put there

# What a recipe changes at a scale: "paper" is as published; "laptop" is for two cores, fewer steps at larger rates on narrower networks.
_NARROW: dict[str, Any] = {"model": "convnet:width=32", "batch_real": 64}
_FALLING: dict[str, Any] = {"optimizer": "sgd:pixels=true", "schedule": "linear"}
_FEW_NETWORKS: dict[str, Any] = {
    "pool": "pretrained:networks=5,augmented=true,change=interpolate",
    "iterations": 1000,
    "schedule": "linear",
}
SCALES: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {},
    "laptop": {
        "dc": {**_NARROW, "iterations": 100},
        "dd": {**_NARROW, "iterations": 100},
        "parameter_matching": {**_NARROW, "iterations": 100},
        "curriculum": {**_NARROW, "iterations": 100},
        "dsa": {**_NARROW, "iterations": 100},
        "dm": {**_NARROW, "iterations": 1000},
        "idc": {**_NARROW, **_FALLING, "iterations": 20, "matching_steps": 50, "lr_images_each": 5e-5},
        "dream": {**_NARROW, **_FALLING, "iterations": 20, "matching_steps": 50, "lr_images_each": 5e-5},
        "accdd": {**_NARROW, **_FALLING, "iterations": 20, "matching_steps": 50, "lr_images_each": 5e-5},
        "dance": {**_NARROW, **_FEW_NETWORKS},
        "ncfm": {**_NARROW, **_FEW_NETWORKS, "match": "characteristic:frequencies=256,cross_entropy=1", "batch_real": 128},
    },
}

# What a recipe changes from so many images per class on, at every scale. With more images, each of them has less to say about its class,
# and networks learn more of it when it is changed in each batch; and the real images that it is compared with must tell more as well.
FROM_IPC: dict[str, dict[float, dict[str, Any]]] = {
    "dm": {100: {"lr_images": 10.0}},
    "auto": {
        5: {"augmentation": "siamese", "protocol": "dsa"},
        30: {"batch_real": 256},
    },
}


def recipe_named(method: str, scale: str = "paper", ipc: float = 1) -> Recipe:
    """The recipe that a method's spec names; each of its options is set in the first part that has one of that name.

    Args:
        method: a name in `RECIPES`, perhaps with options.
        scale: a name in `SCALES`.
        ipc: images per class, their mean where classes differ.

    Raises:
        UsageError: an unknown method, scale or option, or a value that cannot be used.

    >>> recipe_named("dd:unroll=20,networks=fixed").match, recipe_named("dd:unroll=20,networks=fixed").pool
    ('dd:unroll=20', 'fresh:networks=fixed')
    """
    name, options = split_spec(method) if isinstance(method, str) else (method, {})
    if not isinstance(name, str) or name not in RECIPES:
        raise unknown_name("method", name, RECIPES)
    if not isinstance(scale, str) or scale not in SCALES:
        raise unknown_name("scale", scale, SCALES)
    recipe = replace(RECIPES[name], **SCALES[scale].get(name, {}))
    for least, changes in FROM_IPC.get(name, {}).items():
        if ipc >= least:
            recipe = replace(recipe, **changes)
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
    if not isinstance(recipe.schedule, str) or recipe.schedule not in SCHEDULES:
        raise unknown_name("schedule", recipe.schedule, SCHEDULES)
    PROTOCOLS.options(recipe.protocol)


def check_method(method: str) -> None:
    """Raise a UsageError unless `method` names a recipe, with options that its parts take."""
    recipe_named(method)


def in_full(recipe: Recipe, dataset: str = "data") -> Recipe:
    """The recipe with every option of its choices, and of its optimizer, written out.

    Args:
        recipe: whose choices are known.
        dataset: the name of that which it is to learn from, for which operations are chosen that it leaves open.

    Raises:
        UsageError: networks are to learn by the operations of an augmentation that names none.
    """
    recipe = replace(recipe, augmentation=chosen_operations(recipe.augmentation, AUGMENTATIONS, dataset))
    parts = {**CHOICES, "optimizer": OPTIMIZERS}
    full = _with_choices(recipe, {part: registry.in_full(getattr(recipe, part)) for part, registry in parts.items()})
    return _with_choices(full, {"pool": _with_operations(full.pool, full.augmentation)})


def _with_operations(pool: str, augmentation: str) -> str:
    """The spec of a pool with the operations of both sides in the place of "siamese"."""
    if getattr(POOLS.options(pool), "augmentation", None) != SIAMESE:
        return pool
    operations = AUGMENTATIONS.make(augmentation, 0).operations
    if operations is None:
        raise UsageError(
            f"pool {pool!r} is to train networks by the operations of augmentation {augmentation!r}, which says none; name them, as in "
            "pool='fresh:train=synthetic,augmentation=color+crop', or 'none'."
        )
    return with_options(pool, augmentation="+".join(operations) or "none")


def trains_networks(recipe: Recipe) -> bool:
    """Whether networks are trained on the images between two steps, so that `model_epochs` has a meaning."""
    return POOLS.entry(recipe.pool).trains(POOLS.options(recipe.pool))


def _with_choices(recipe: Recipe, choices: dict[str, Any]) -> Recipe:
    return replace(recipe, **choices)
