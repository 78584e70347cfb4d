"""Activations: y = f(x) for each number.

back           gx = f'(x) gy
along          y' = f'(x) x'
back along     gx' = f'(x) gy' + f''(x) x' gy
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdc.engines.chain.base import ByClass, Network, Pass
from fastdc.engines.plan import Activation


class Derivatives(NamedTuple):
    """f, f' and f'' of numbers x, given the slope of a leaky one; f'' None: zero."""

    value: Callable[[Tensor, float], Tensor]
    first: Callable[[Tensor, float], Tensor]
    second: Callable[[Tensor, float], Tensor] | None = None


def _sigmoid_first(x: Tensor, _: float) -> Tensor:
    s = x.sigmoid()
    return s * (1 - s)


def _sigmoid_second(x: Tensor, _: float) -> Tensor:
    s = x.sigmoid()
    return s * (1 - s) * (1 - 2 * s)


def _tanh_first(x: Tensor, _: float) -> Tensor:
    return 1 - x.tanh().square()


def _tanh_second(x: Tensor, _: float) -> Tensor:
    t = x.tanh()
    return -2 * t * (1 - t * t)


def _swish_first(x: Tensor, _: float) -> Tensor:
    s = x.sigmoid()
    return s + x * s * (1 - s)


def _swish_second(x: Tensor, _: float) -> Tensor:
    s = x.sigmoid()
    return s * (1 - s) * (2 + x * (1 - 2 * s))


def _leaky_first(x: Tensor, slope: float) -> Tensor:
    return torch.full_like(x, slope).masked_fill_(x > 0, 1)


# By the names of `engines.plan`; at a kink the derivative is that of the left side, as torch has it.
DERIVATIVES: dict[str, Derivatives] = {
    "relu": Derivatives(lambda x, _: x.relu(), lambda x, _: (x > 0).to(x.dtype)),
    "leaky_relu": Derivatives(F.leaky_relu, _leaky_first),
    "sigmoid": Derivatives(lambda x, _: x.sigmoid(), _sigmoid_first, _sigmoid_second),
    "tanh": Derivatives(lambda x, _: x.tanh(), _tanh_first, _tanh_second),
    "swish": Derivatives(lambda x, _: F.silu(x), _swish_first, _swish_second),
}


class ActivationPass(Pass):
    """Any of them."""

    def __init__(self, step: Activation, _: Network, x: Tensor) -> None:
        self.derivatives, self.slope, self.x = DERIVATIVES[step.name], step.slope or 0.0, x
        self.y = self.derivatives.value(x, self.slope)

    def back(self, gy: Tensor, gradients: ByClass, through: bool = True) -> Tensor:
        self.gy, self.first = gy, self.derivatives.first(self.x, self.slope)
        return self.first * gy

    def along(self, tx: Tensor | None, direction: ByClass) -> Tensor:
        self.tx = torch.zeros_like(self.x) if tx is None else tx
        return self.first * self.tx

    def back_along(self, tgy: Tensor, products: ByClass, through: bool = True) -> Tensor:
        result = self.first * tgy
        if self.derivatives.second is not None:
            result += self.derivatives.second(self.x, self.slope) * self.tx * self.gy
        return result
