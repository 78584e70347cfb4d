"""What a match is: it says how far the images of one network are from what they should be, and which way to move them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from fastdc.options.registry import NoOptions
from fastdc.recipe.groups import ClassGroup
from fastdc.recipe.problem import Problem
from fastdc.recipe.state import State


class Match(ABC):
    """What is compared, one object per run.

    For each network the loop sets `state.theta` and calls `begin`, then `step` for each matching step. It moves what is stored against
    the gradient, by the recipe's optimizer, lets the pool move the network on, and may write a checkpoint. So whatever a later call
    depends on must lie in the state: `state.theta` and `state.path`, which end with the network, and `state.learned`, which lasts. Where
    several processes share the classes, each has a state of its own, in which `step` may keep nothing that is another one's for each
    class.
    `MATCHES.add` makes a match of your own known to recipes.

    Args:
        problem: recipe, engine, networks, real images.
        options: an object of the class `Options`, made of the text after the name: `match="name:key=value"`.

    Example:
        >>> class TowardsMeans(Match):
        ...     "Moves every image towards the mean of its class."
        ...     def step(self, state, images, group):
        ...         real = self.problem.real_images(group, *state.moment)  # [G, B, channels, H, W]
        ...         difference = images - real.mean(1, keepdim=True)  # [G, n, channels, H, W]
        ...         return difference.square().flatten(1).mean(1), difference
    """

    Options: ClassVar[type] = NoOptions
    """A frozen dataclass with a default for each field; it may raise a UsageError where a value cannot be used."""
    needs_all_classes: ClassVar[bool] = False
    """Whether `step` is given all classes at once, since a network learns from all of them; else group by group. All classes must then
    have equally many images."""
    differentiates: ClassVar[int] = 0
    """How often it differentiates the network: once by the images, or twice, by the weights and then by the images; 0: not at all, or in
    a way of its own."""

    asks_expert: bool = False
    """Whether `state.expert` is to be what the pool's network was before it was changed."""
    running_statistics: ClassVar[bool] = False
    """Whether the statistics of batch norms go along with a network as they do in training, or are those of each step's real images."""

    def __init__(self, problem: Problem, options: Any) -> None:
        self.problem, self.options = problem, options

    def learned(self) -> dict[str, Tensor]:
        """What is learned beside the images, at its start: the first content of `state.learned`."""
        return {}

    def begin(self, state: State) -> None:  # noqa: B027  nothing to do is the rule
        """Take note of a new network, whose weights [P] are in `state.theta`."""

    @abstractmethod
    def step(self, state: State, images: Tensor, group: ClassGroup) -> tuple[Tensor, Tensor]:
        """How far the images are from what they should be, and which way to move them; they are not moved here.

        Args:
            state: the network, and what was kept from step to step. `state.moment` keys what is drawn.
            images: those of a group of classes, decoded and augmented, [G, n, channels, H, W].
            group: which classes; the loop goes over all groups.

        Returns:
            A loss, its part of each class [G], or for all classes at once a scalar; its sum is reported. And the gradient by the
            images [G, n, channels, H, W].
        """

    def provenance(self, state: State) -> dict[str, Any]:
        """What the result's provenance says beyond configuration, data and versions, as plain types."""
        return {}

    def advice(self) -> str:
        """What to lower or change where numbers overflow, as the end of a sentence."""
        recipe = self.problem.recipe
        return f"lr_images ({recipe.lr_images:g}) or lr_model ({recipe.lr_model:g}), or choose another distance than {recipe.distance}"
