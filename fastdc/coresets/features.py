"""Features of real images, one class at a time, and the choice of images by their distances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastdc.condensed import CondensedDataset
from fastdc.coresets.choice import check_ipc, choice_by_class, chosen_images
from fastdc.data import ImageData, as_image_data
from fastdc.engines import Engine, make_engine
from fastdc.errors import UsageError, unknown_name
from fastdc.parallel.devices import resolve_device
from fastdc.parallel.world import shared
from fastdc.runtime.isolation import isolated
from fastdc.training.whole_set import WholeSetOptions, train_on_whole_set

FEATURES = ("network", "pixels")
BLOCK = 64  # rows of features that are widened to float64 at once: a MiB at 2,048 features, which stays in the cache
_IMAGES = 256  # that go through the network at once

# Features [n, F] of one class and a count -> positions [count] of different rows, in the order in which they are chosen
Pick = Callable[[Tensor, int], Tensor]


@shared
def choose_by_features(
    coreset: str, pick: Pick, data: Any, ipc: int | Sequence[int], features: str, options: WholeSetOptions
) -> CondensedDataset:
    """Let `pick` choose `ipc` images of each class by their features.

    Args:
        coreset: the name of the choice.
        pick: makes it.
        data: as `fastdc.condense` takes it.
        ipc: images per class, or a list with a number for each.
        features: "network" or "pixels".
        options: of the network, and seed, device and progress.

    Raises:
        UsageError: an argument that cannot be used, or an ipc above what any class has; or a list that asks more of a class
            than it has.
        DataError: a class without an image.
        RunError: a weight of the network is not finite.
    """
    if features not in FEATURES:
        raise unknown_name("features", features, FEATURES)
    options.check()
    where = resolve_device(options.device)
    real = as_image_data(data)
    numbers = check_ipc(real, ipc)
    network = train_on_whole_set(real, options) if features == "network" else None
    engine = make_engine(options.engine, network.module) if network is not None else None
    all_members = real.class_members

    def choose(number: int) -> Tensor:
        members = all_members[number]
        rows = network_features(engine, real, members) if engine is not None else pixel_features(real, members).to(where)
        return members[pick(rows, numbers[number]).cpu()]

    positions = choice_by_class(choose, numbers, f"choosing by {coreset}", options.progress)
    return chosen_images(real, positions, coreset=coreset, seed=options.seed, options={"features": features}, network=network)


def pixel_features(real: ImageData, index: Tensor) -> Tensor:
    """The normalised pixels of the images at `index` [n], float32 [n, channels * H * W]."""
    return real.normalised(index).flatten(1)


@isolated()
def network_features(engine: Engine, real: ImageData, index: Tensor) -> Tensor:
    """What the last nn.Linear of an engine's network reads for the images at `index` [n], float32 [n, F] on the network's device.

    Raises:
        UsageError: a network that calls no nn.Linear, or whose last one does not read one row for each image.
    """
    theta = engine.layout.flatten(engine.module)
    try:
        return torch.cat(
            [engine.features(theta, real.normalised(part, theta.dtype, theta.device)).float() for part in index.split(_IMAGES)]
        )
    except UsageError as why:
        raise UsageError(f"{str(why).removesuffix('.')}, or use features='pixels'.") from None


def mean_of(features: Tensor, block: int = BLOCK) -> Tensor:
    """The mean of features [n, F], float64 [F], without a copy of them all."""
    return torch.stack([part.double().sum(0) for part in features.split(block)]).sum(0) / len(features)


def squared_distances(features: Tensor, point: Tensor, block: int = BLOCK) -> Tensor:
    """|f - point|^2 for each of features [n, F], float64 [n], in double, a block of rows at a time."""
    point = point.double()
    return torch.cat([(part.double() - point).square_().sum(1) for part in features.split(block)])
