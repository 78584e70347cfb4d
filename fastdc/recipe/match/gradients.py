"""Gradient matching: images whose gradients are those of the real images (Zhao, Mopuri, Bilen, ICLR 2021, algorithm 1).

A matching step is four calls:

    real      = engine.class_gradients(theta, real_images)                 # [C, B, channels, H, W] -> [C, P]
    synthetic = engine.class_gradients(theta, images)                      # [C, n, channels, H, W] -> [C, P]
    distance, cotangent = layerwise_distance(synthetic, real, layout)      # [C], [C, P]
    gradient  = engine.image_gradients(theta, images, cotangent)           # [C, n, channels, H, W]

The last three are `engine.match`, so that an engine can share work between them.
"""

from __future__ import annotations

from torch import Tensor

from fastdc.recipe.match.base import Match
from fastdc.recipe.state import State


class GradientMatching(Match):
    """`gradients`: those of the synthetic images of a class and those of its real ones."""

    def step(self, state: State, images: Tensor) -> tuple[Tensor, Tensor]:
        """The distance of the gradients, class by class, and its gradient by the images."""
        assert state.theta is not None
        real = self.real_gradients(state.theta)  # [C, P]
        return self.problem.engine.match(state.theta, images, real, self.problem.recipe.distance)  # [C], [C, n, channels, H, W]
