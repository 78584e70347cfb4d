"""Curriculum matching: training on the images follows the path of training on real ones, step by step (Zhao et al., ICLR 2021).

Section 3.2: both sides go on from one theta_0,

    minimise  sum over t of  D(theta_S_t, theta_T_t)  over S,      theta_S_{t+1} by SGD on S,  theta_T_{t+1} by SGD on real images

At each t the images are moved by the distance there, differentiated through the last steps only; then both go on.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastdc.recipe.groups import ClassGroup
from fastdc.recipe.match.parameter_matching import ParameterMatching, ParameterMatchingOptions
from fastdc.recipe.state import State


@dataclass(frozen=True)
class CurriculumOptions(ParameterMatchingOptions):
    """Options of `curriculum`: as those of `parameter_matching`, `unroll` being the steps of one step."""

    unroll: int = 1


class Curriculum(ParameterMatching):
    """`curriculum`: each of the `matching_steps` takes both sides further; otherwise as `parameter_matching`."""

    Options = CurriculumOptions

    def begin(self, state: State) -> None:
        """Put both sides at the weights of the network."""
        assert state.theta is not None
        state.path = {"start": state.theta, "real": state.theta}

    def step(self, state: State, images: Tensor, group: ClassGroup) -> tuple[Tensor, Tensor]:
        """Take both sides `unroll` steps further; the distance there, a scalar, and its gradient by the images."""
        assert state.theta is not None
        state.path["real"] = self.train_on_real(state.path["real"], state)
        steps = self.options.unroll * (state.step + 1)
        loss, gradient, state.theta = self.compared(images, state.theta, state.path["real"], state.path["start"], steps)
        return loss, gradient
