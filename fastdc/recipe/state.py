"""What a condensation holds between two matching steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastdc.parallel.world import World

_EXPERT = "the network before it was changed"  # its name in the path of a state


@dataclass
class State:
    """All that the rest of a run depends on, its configuration and data aside.

    `iteration` networks are behind, and `step` matching steps with the present one, whose weights are `theta`; before its
    first step there is none. `losses` adds up the losses of these steps. What else its match keeps lies in `path`, where it
    ends with the present network, and in `learned`, where it lasts. Random numbers are no part of it: each draw is made from the seed
    and `moment`.

    Of several processes that share the classes, each has what is stored of its own.
    """

    stored: Tensor  # [S, ...], what is learned, class by class; the recipe's formation makes images of it
    moments: dict[str, Tensor]  # [S, ...] each, of its optimizer
    theta: Tensor | None = None  # [P]
    iteration: int = 0
    step: int = 0
    losses: float = 0.0
    path: dict[str, Tensor] = field(default_factory=dict)
    learned: dict[str, Tensor] = field(default_factory=dict)

    def room_for_whole(self, counts: Sequence[int]) -> State:
        """One like it with room for what all processes have, `counts` rows of each class."""
        stored, *moments = (rows.new_empty(sum(counts), *rows.shape[1:]) for rows in (self.stored, *self.moments.values()))
        return dataclasses.replace(self, stored=stored, moments=dict(zip(self.moments, moments, strict=True)))

    def whole(self, world: World, counts: Sequence[int]) -> State:
        """With what all processes have, `counts` rows of each class, at the first of them."""
        moments = {name: world.joined_at_first(rows, counts) for name, rows in self.moments.items()}
        return dataclasses.replace(self, stored=world.joined_at_first(self.stored, counts), moments=moments)

    def take_from_first(self, whole: State, world: World, counts: Sequence[int] | None) -> None:
        """Take what the first of several processes has: of what is stored the rows of this one's classes.

        Args:
            whole: the state with all classes, there.
            world: the processes.
            counts: rows of each class; None: each process has those of all classes.
        """
        self.iteration, self.step, self.losses = world.first(lambda: (whole.iteration, whole.step, whole.losses))
        if not any(self.moment):
            return  # all have begun alike
        shapes = world.first(lambda: {name: (value.shape, value.dtype) for name, value in whole.path.items()})
        weights = world.first(lambda: None if whole.theta is None else whole.theta.shape)
        if world.leads:
            self.path, self.learned, self.theta = whole.path, whole.learned, whole.theta
        else:
            self.path = {name: torch.empty(shape, dtype=dtype, device=self.stored.device) for name, (shape, dtype) in shapes.items()}
            self.theta = None if weights is None else self.stored.new_empty(weights)
        world.from_first([*self.path.values(), *self.learned.values(), *([] if self.theta is None else [self.theta])])
        for rows, own in zip((whole.stored, *whole.moments.values()), (self.stored, *self.moments.values()), strict=True):
            if counts is None:
                world.from_first([own])
            else:
                world.deal(rows, own, counts)

    @property
    def expert(self) -> Tensor | None:
        """The weights [P] that know the classes best: those of a trained network before its pool changed it, or else `theta`."""
        return self.path.get(_EXPERT, self.theta)

    def keep_expert(self, weights: Tensor | None) -> None:
        """Take note of trained weights [P], if there are any, for as long as the present network lasts."""
        if weights is not None:
            self.path[_EXPERT] = weights

    @property
    def moment(self) -> tuple[int, int]:
        """The iteration and the step that come next, from 0 on: what draws are keyed by."""
        return self.iteration, self.step
