"""Dataset Distillation: images on which a few steps of SGD teach a network (Wang, Zhu, Torralba, Efros 2018).

From a network's first weights theta_0, with step sizes a_k that are learned as well,

    theta_{k+1} = theta_k - a_k grad L(theta_k, S),   k = 0 .. K-1;        minimise  L(theta_K, real images)  over S and a

Its gradients are as small as the step sizes, and grow beyond any bound where a network's training is not stable. So the gradient
by the images is divided by its root mean square, as is that by the logarithms of the step sizes, and both fade linearly to zero
over the iterations, in the place of the authors' Adam and its decay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdc.errors import unknown_name
from fastdc.methods.base import Method
from fastdc.methods.state import State
from fastdc.methods.unrolled import descend, go_back
from fastdc.options.checks import check_count, check_rate

_NETWORKS = ("random", "fixed")
_MOMENTUM = 0.5


@dataclass(frozen=True)
class DatasetDistillationOptions:
    """Options of `dd`: steps of SGD on the images, networks (random: a fresh one at each iteration; fixed: always the same),
    the step size to begin with, and the learning rate of the logarithms of the step sizes."""

    unroll: int = 10
    networks: str = "random"
    step_size: float = 0.1
    lr_step_sizes: float = 0.01

    def __post_init__(self) -> None:
        check_count("unroll", self.unroll)
        check_rate("step_size", self.step_size)
        check_rate("lr_step_sizes", self.lr_step_sizes)
        if self.networks not in _NETWORKS:
            raise unknown_name("networks", self.networks, _NETWORKS)


class DatasetDistillation(Method):
    """`dd`: one step per network unless `matching_steps` says otherwise; `lr_model` and `distance` have no part in it."""

    Options = DatasetDistillationOptions

    @classmethod
    def loop_lengths(cls, ipc: int) -> tuple[int, int | None]:
        """One step with each network; it is not trained between two of them."""
        return 1, None

    def learned(self) -> dict[str, Tensor]:
        """The logarithms of the step sizes [K], with their velocity."""
        start = math.log(self.options.step_size)
        logs = torch.full((self.options.unroll,), start, dtype=torch.float64, device=self.problem.family.device)
        return {"log_step_sizes": logs, "log_step_sizes_velocity": torch.zeros_like(logs)}

    def begin(self, state: State) -> None:
        """Take a fresh network, or the one that is fixed."""
        state.theta = self.fresh_weights(state.iteration if self.options.networks == "random" else 0)

    def step(self, state: State) -> tuple[Tensor, Tensor]:
        """The loss of real images after K steps on the synthetic ones, and which way to move these; moves the step sizes."""
        engine, theta = self.problem.engine, state.theta
        assert theta is not None
        step_sizes = state.learned["log_step_sizes"].exp()  # [K]
        thetas = descend(engine, theta, state.images, step_sizes)  # [K + 1, P]
        losses, cotangent = self._real_loss(thetas[-1])
        gradient, by_step_sizes = go_back(engine, thetas, state.images, step_sizes, cotangent)
        fading = 1 - state.iteration / self.problem.config.iterations
        velocity = state.learned["log_step_sizes_velocity"]
        velocity.mul_(_MOMENTUM).add_(_of_unit_size(by_step_sizes * step_sizes), alpha=fading)
        state.learned["log_step_sizes"].sub_(velocity, alpha=self.options.lr_step_sizes)
        return losses, fading * _of_unit_size(gradient)

    def provenance(self, state: State) -> dict[str, Any]:
        """The learned step sizes."""
        return {"step_sizes": state.learned["log_step_sizes"].exp().tolist()}

    def remedy(self) -> str:
        """What makes the training on the images stable."""
        config, options = self.problem.config, self.options
        return f"lr_images ({config.lr_images:g}), or step_size ({options.step_size:g}) or lr_step_sizes ({options.lr_step_sizes:g}) of dd"

    def _real_loss(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The parts [C] of a mean cross-entropy of real images, each class counting the same, and its gradient by the weights [P]."""
        engine, config = self.problem.engine, self.problem.config
        losses, gradients = [], []
        for classes, images in self.problem.sampler.draw(config.batch_real):  # [G], [G, B, channels, H, W]
            labels = classes.repeat_interleave(images.shape[1])
            each = F.cross_entropy(engine.logits(theta, images.flatten(0, 1)), labels, reduction="none")
            losses.append(each.view(images.shape[:2]).mean(1))
            gradients.append(engine.class_gradients(theta, images, classes))
        loss = torch.cat(losses)
        return loss / len(loss), torch.cat(gradients).mean(0)


def _of_unit_size(gradient: Tensor) -> Tensor:
    """The gradient divided by its root mean square; one of zeros stays so."""
    size = gradient.square().mean().sqrt()
    return gradient / size.clamp(min=torch.finfo(gradient.dtype).tiny)
