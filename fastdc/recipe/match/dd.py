"""Dataset Distillation: images on which a few steps of SGD teach a network (Wang, Zhu, Torralba, Efros 2018).

From a network's first weights theta_0, with step sizes a_k that are learned as well,

    theta_{k+1} = theta_k - a_k grad L(theta_k, S),   k = 0 .. K-1;        minimise  L(theta_K, real images)  over S and a

Its gradients are as small as the step sizes, and grow beyond any bound where a network's training is not stable. So the gradient
by the images is divided by its root mean square, as is that by the logarithms of the step sizes, and both fade linearly to zero
over the iterations, in the place of the authors' Adam and its decay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdc.options.checks import check_count, check_rate
from fastdc.recipe.groups import ClassGroup
from fastdc.recipe.match.unrolled import UnrolledMatch, gradient_through_steps, mean_gradient, unrolled_steps
from fastdc.recipe.state import State

_MOMENTUM = 0.5


@dataclass(frozen=True)
class DatasetDistillationOptions:
    """Options of `dd`: steps of SGD on the images, the step size to begin with, and the learning rate of the logarithms of the step
    sizes."""

    unroll: int = 10
    step_size: float = 0.1
    lr_step_sizes: float = 0.01

    def __post_init__(self) -> None:
        check_count("unroll", self.unroll)
        check_rate("step_size", self.step_size)
        check_rate("lr_step_sizes", self.lr_step_sizes)


class DatasetDistillation(UnrolledMatch):
    """`dd`: the loss of real images after a few steps on the synthetic ones; `lr_model` and `distance` have no part in it."""

    Options = DatasetDistillationOptions

    def learned(self) -> dict[str, Tensor]:
        """The logarithms of the step sizes [K], with their velocity."""
        start = math.log(self.options.step_size)
        logs = torch.full((self.options.unroll,), start, dtype=torch.float64, device=self.problem.family.device)
        return {"log_step_sizes": logs, "log_step_sizes_velocity": torch.zeros_like(logs)}

    def step(self, state: State, images: Tensor, group: ClassGroup) -> tuple[Tensor, Tensor]:
        """The loss of real images after K steps on the synthetic ones, and which way to move these; moves the step sizes."""
        engine, theta = self.problem.engine, state.theta
        assert theta is not None
        step_sizes = state.learned["log_step_sizes"].exp()  # [K]
        step_sizes.masked_fill_(step_sizes > torch.finfo(theta.dtype).max, math.inf)  # torch takes no others; the loss tells of it
        thetas = unrolled_steps(engine, theta, images, step_sizes, self.problem.groups)  # [K + 1, P]
        losses, cotangent = self._real_loss(thetas[-1], state)
        gradient, by_step_sizes = gradient_through_steps(engine, thetas, images, step_sizes, cotangent, self.problem.groups)
        fading = 1 - state.iteration / self.problem.recipe.iterations
        velocity = state.learned["log_step_sizes_velocity"]
        velocity.mul_(_MOMENTUM).add_(_of_unit_size(by_step_sizes * step_sizes), alpha=fading)
        state.learned["log_step_sizes"].sub_(velocity, alpha=self.options.lr_step_sizes)
        return losses, fading * _of_unit_size(gradient)

    def provenance(self, state: State) -> dict[str, Any]:
        """The learned step sizes."""
        return {"step_sizes": state.learned["log_step_sizes"].exp().tolist()}

    def advice(self) -> str:
        """What makes the training on the images stable."""
        recipe, options = self.problem.recipe, self.options
        return f"lr_images ({recipe.lr_images:g}), or step_size ({options.step_size:g}) or lr_step_sizes ({options.lr_step_sizes:g}) of dd"

    def _real_loss(self, theta: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """The parts [C] of a mean cross-entropy of real images, each class counting the same, and its gradient by the weights [P]."""
        engine, losses = self.problem.engine, []

        def batches() -> Iterator[tuple[Tensor, ClassGroup]]:
            for group in self.problem.groups:
                images = self.problem.real_images(group, *state.moment)  # [G, B, channels, H, W]
                labels = group.classes.repeat_interleave(images.shape[1])
                each = F.cross_entropy(engine.logits(theta, images.flatten(0, 1)), labels, reduction="none")
                losses.append(each.view(images.shape[:2]).mean(1))
                yield images, group

        gradient = mean_gradient(engine, theta, batches())
        loss = torch.cat(losses)
        return loss / len(loss), gradient


def _of_unit_size(gradient: Tensor) -> Tensor:
    """The gradient divided by its root mean square; one of zeros stays so."""
    size = gradient.square().mean().sqrt()
    return gradient / size.clamp(min=torch.finfo(gradient.dtype).tiny)
