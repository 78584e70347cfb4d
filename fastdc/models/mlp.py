"""MLP: two hidden layers with ReLU."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from fastdc.errors import UsageError


@dataclass(frozen=True)
class MLPOptions:
    """Options of `mlp`: the width of its two hidden layers."""

    width: int = 128


class MLP(nn.Module):
    """The multilayer perceptron of Zhao et al. (ICLR 2021): two hidden layers of 128 units with ReLU.

    Raises:
        UsageError: a width below 1.
    """

    def __init__(self, channels: int, num_classes: int, image_size: tuple[int, int], options: MLPOptions | None = None) -> None:
        super().__init__()
        width = options.width if options is not None else MLPOptions().width
        if width < 1:
            raise UsageError(f"mlp with width {width}; expected 1 or more.")
        self.layers = nn.Sequential(
            nn.Linear(channels * math.prod(image_size), width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of normalised images [N, channels, H, W]."""
        return self.layers(images.flatten(1))
