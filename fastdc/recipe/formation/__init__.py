"""How what is stored and learned becomes images; an entry of `FORMATIONS` each."""

from __future__ import annotations

from collections.abc import Sequence

from fastdc.data import ImageData
from fastdc.options.registry import Registry
from fastdc.options.specs import format_spec, split_spec
from fastdc.recipe.formation.base import Formation, Scale
from fastdc.recipe.formation.frequency import Frequency
from fastdc.recipe.formation.plain import Plain
from fastdc.recipe.formation.tiles import Tiles

__all__ = ["FORMATIONS", "Formation", "Scale", "chosen_formation", "fitted_formation", "images_of_each"]

FORMATIONS: Registry[Formation] = Registry("formation", {"plain": Plain, "tiles": Tiles, "frequency": Frequency})


def chosen_formation(spec: str, real: ImageData, ipc: Sequence[int]) -> str:
    """The spec with options that were left open chosen for the real images and the number of images of each class."""
    return format_spec(split_spec(spec)[0], FORMATIONS.entry(spec).chosen(FORMATIONS.options(spec), real, ipc))


def images_of_each(spec: str) -> int:
    """How many images a stored item becomes by a formation of which no option is open."""
    return FORMATIONS.make(spec, Scale((0.0,), (1.0,)), {}).images_each


def fitted_formation(spec: str, real: ImageData) -> Formation:
    """The formation that a spec names, with what it takes from the real images.

    Raises:
        UsageError: an unknown formation, or one that leaves nothing of such images.
    """
    fitted = FORMATIONS.entry(spec).fit(real, FORMATIONS.options(spec))
    return FORMATIONS.make(spec, Scale(tuple(real.mean), tuple(real.std)), fitted)
