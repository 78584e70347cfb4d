"""K-center: images from which no other image of their class is far away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdc.condensed import CondensedDataset
from fastdc.coresets.features import BLOCK, choose_by_features, mean_of, squared_distances
from fastdc.models import ModelFactory
from fastdc.runtime.public import public
from fastdc.training.whole_set import EPOCHS, WholeSetOptions


@public
def k_center(
    data: Any,
    ipc: int | Sequence[int],
    *,
    features: str = "network",
    model: str | ModelFactory = "convnet",
    epochs: int = EPOCHS,
    seed: int = 0,
    engine: str = "auto",
    device: str = "auto",
    cache: str | Path | None = None,
    progress: bool = True,
) -> CondensedDataset:
    """Choose `ipc` images of each class so that the largest distance of any image of the class from them is small.

    The first is the one nearest to the mean of the class, each further one the farthest from those chosen before: the greedy
    algorithm (Sener & Savarese, ICLR 2018; Gonzalez, 1985), whose largest distance is at most twice the smallest possible.

    Arguments and errors are those of `fastdc.coresets.herding`.

    Returns:
        The chosen images of each class, in the order in which they were chosen.

    Example:
        >>> k_center("digits", ipc=2, features="pixels").images.shape
        torch.Size([20, 1, 8, 8])
    """
    options = WholeSetOptions(model=model, epochs=epochs, seed=seed, engine=engine, device=device, cache=cache, progress=progress)
    return choose_by_features("k_center", farthest_first, data, ipc, features, options)


def farthest_first(features: Tensor, count: int, block: int = BLOCK) -> Tensor:
    """The positions [count] of those features [n, F] that the greedy k-center algorithm takes, in its order."""
    distances = torch.full((len(features),), math.inf, dtype=torch.float64, device=features.device)  # from the nearest centre
    centre = squared_distances(features, mean_of(features, block), block).argmin()
    chosen = []
    for _ in range(count):
        chosen.append(centre)
        distances = torch.minimum(distances, squared_distances(features, features[centre], block))
        distances[centre] = -1  # below all others for good: no image is taken twice, even where several are alike
        centre = distances.argmax()
    return torch.stack(chosen)
