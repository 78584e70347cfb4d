"""Ways of choosing real images: one file each, all `(data, ipc, *, seed=0, ...) -> CondensedDataset`, and a registry by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastdc.condensed import CondensedDataset
from fastdc.coresets.forgetting import forgetting
from fastdc.coresets.herding import herding
from fastdc.coresets.k_center import k_center
from fastdc.coresets.kmeans import kmeans
from fastdc.coresets.random import random

__all__ = ["SELECTIONS", "forgetting", "herding", "k_center", "kmeans", "random"]

SELECTIONS: Mapping[str, Callable[..., CondensedDataset]] = {
    "random": random,
    "kmeans": kmeans,
    "herding": herding,
    "k_center": k_center,
    "forgetting": forgetting,
}
