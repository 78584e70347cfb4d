"""What a condensation holds between two matching steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastdc.parallel.world import World


@dataclass
class State:
    """All that the rest of a run depends on, its configuration and data aside.

    `iteration` networks are behind, and `step` matching steps with the present one, whose weights are `theta`; before its
    first step there is none. `losses` adds up the losses of these steps. What else its match keeps lies in `path`, where it
    ends with the present network, and in `learned`, where it lasts. Random numbers are no part of it: each draw is made from the seed
    and `moment`.
    """

    stored: Tensor  # [S, ...], what is learned, class by class; the recipe's formation makes images of it
    moments: dict[str, Tensor]  # [S, ...] each, of its optimizer
    theta: Tensor | None = None  # [P]
    iteration: int = 0
    step: int = 0
    losses: float = 0.0
    path: dict[str, Tensor] = field(default_factory=dict)
    learned: dict[str, Tensor] = field(default_factory=dict)

    def copy_from_first(self, world: World) -> None:
        """Take what the first of several processes has."""
        if world.size == 1:
            return
        self.iteration, self.step, self.losses = world.first(lambda: (self.iteration, self.step, self.losses))
        shapes = world.first(lambda: {name: (value.shape, value.dtype) for name, value in self.path.items()})
        weights = world.first(lambda: None if self.theta is None else self.theta.shape)
        if not world.leads:
            self.path = {name: torch.empty(shape, dtype=dtype, device=self.stored.device) for name, (shape, dtype) in shapes.items()}
            self.theta = None if weights is None else self.stored.new_empty(weights)
        begun = list(self.moments.values()) if any(self.moment) else []  # before the first step they are zero, and take no memory
        world.from_first([self.stored, *begun, *self.path.values(), *self.learned.values()])
        if self.theta is not None:
            world.from_first([self.theta])

    @property
    def moment(self) -> tuple[int, int]:
        """The iteration and the step that come next, from 0 on: what draws are keyed by."""
        return self.iteration, self.step
