"""K-center: images from which no other image of their class is far away."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdc.condensed import CondensedDataset
from fastdc.coresets.features import BLOCK, choose_by_features, mean_of, squared_distances
from fastdc.coresets.whole_set import EPOCHS, WholeSetOptions
from fastdc.models import ModelFactory
from fastdc.runtime.isolation import isolated


@isolated()
def k_center(
    data: Any,
    ipc: int,
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

    Args:
        data: as `fastdc.condense` takes it.
        ipc: images per class.
        features: "network", what the last linear layer of a network reads that was trained on all of `data`; or "pixels",
            normalised ones, for which nothing is trained.
        model: the network: a name, or a function (channels, num_classes, (height, width)) -> nn.Module.
        epochs: of its training.
        seed: decides its initial weights and the order of batches; pixels leave nothing to it.
        engine: who trains it: "auto", "native", "torch" or "reference".
        device: "auto", "cpu", "cuda" or "cuda:N".
        cache: the folder where trained networks are kept (see `fastdc.coresets.whole_set`). None: ~/.cache/fastdc/networks.
        progress: show a progress bar when stderr is a terminal.

    Returns:
        The chosen images of each class, in the order in which they were chosen.

    Raises:
        UsageError: an argument that cannot be used, or an ipc above what a class has.
        DataError: a class without an image.
        RunError: a weight of the network is not finite.

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
