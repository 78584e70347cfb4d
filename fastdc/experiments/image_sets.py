"""Image sets of a few images per class, made once, each in a folder of its own.

Their source is the name of a coreset, which chooses real images, or the spec of a method, which learns synthetic ones.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastdc._condense import condense
from fastdc.condensed import CondensedDataset
from fastdc.coresets import SELECTIONS
from fastdc.data import ImageData
from fastdc.errors import UsageError, unknown_name
from fastdc.options.specs import split_spec
from fastdc.recipe import RECIPES, Recipe, check_method, recipe_named

Sizes = TypeVar("Sizes")


@dataclass(frozen=True, kw_only=True)
class ImageSetOptions:
    """How image sets are made, apart from their source and seed."""

    ipc: int
    """Images per class."""
    model: str
    """The network that they are learned with, or chosen by."""
    iterations: int | None
    """Of a method; None: those of its recipe."""
    batch_real: int | None
    """Real images of each class in a step of a method; None: those of its recipe."""
    whole_set_epochs: int
    """Of training the network by which a coreset chooses."""
    engine: str
    """As `fastdc.condense` takes it."""
    device: str
    """Likewise."""
    progress: bool
    """Say on stderr how far the work is."""
    distance: str | None = None
    """Of gradients, for methods; None: the method's own."""
    lr_images: float | None = None
    """Likewise the learning rate of the images."""
    scale: str = "paper"
    """Of a method's recipe."""
    budget: str | None = None
    """The time for a method, in the place of `iterations`."""


def check_source(what: str, name: str) -> None:
    """Raise a UsageError, which calls it `what`, unless `name` is a coreset or a method's spec."""
    if not isinstance(name, str) or split_spec(name)[0] not in (*SELECTIONS, *RECIPES):
        raise unknown_name(what, name, (*SELECTIONS, *RECIPES))
    if name in SELECTIONS:
        return
    if split_spec(name)[0] in SELECTIONS:
        raise UsageError(f"{what} {name!r} gives options; a coreset takes none here.")
    check_method(name)


def with_common_numbers(sizes: Sizes, sources: Iterable[str], scale: str = "paper") -> Sizes:
    """Sizes of an experiment whose `iterations` and `batch_real` are the paper's where they are None and all methods' recipes have these.

    Where a recipe has others None stays, and each method has its own.

    Args:
        sizes: a dataclass with these two fields.
        sources: coresets, which have neither, and methods.
        scale: of the recipes.

    Example:
        >>> from fastdc.experiments.continual.scale import SCALES
        >>> with_common_numbers(SCALES["paper"], ["random", "dc", "dsa"]).iterations, SCALES["paper"].iterations
        (1000, None)
        >>> with_common_numbers(SCALES["paper"], ["dc", "dm"]).iterations is None
        True
    """
    known: Any = sizes
    recipes = [recipe_named(source, scale) for source in sources if split_spec(source)[0] in RECIPES]
    learning = [recipe for recipe in recipes if recipe.iterations]
    missing = [name for name in ("iterations", "batch_real") if getattr(known, name) is None]
    usual = {name: getattr(Recipe, name) for name in missing}
    common = {name: value for name, value in usual.items() if all(getattr(recipe, name) == value for recipe in learning)}
    return dataclasses.replace(known, **common)


def make_image_set(source: str, train: ImageData, options: ImageSetOptions, seed: int, folder: Path, networks: Path) -> CondensedDataset:
    """The image set of a source in `folder`, made there unless it is; networks trained on the whole set are kept in `networks`.

    Raises:
        UsageError: something that cannot be used, or the folder holds another image set.
        RunError: the folder cannot be written, or something is not finite.
    """
    if source not in SELECTIONS:
        learns = recipe_named(source).iterations > 0
        return condense(
            train,
            options.ipc,
            model=options.model,
            method=source,
            distance=options.distance,
            lr_images=options.lr_images,
            scale=options.scale,
            iterations=options.iterations if learns and options.budget is None else None,
            budget=options.budget if learns else None,
            batch_real=options.batch_real,
            engine=options.engine,
            device=options.device,
            seed=seed,
            out=folder,
            progress=options.progress,
        )
    file = folder / "condensed.safetensors"
    if not file.exists():
        select = SELECTIONS[source]
        given: dict[str, Any] = {
            "model": options.model,
            "epochs": options.whole_set_epochs,
            "seed": seed,
            "engine": options.engine,
            "device": options.device,
            "cache": networks,
            "progress": options.progress,
        }
        chosen = select(train, options.ipc, **{key: given[key] for key in inspect.signature(select).parameters if key in given})
        folder.mkdir(parents=True, exist_ok=True)
        chosen.save_grid(folder / "condensed.png")
        chosen.save(file)
    return CondensedDataset.load(file)


def is_coreset(source: str) -> bool:
    """Whether a source gives real images, which can be kept as uint8; learned ones are float32."""
    return source in SELECTIONS
