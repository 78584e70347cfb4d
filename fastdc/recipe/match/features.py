"""Distribution matching: images whose mean features are those of the real images (Zhao & Bilen, WACV 2023).

With f the features that a network theta gives, what its last linear layer reads, and S_c, T_c the synthetic and the real images of a class:

    minimise  sum over c of  | mean of f(theta, S_c)  -  mean of f(theta, T_c) |^2  over S

First derivatives suffice, and no network needs to be trained.
"""

from __future__ import annotations

from torch import Tensor

from fastdc.recipe.groups import ClassGroup
from fastdc.recipe.match.by_class import ClassMatch
from fastdc.recipe.state import State


class FeatureMatching(ClassMatch):
    """`features`: the mean feature of the synthetic images of a class and that of its real ones; `distance` has no part in it."""

    differentiates = 1

    def compare(self, state: State, images: Tensor, group: ClassGroup) -> tuple[Tensor, Tensor]:
        """The distance of the features, class by class, and its gradient by the images."""
        engine, theta = self.problem.engine, state.theta
        assert theta is not None
        sides = images, self.problem.real_images(group, *state.moment)  # [G, n, channels, H, W], [G, B, channels, H, W]
        found, real = (engine.features(theta, side.flatten(0, 1)).unflatten(0, side.shape[:2]) for side in sides)
        losses, cotangent = self.compare_features(state, found, real)  # [G], [G, n, F]
        gradient = engine.feature_gradients(theta, images.flatten(0, 1), cotangent.flatten(0, 1))
        return losses, gradient.view(images.shape)

    def compare_features(self, state: State, found: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """The squared difference of the mean features of each class, and its gradient by the first.

        Args:
            state: of the step, which keys what is drawn.
            found: features of the synthetic images [G, n, F].
            real: features of the real images [G, B, F].

        Returns:
            Distances [G], and gradients [G, n, F].
        """
        difference = found.mean(1) - real.mean(1)  # [G, F]
        return difference.square().sum(1), (2 / found.shape[1] * difference)[:, None].expand(found.shape)

    def advice(self) -> str:
        """The one rate that it has."""
        return f"lr_images ({self.problem.recipe.lr_images:g})"
