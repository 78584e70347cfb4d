"""Forgetting: the images that a network in training forgets most often."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fastdc.condensed import CondensedDataset
from fastdc.coresets.choice import check_ipc, chosen_images
from fastdc.data import as_image_data
from fastdc.models import ModelFactory
from fastdc.runtime.public import public
from fastdc.runtime.seeding import make_generator
from fastdc.training.whole_set import EPOCHS, WholeSetOptions, train_on_whole_set


@public
def forgetting(
    data: Any,
    ipc: int | Sequence[int],
    *,
    model: str | ModelFactory = "convnet",
    epochs: int = EPOCHS,
    seed: int = 0,
    engine: str = "auto",
    device: str = "auto",
    cache: str | Path | None = None,
    progress: bool = True,
) -> CondensedDataset:
    """Choose the `ipc` images of each class that a network forgets most often while it learns the whole set.

    An image is forgotten when it is classified rightly after one epoch and wrongly after the next; one that is never
    classified rightly counts as forgotten infinitely often; among equals the seed chooses (Toneva et al., ICLR 2019, who look
    at each image when its batch is learned: here all are looked at after each epoch, by the same weights).

    Args:
        data: as `fastdc.condense` takes it.
        ipc: images per class, or a list with a number for each.
        model: the network to train: a name, or a function (channels, num_classes, (height, width)) -> nn.Module.
        epochs: of its training.
        seed: decides initial weights, the order of batches, and the choice among equals.
        engine: "auto", "native", "cuda", "torch" or "reference".
        device: "auto", "cpu", "cuda" or "cuda:N".
        cache: the folder where trained networks are kept (see `fastdc.training.whole_set`). None: ~/.cache/fastdc/networks.
        progress: say on stderr how far the work is.

    Returns:
        The chosen images, the most often forgotten of each class first.

    Raises:
        UsageError: an argument that cannot be used, or an ipc above what any class has; or a list that asks more of a class
            than it has.
        DataError: a class without an image.
        RunError: a weight of the network is not finite.

    Example:
        >>> from fastdc.models import build
        >>> forgetting("digits", ipc=1, model=lambda *shape: build("mlp:width=16", *shape), epochs=2).images.shape
        torch.Size([10, 1, 8, 8])
    """
    options = WholeSetOptions(model=model, epochs=epochs, seed=seed, engine=engine, device=device, cache=cache, progress=progress)
    real = as_image_data(data)
    numbers = check_ipc(real, ipc)
    network = train_on_whole_set(real, options)
    generator = make_generator(seed, "forgetting")
    positions = []
    for members, count in zip(real.class_members, numbers, strict=True):
        shuffled = members[torch.randperm(len(members), generator=generator)]
        positions.append(shuffled[network.forgetting[shuffled].argsort(descending=True, stable=True)[:count]])
    return chosen_images(real, positions, coreset="forgetting", seed=seed, network=network)
