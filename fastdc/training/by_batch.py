"""One network and a large set of images: SGD over batches that are made as they are needed, and the share it classifies rightly.

Images stay uint8 and are normalised batch by batch, so that memory does not grow with the set. Momentum starts at zero, and again
where the learning rate changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fastdc.data import ImageData
from fastdc.engines import Augmentation, Engine, Sgd
from fastdc.engines.base import Batch, Fetch
from fastdc.errors import RunError
from fastdc.models.network import NetworkFamily
from fastdc.parallel.devices import to_device
from fastdc.runtime.seeding import derive_seed, make_generator
from fastdc.runtime.stopping import stop_point

BLOCK = 1000  # images normalised at once to be classified


def whole_batches(data: ImageData, theta: Tensor, positions: Tensor | None = None) -> Fetch:
    """Gives images of `data`, those at `positions` [n] or all, in the dtype and on the device of `theta`."""
    here = data.images.device
    labels = to_device(data.labels, here)
    chosen = None if positions is None else to_device(positions, here)

    def batch(index: Tensor) -> Batch:
        index = index if chosen is None else chosen[index]
        return Batch(data.normalised(index, theta.dtype, theta.device), to_device(labels[index], theta.device))

    return Fetch(batch, here, data.image_size, data.num_classes)


def train_by_batch(
    engine: Engine,
    family: NetworkFamily,
    theta: Tensor,
    count: int,
    fetch: Fetch,
    phases: Sequence[Sgd],
    seed: int,
    stream: str,
    *,
    augment: Augmentation | None = None,
) -> Iterator[None]:
    """Train `theta` [P] in place on `count` images; one item after each step, the weights being up to date at the end of each epoch.

    Args:
        engine: who computes.
        family: what the network is one of.
        theta: weights, changed.
        count: images in the set.
        fetch: makes the batches.
        phases: of SGD, one after the other.
        seed: decides the order of the images, and what dropout draws.
        stream: the name of this training among all that draw from `seed`.
        augment: what is done to each batch.
    """
    order, changes, step = make_generator(seed, f"{stream} order"), make_generator(seed, f"{stream} augmentation"), 0
    for phase in phases:
        orders = (torch.randperm(count, generator=order) for _ in range(phase.epochs))
        steps = engine.training(theta, phase).steps(orders, fetch, augment, changes)
        for _ in range(phase.epochs * math.ceil(count / phase.batch)):
            with family.seeded_training(derive_seed(seed, f"{stream} dropout", step)):
                next(steps)
            step += 1
            yield


def logits_by_block(engine: Engine, theta: Tensor, data: ImageData) -> Iterator[tuple[slice, Tensor]]:
    """The logits of all images of `data`, a block of them at a time: where they lie, and [block, num_classes]."""
    for start in range(0, len(data), BLOCK):
        stop_point()
        block = slice(start, min(start + BLOCK, len(data)))
        yield block, engine.logits(theta, data.normalised(block, theta.dtype, theta.device))


def check_finite(theta: Tensor, what: str) -> None:
    """Raise a RunError where the weights of a trained network are not finite: such a network names any class, and that is no accuracy."""
    if not torch.isfinite(theta).all():
        raise RunError(
            f"the weights of {what} are not finite after its training; look for images far outside the usual range, or take another model."
        )


def confusion(engine: Engine, theta: Tensor, data: ImageData) -> Tensor:
    """How often images of each class (a row) are taken for each class (a column): counts, int64 [C, C], on the CPU."""
    found = torch.cat([logits.argmax(1) for _, logits in logits_by_block(engine, theta, data)]).cpu()  # [N]
    pairs = data.labels.cpu() * data.num_classes + found
    return torch.bincount(pairs, minlength=data.num_classes**2).view(data.num_classes, data.num_classes)


def accuracy(engine: Engine, theta: Tensor, data: ImageData) -> float:
    """The share of the images of `data` that the network with weights `theta` [P] classifies rightly."""
    blocks = logits_by_block(engine, theta, data)
    right = [(logits.argmax(1) == to_device(data.labels[block], theta.device)).sum() for block, logits in blocks]
    return int(torch.stack(right).sum()) / len(data)
