"""What a pool is: it says whose networks images are matched with, and what these learn between two steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from fastdc.options.registry import NoOptions
from fastdc.recipe.problem import Problem
from fastdc.recipe.state import State


class Pool(ABC):
    """Gives the weights of one network after another.

    Args:
        problem: configuration, engine, networks, real images.
        options: of the entry.
    """

    Options: ClassVar[type] = NoOptions
    trained: ClassVar[bool] = False
    """Whether its networks come trained, without the statistics that their batch norms had: these begin as those of real images."""

    def __init__(self, problem: Problem, options: Any = None) -> None:
        self.problem, self.options = problem, options

    @classmethod
    def trains(cls, options: Any) -> bool:
        """Whether networks are trained on the images between two steps, for `model_epochs`."""
        return False

    @classmethod
    def needs_whole_set(cls, options: Any) -> bool:
        """Whether its networks learn from real images of all classes, so that a process must hold more of them than it matches."""
        return False

    def prepare(self) -> None:  # noqa: B027  nothing to do is the rule
        """Make what networks are taken from, which is made when it is needed otherwise; so that a planned run knows its time."""

    def seconds_ahead(self) -> float:
        """The seconds that making networks will take which are made once, and are not there yet."""
        return 0.0

    def stand_in(self) -> None:  # noqa: B027  nothing to do is the rule
        """Let networks with their first weights stand in for those that are not there yet, so that steps can be tried."""

    @abstractmethod
    def next(self, state: State) -> Tensor:
        """The weights [P] to begin iteration `state.iteration` with; they are changed in place."""

    def expert(self, state: State) -> Tensor | None:
        """The weights [P] that those of `next` are a change of, which are not changed in place; None: they are as they were trained."""
        return None

    def advance(self, state: State, images: Tensor, labels: Tensor) -> None:  # noqa: B027  nothing to do is the rule
        """Move `state.theta` on between two steps; the images [N, channels, H, W], sorted by their labels [N], have been moved.

        By default it stays. What it keeps from step to step with one network belongs into `state.path`.
        """
