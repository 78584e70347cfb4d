"""Whose networks images are matched with, and what they learn between two steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fastdc.engines import Sgd
from fastdc.errors import unknown_name
from fastdc.options.registry import NoOptions, Registry
from fastdc.recipe.problem import Problem
from fastdc.recipe.state import State
from fastdc.runtime.seeding import derive_seed, make_generator

_TRAIN = ("none", "synthetic")
_NETWORKS = ("random", "fixed")


class Pool(ABC):
    """Gives the weights of one network after another.

    Args:
        problem: configuration, engine, networks, real images.
        options: of the entry.
    """

    Options: ClassVar[type] = NoOptions

    def __init__(self, problem: Problem, options: Any = None) -> None:
        self.problem, self.options = problem, options

    @classmethod
    def trains(cls, options: Any) -> bool:
        """Whether networks are trained between two steps, for `model_epochs` at `lr_model`."""
        return False

    @abstractmethod
    def next(self, state: State) -> Tensor:
        """The weights [P] to begin iteration `state.iteration` with."""

    def advance(self, state: State, images: Tensor, labels: Tensor) -> None:  # noqa: B027  nothing to do is the rule
        """Move `state.theta` on between two steps; the images [N, channels, H, W], sorted by their labels [N], have been moved.

        By default it stays.
        """


@dataclass(frozen=True)
class FreshOptions:
    """Options of `fresh`: train (between two steps: none; synthetic, on the images) and networks (random: another one in each
    iteration; fixed: always the same)."""

    train: str = "none"
    networks: str = "random"

    def __post_init__(self) -> None:
        for name, value, known in (("train", self.train, _TRAIN), ("networks", self.networks, _NETWORKS)):
            if value not in known:
                raise unknown_name(name, value, known)


class Fresh(Pool):
    """`fresh`: random networks, kept as they are or trained on the images between two steps."""

    Options = FreshOptions

    @classmethod
    def trains(cls, options: FreshOptions) -> bool:
        """Where it is asked for."""
        return options.train != "none"

    def next(self, state: State) -> Tensor:
        """A fresh network, or the one that is fixed."""
        return self.problem.fresh_weights(state.iteration if self.options.networks == "random" else 0)

    def advance(self, state: State, images: Tensor, labels: Tensor) -> None:
        """Train on the images, for `model_epochs`."""
        if self.options.train == "none":
            return
        recipe, theta = self.problem.recipe, state.theta
        assert theta is not None
        assert recipe.model_epochs is not None
        seed, engine = self.problem.seed, self.problem.engine
        order = make_generator(seed, "training", *state.moment)
        with self.problem.family.seeded_training(derive_seed(seed, "dropout", *state.moment)):
            engine.train(theta, images, labels, Sgd(recipe.model_epochs, recipe.lr_model), order)


POOLS: Registry[Pool] = Registry("pool", {"fresh": Fresh})
