"""Gradient matching: images whose gradients are those of the real images (Zhao, Mopuri, Bilen, ICLR 2021, algorithm 1).

A matching step is four calls:

    real      = engine.class_gradients(theta, real_images, classes)        # [G, B, channels, H, W] -> [G, P]
    synthetic = engine.class_gradients(theta, images, classes)             # [G, n, channels, H, W] -> [G, P]
    distance, cotangent = layerwise_distance(synthetic, real, layout)      # [G], [G, P]
    gradient  = engine.image_gradients(theta, images, cotangent, classes)  # [G, n, channels, H, W]

The last three are `engine.match`, so that an engine can share work between them, and the first is `engine.seen_gradients`, which may leave
out what the distance does not look at. Both gradients are those of a mean over images, so
that n and B may differ; `mse` and `l1` are sums over the elements that they see. With `l1:rows=convolutions` and `mse:rows=convolutions`
this is the distance of IDC (Kim et al., ICML 2022).
"""

from __future__ import annotations

from torch import Tensor

from fastdc.recipe.groups import ClassGroup
from fastdc.recipe.match.by_class import ClassMatch
from fastdc.recipe.state import State


class GradientMatching(ClassMatch):
    """`gradients`: those of the synthetic images of a class and those of its real ones."""

    differentiates = 2
    running_statistics = True

    def compare(self, state: State, images: Tensor, group: ClassGroup) -> tuple[Tensor, Tensor]:
        """The distance of the gradients, class by class, and its gradient by the images."""
        engine, theta, distance = self.problem.engine, state.theta, self.problem.recipe.distance
        assert theta is not None
        real = engine.seen_gradients(theta, self.problem.real_images(group, *state.moment), distance, group.classes)  # [G, P]
        return engine.match(theta, images, real, distance, group.classes)  # [G], [G, n, channels, H, W]
