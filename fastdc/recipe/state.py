"""What a condensation holds between two matching steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class State:
    """All that the rest of a run depends on, its configuration and data aside.

    `iteration` networks are behind, and `step` matching steps with the present one, whose weights are `theta`; before its
    first step there is none. `losses` adds up the losses of these steps. `sampler` and `training` give the real images
    and the order of the network's batches. What else its match keeps lies in `path`, where it ends with the present network,
    and in `learned`, where it lasts.
    """

    stored: Tensor  # [C, ipc, ...], what is learned; the recipe's formation makes images of it
    velocity: Tensor  # [C, ipc, ...], its momentum
    sampler: torch.Generator
    training: torch.Generator
    theta: Tensor | None = None  # [P]
    iteration: int = 0
    step: int = 0
    losses: float = 0.0
    path: dict[str, Tensor] = field(default_factory=dict)
    learned: dict[str, Tensor] = field(default_factory=dict)
