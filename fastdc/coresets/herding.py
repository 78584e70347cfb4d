"""Herding: the images whose features have, at every number of them, nearly the mean of their class."""

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
def herding(
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
    """Choose `ipc` images of each class one by one, each the one that brings their mean nearest to the mean of the class.

    With m the mean of a class's features f and s the sum of those chosen before, the k-th is (Welling, ICML 2009)::

        argmin over i not yet chosen of  | m - (s + f_i) / k |.

    Args:
        data: as `fastdc.condense` takes it.
        ipc: images per class, or a list with a number for each.
        features: "network", what the last linear layer of a network reads that was trained on all of `data`; or "pixels",
            normalised ones, for which nothing is trained.
        model: the network: a name, or a function (channels, num_classes, (height, width)) -> nn.Module.
        epochs: of its training.
        seed: decides its initial weights and the order of batches; pixels leave nothing to it.
        engine: who trains it: "auto", "native", "cuda", "torch" or "reference".
        device: "auto", "cpu", "cuda" or "cuda:N".
        cache: the folder where trained networks are kept (see `fastdc.training.whole_set`). None: ~/.cache/fastdc/networks.
        progress: say on stderr how far the work is.

    Returns:
        The chosen images of each class, in the order in which they were chosen.

    Raises:
        UsageError: an argument that cannot be used, or an ipc above what any class has; or a list that asks more of a class
            than it has.
        DataError: a class without an image.
        RunError: a weight of the network is not finite.

    Example:
        >>> herding("digits", ipc=2, features="pixels").images.shape
        torch.Size([20, 1, 8, 8])
    """
    options = WholeSetOptions(model=model, epochs=epochs, seed=seed, engine=engine, device=device, cache=cache, progress=progress)
    return choose_by_features("herding", match_mean, data, ipc, features, options)


def match_mean(features: Tensor, count: int, block: int = BLOCK) -> Tensor:
    """The positions [count] of those features [n, F] that herding takes, in its order."""
    mean = mean_of(features, block)  # [F]
    total = torch.zeros_like(mean)
    taken = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    chosen = []
    for k in range(1, count + 1):
        # |mean - (total + f) / k| is |f - (k mean - total)| / k.
        distances = squared_distances(features, k * mean - total, block).masked_fill_(taken, math.inf)
        nearest = distances.argmin()
        taken[nearest] = True
        total += features[nearest]
        chosen.append(nearest)
    return torch.stack(chosen)
