"""What networks learn between two steps: nothing, the images, or some real images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fastdc.engines import Augmentation, Sgd
from fastdc.engines.base import Fetch
from fastdc.errors import UsageError, unknown_name
from fastdc.options.checks import check_count, check_share
from fastdc.parallel.world import world
from fastdc.recipe.pools.base import Pool
from fastdc.recipe.state import State
from fastdc.runtime.seeding import derive_seed, make_generator
from fastdc.training.augment import training_augmentation
from fastdc.training.by_batch import whole_batches

# What networks are trained on, and the options that this takes, with what they are by default.
_TRAIN: dict[str, dict[str, Any]] = {
    "none": {},
    "synthetic": {"augmentation": None},
    "real": {"images": 500, "batch": 64, "momentum": 0.9, "weight_decay": 5e-4, "augmentation": "none", "cutmix": 0.0},
}
SIAMESE = "siamese"  # as an augmentation: the operations by which both sides are changed, which stand in its place when a run begins
_VELOCITY = "velocity of the network"  # its name in the path of a state


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of pools that train networks at `lr_model` between two steps: train (none; synthetic, on the images, for
    `model_epochs`; real, on real images). Of training on either: augmentation (operations joined by +; siamese, those by which both
    sides are changed; or none): on the images one of them for each batch, on real ones all. On real images alone: images (how many are
    drawn for a step: 500), batch (64), momentum (0.9, kept from step to step), weight_decay (0.0005) and cutmix (the probability that a
    batch is mixed: 0)."""

    train: str = "none"
    images: int | None = None
    batch: int | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    augmentation: str | None = None
    cutmix: float | None = None

    def __post_init__(self) -> None:
        if self.train not in _TRAIN:
            raise unknown_name("train", self.train, _TRAIN)
        taken = _TRAIN[self.train]
        for name in _TRAIN["real"]:
            value = getattr(self, name)
            if value is None:
                object.__setattr__(self, name, taken.get(name))
            elif name not in taken:
                raise UsageError(f"{name} is {value!r}, but train={self.train} has no use for it; leave it out, or give train=real.")
        if self.train == "real":
            check_count("images", self.images)
            check_count("batch", self.batch)
            check_share("momentum", self.momentum)
            check_share("weight_decay", self.weight_decay)
            check_share("cutmix", self.cutmix)
        if self.augmentation != SIAMESE:
            self.augment()  # refuses an unknown operation

    def augment(self) -> Augmentation | None:
        """What changes each batch."""
        names = [] if self.augmentation in (None, "none") else str(self.augmentation).split("+")
        return training_augmentation(names, "batch" if self.train == "synthetic" else "image", self.cutmix or 0.0)


class TrainingPool(Pool):
    """A pool whose networks are trained between two steps where its options, which are `TrainingOptions`, say so."""

    @classmethod
    def trains(cls, options: TrainingOptions) -> bool:
        """Where they are trained on the images."""
        return options.train == "synthetic"

    @classmethod
    def needs_whole_set(cls, options: TrainingOptions) -> bool:
        """Where they are trained on real images."""
        return options.train == "real"

    def advance(self, state: State, images: Tensor, labels: Tensor) -> None:
        """Train as the options say."""
        if self.options.train == "synthetic":
            self._learn_images(state, images, labels)
        elif self.options.train == "real":
            self._learn_real_images(state)

    def _learn_images(self, state: State, images: Tensor, labels: Tensor) -> None:
        """Train on all images [N, channels, H, W], for `model_epochs`."""
        recipe, theta = self.problem.recipe, state.theta
        assert theta is not None
        assert recipe.model_epochs is not None
        seed, engine = self.problem.seed, self.problem.engine
        order = make_generator(seed, "training", *state.moment)
        with self.problem.family.seeded_training(derive_seed(seed, "dropout", *state.moment)):
            sgd = Sgd(recipe.model_epochs, recipe.lr_model)
            engine.train(theta, images, labels, sgd, order, self.options.augment(), world=world())

    def _learn_real_images(self, state: State) -> None:
        """Train on some images of the set, each once, with the velocity that the steps before have left."""
        options, seed, data, theta = self.options, self.problem.seed, self.problem.batches.sampler.data, state.theta
        assert theta is not None
        sgd = Sgd(1, self.problem.recipe.lr_model, options.momentum, options.weight_decay, options.batch)
        training = self.problem.engine.training(theta, sgd)
        if _VELOCITY in state.path:
            training.velocity.copy_(state.path[_VELOCITY])
        augment, generator = options.augment(), make_generator(seed, "training images", *state.moment)
        drawn = torch.randperm(len(data), generator=generator)[: options.images]
        steps = training.steps([drawn], self._fetch, augment, generator)
        for number in range(math.ceil(len(drawn) / options.batch)):
            with self.problem.family.seeded_training(derive_seed(seed, "dropout", *state.moment, number)):
                next(steps)
        state.path[_VELOCITY] = training.velocity

    @cached_property
    def _fetch(self) -> Fetch:
        """Makes batches of real images; always the same, so that steps that were captured serve again."""
        return whole_batches(self.problem.batches.sampler.data, next(self.problem.engine.module.parameters()))
