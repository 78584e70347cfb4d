"""What a condensation holds between two matching steps."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


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

    @property
    def moment(self) -> tuple[int, int]:
        """The iteration and the step that come next, from 0 on: what draws are keyed by."""
        return self.iteration, self.step
