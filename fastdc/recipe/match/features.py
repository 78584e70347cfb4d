"""Distribution matching: images whose mean features are those of the real images (Zhao & Bilen, WACV 2023).

With f the features that a network theta gives, what its last linear layer reads, and S_c, T_c the synthetic and the real images of a class:

    minimise  sum over c of  | mean of f(theta, S_c)  -  mean of f(theta, T_c) |^2  over S

First derivatives suffice, and no network needs to be trained.
"""

from __future__ import annotations

from torch import Tensor

from fastdc.recipe.groups import ClassGroup
from fastdc.recipe.match.base import Match
from fastdc.recipe.state import State


class FeatureMatching(Match):
    """`features`: the mean feature of the synthetic images of a class and that of its real ones; `distance` has no part in it."""

    def step(self, state: State, images: Tensor, group: ClassGroup) -> tuple[Tensor, Tensor]:
        """The squared difference of the means, class by class, and its gradient by the images."""
        engine, theta = self.problem.engine, state.theta
        assert theta is not None
        real = self.problem.real_images(group, *state.moment)  # [G, B, channels, H, W]
        target = engine.features(theta, real.flatten(0, 1)).unflatten(0, real.shape[:2]).mean(1)  # [G, F]
        found = engine.features(theta, images.flatten(0, 1)).unflatten(0, images.shape[:2])  # [G, n, F]
        difference = found.mean(1) - target  # [G, F]
        cotangent = (2 / images.shape[1] * difference)[:, None].expand(found.shape).flatten(0, 1)  # [G * n, F]
        gradient = engine.feature_gradients(theta, images.flatten(0, 1), cotangent)
        return difference.square().sum(1), gradient.view(images.shape)

    def advice(self) -> str:
        """The one rate that it has."""
        return f"lr_images ({self.problem.recipe.lr_images:g})"
