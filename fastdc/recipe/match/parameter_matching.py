"""Parameter matching: images on which training leads to the same weights as on real ones (Zhao et al., ICLR 2021, section 3.2).

From one theta_0, K steps of SGD on the synthetic images lead to theta_S, and K steps on batches of real ones to theta_T:

    minimise  D(theta_S, theta_T)  over S

After a few steps both are so near to theta_0 that the cosines of their rows are nearly 1: float32 holds the difference, and
distances add up in double, but gradients are far too small for the `lr_images` of other methods. So what is compared by default
is the way that both went, theta_0 - theta, in units of the learning rates that it took: the mean gradient along the path. With
one step this is gradient matching of all classes at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastdc.errors import unknown_name
from fastdc.metrics.operator import layerwise_distance
from fastdc.options.checks import check_count
from fastdc.recipe.groups import ClassGroup
from fastdc.recipe.match.unrolled import UnrolledMatch, gradient_through_steps, mean_gradient, unrolled_steps
from fastdc.recipe.state import State

_COMPARED = ("displacement", "parameters")


@dataclass(frozen=True)
class ParameterMatchingOptions:
    """Options of `parameter_matching`: steps of SGD on either side, and what is compared (displacement: the way from the first
    weights; parameters: the weights themselves, which wants an `lr_images` of about 1000)."""

    unroll: int = 5
    compare: str = "displacement"

    def __post_init__(self) -> None:
        check_count("unroll", self.unroll)
        if self.compare not in _COMPARED:
            raise unknown_name("compare", self.compare, _COMPARED)


class ParameterMatching(UnrolledMatch):
    """`parameter_matching`: both sides take steps of `lr_model`, each on all synthetic images or on `batch_real` real ones per class.

    The gradient is multiplied by the number of images, over which the training takes a mean, so that `lr_images` means the same
    for any number. With several matching steps per network its real side is trained once.
    """

    Options = ParameterMatchingOptions

    def step(self, state: State, images: Tensor, group: ClassGroup) -> tuple[Tensor, Tensor]:
        """The distance of the two sides after all their steps, a scalar, and its gradient by the images."""
        theta = state.theta
        assert theta is not None
        if state.step == 0:
            state.path["real"] = self.train_on_real(theta, state)
        loss, gradient, _ = self.compared(images, theta, state.path["real"], theta, self.options.unroll)
        return loss, gradient

    def train_on_real(self, theta: Tensor, state: State) -> Tensor:
        """The weights [P] after `unroll` steps from `theta`, each on another batch of real images."""
        for draw in range(self.options.unroll):
            real = ((self.problem.real_images(group, *state.moment, draw), group) for group in self.problem.groups)
            theta = torch.sub(theta, mean_gradient(self.problem.engine, theta, real), alpha=self.problem.recipe.lr_model)
        return theta

    def compared(self, images: Tensor, theta: Tensor, real: Tensor, start: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Take `unroll` steps on the images, compare with the real side, and go back through these steps.

        Args:
            images: [C, n, channels, H, W].
            theta: weights to go on from [P].
            real: weights of the real side [P].
            start: weights from which both sides came [P].
            steps: how many each side has taken since, those to be taken now with them.

        Returns:
            The distance, a scalar; its gradient by the images, times their number; and the weights after the steps [P].
        """
        engine, recipe = self.problem.engine, self.problem.recipe
        rates = torch.full((self.options.unroll,), recipe.lr_model, dtype=torch.float64)
        thetas = unrolled_steps(engine, theta, images, rates, self.problem.groups)
        sides, scale = torch.stack([thetas[-1], real]), 1.0  # [2, P]
        if self.options.compare == "displacement":
            scale = -1 / (recipe.lr_model * steps)
            sides = (sides - start) * scale
        distance, cotangent = layerwise_distance(sides[:1], sides[1:], engine.layout, recipe.distance)  # [1], [1, P]
        gradient, _ = gradient_through_steps(engine, thetas, images, rates, cotangent[0] * scale, self.problem.groups)
        return distance[0], gradient * images.shape[:2].numel(), thetas[-1].clone()
