"""Training plans: on which images of the whole set a network is trained, and by which SGD; all of it, or until it is stopped early."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from fastdc.engines import Sgd
from fastdc.runtime.seeding import make_generator
from fastdc.training.schedule import paper_training

BATCH = paper_training(1)[0].batch  # of the training on the whole set


class TrainingPart(NamedTuple):
    """One part of a training plan: images of the whole set, and the phases of SGD on them."""

    positions: Tensor  # [n]
    phases: list[Sgd]


def whole_set_plan(count: int, epochs: int) -> list[TrainingPart]:
    """All of `count` images for some epochs, by the paper's training."""
    return [TrainingPart(torch.arange(count), paper_training(epochs))]


def early_stopping_plan(count: int, steps: int, seed: int) -> list[TrainingPart]:
    """`steps` full batches in all, at a tenth of the learning rate in the second half; no image again before each was seen.

    >>> [(len(positions), sgd.epochs, round(sgd.lr, 3)) for positions, (sgd,) in early_stopping_plan(1000, steps=5, seed=0)]
    [(768, 1, 0.01), (512, 1, 0.001)]
    """
    phases = paper_training(steps)  # their epochs are the steps
    generator = make_generator(seed, "early stopping")
    order = torch.cat([torch.randperm(count, generator=generator) for _ in range(math.ceil(steps * BATCH / count))])
    sizes = [phase.epochs * BATCH for phase in phases]
    parts = order[: sum(sizes)].split(sizes)
    return [TrainingPart(part, [dataclasses.replace(phase, epochs=1)]) for part, phase in zip(parts, phases, strict=True)]


def early_steps(images: int, phases: Iterable[Sgd]) -> int:
    """How many steps of SGD a training on so few images takes, by the phases of a protocol: what early stopping may take on the whole set.

    >>> from fastdc.training.schedule import idc_training
    >>> early_steps(100, paper_training(100)), early_steps(500, paper_training(100)), early_steps(100, idc_training(100))
    (100, 200, 200)
    """
    return sum(phase.epochs * math.ceil(images / phase.batch) for phase in phases)


def images_seen(count: int, steps: int) -> int:
    """How many different ones of `count` images early stopping sees.

    >>> images_seen(60000, steps=100), images_seen(1437, steps=100)
    (25600, 1437)
    """
    return min(count, steps * BATCH)
