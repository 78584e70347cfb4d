"""What a way of learning the images is: a method says how each step moves them; the loop of `fastdc.condense` does the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastdc.data import ClassSampler
from fastdc.engines import Engine
from fastdc.methods.config import CondenseConfig
from fastdc.methods.state import State
from fastdc.models.network import NetworkFamily
from fastdc.runtime.seeding import derive_seed
from fastdc.training.schedule import paper_schedule


@dataclass(frozen=True)
class NoOptions:
    """The options of a method that has none."""


@dataclass(frozen=True)
class Problem:
    """What every method works on: the configuration with its loop lengths, the engine, fresh networks, and the real images."""

    config: CondenseConfig
    engine: Engine
    family: NetworkFamily
    sampler: ClassSampler


class Method(ABC):
    """One way of learning the images, one object per run.

    For each of `iterations` networks the loop calls `begin`, then `step` for each of `matching_steps`, with `advance` between two
    of them. Before each step it freezes the statistics of batch norms; after it, it moves the images against the gradient, by SGD
    with momentum 0.5, and may write a checkpoint. So whatever a later call depends on must lie in the state that is handed over:
    `state.theta` and `state.path`, which end with the network, and `state.learned`, which lasts. `fastdc.methods.register`
    makes a method of your own known.

    Args:
        problem: configuration, engine, networks, real images.
        options: an object of the class `Options`, made of the text after the method's name: `method="name:key=value"`.

    Example:
        >>> class TowardsMeans(Method):
        ...     "Moves every image towards the mean of its class."
        ...     def step(self, state):
        ...         means = torch.stack([images.mean(0) for _, group in self.problem.sampler.draw(64) for images in group])
        ...         difference = state.images - means[:, None]  # [C, n, channels, H, W]
        ...         return difference.square().flatten(1).mean(1), difference
    """

    Options: ClassVar[type] = NoOptions
    """A frozen dataclass with a default for each field; it may raise a UsageError where a value cannot be used."""

    def __init__(self, problem: Problem, options: Any) -> None:
        self.problem, self.options = problem, options

    @classmethod
    def loop_lengths(cls, ipc: int) -> tuple[int, int | None]:
        """What None means for `matching_steps` and `model_epochs`; None for the latter says that the method has no use for it."""
        return paper_schedule(ipc)

    def learned(self) -> dict[str, Tensor]:
        """What is learned beside the images, at its start: the first content of `state.learned`."""
        return {}

    def begin(self, state: State) -> None:
        """Set `state.theta` [P] to the weights of a new network."""
        state.theta = self.fresh_weights(state.iteration)

    @abstractmethod
    def step(self, state: State) -> tuple[Tensor, Tensor]:
        """How far the images are from what they should be, and which way to move them; they are not moved here.

        Returns:
            A loss, a scalar or its part of each class [C], whose sum is reported; and the gradient by the images
            [C, n, channels, H, W].
        """

    def advance(self, state: State) -> None:  # noqa: B027  nothing to do is the rule
        """Move on between two steps with one network, the images having been moved; by default the network stays as it is."""

    def provenance(self, state: State) -> dict[str, Any]:
        """What the result's provenance says beyond configuration, data and versions, as plain types."""
        return {}

    def remedy(self) -> str:
        """What to lower or change where numbers overflow, as the end of a sentence."""
        config = self.problem.config
        return f"lr_images ({config.lr_images:g}) or lr_model ({config.lr_model:g}), or choose another distance than {config.distance}"

    def fresh_weights(self, number: int) -> Tensor:
        """The weights [P] of random network `number`, always the same ones for one seed."""
        return self.problem.family.fresh_weights(derive_seed(self.problem.config.seed, "network", number))

    def real_gradients(self, theta: Tensor) -> Tensor:
        """The gradient of each class's loss [C, P] over `batch_real` real images of it, drawn anew."""
        engine, groups = self.problem.engine, self.problem.sampler.draw(self.problem.config.batch_real)
        return torch.cat([engine.class_gradients(theta, images, classes) for classes, images in groups])
