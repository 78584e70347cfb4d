"""Norms: y = w x^ + b with x^ = (x - mean) r and r = 1 / sqrt(variance + eps), mean and variance over sets of numbers.

A set is a map (instance), a group of channels (group), an image (layer), or in training a channel of all images (batch). With <.> the
mean over a set, and J u = r (u - <u> - x^ <x^ u>), which is symmetric and the derivative of x^ by x:

    back           gx = J (w gy)              gw = sum gy x^             gb = sum gy
    along          x^' = J x'                 y' = w x^' + w' x^ + b'
    back along     gx' = J u' + r'/r J u - r (x^' <x^ u> + x^ <x^' u>)   with u = w gy, u' = w gy' + w' gy, r'/r = - r <x^ x'>
                   gw' = sum gy' x^ + gy x^'  gb' = sum gy'

A batch norm that is not trained has constants in the place of mean and r: J u = r u, and r' is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fastdc.engines.base import ONE_NUMBER
from fastdc.engines.chain.base import ByClass, Network, Pass, of, spread, spread_by_class, summed_by_class
from fastdc.engines.plan import Convolution, Norm, Step
from fastdc.errors import UsageError


def without_idle_biases(chain: Sequence[Step]) -> tuple[Step, ...]:
    """The chain without the biases that do nothing, whose gradients are zero: an instance norm takes away what is added to a whole map."""
    left = list(chain)
    for place, (step, after) in enumerate(pairwise(chain)):
        if isinstance(step, Convolution) and isinstance(after, Norm) and after.kind == "instance":
            left[place] = step._replace(bias=None)
    return tuple(left)


class NormPass(Pass):
    """Any of them."""

    def __init__(self, step: Norm, network: Network, x: Tensor) -> None:
        if step.kind == "layer" and x.shape[1:] != step.shape:
            raise UsageError(f"a layer norm is over {list(step.shape)}, and maps are {list(x.shape[1:])}; expected images of another size.")
        self.step, self.shape = step, x.shape
        self.frozen = step.kind == "batch" and not network.training
        sets = self._in_sets(x)
        mean, variance = self._statistics(sets, network)
        self.scale = (variance + step.eps).rsqrt()  # r
        self.normal = (sets - mean).mul_(self.scale)  # x^
        self.weight = None if step.weight is None else spread(network.weights[step.weight], x)
        self.y = self._weighted(self.normal.view(self.shape)).clone()
        if step.bias is not None:
            self.y += spread(network.weights[step.bias], x)

    def back(self, gy: Tensor, gradients: ByClass, through: bool = True) -> Tensor:
        self.gy = gy
        self._add(gradients, gy, self.normal.view(self.shape))
        self.u = self._in_sets(self._weighted(gy))
        return self._derivative(self.u).view(self.shape)

    def along(self, tx: Tensor | None, direction: ByClass) -> Tensor:
        step = self.step
        sets = torch.zeros_like(self.normal) if tx is None else self._in_sets(tx)
        self.change = None if self.frozen else -self.scale * self._mean(self.normal * sets)  # r' / r
        self.tnormal = self._derivative(sets)
        ty = self._weighted(self.tnormal.view(self.shape)).clone()
        weight, bias = of(direction, step.weight), of(direction, step.bias)
        self.tweight = None if weight is None else spread_by_class(weight, ty)
        if self.tweight is not None:
            ty += self.tweight * self.normal.view(self.shape)
        if bias is not None:
            ty += spread_by_class(bias, ty)
        return ty

    def back_along(self, tgy: Tensor, products: ByClass, through: bool = True) -> Tensor:
        self._add(products, tgy, self.normal.view(self.shape))
        if (found := of(products, self.step.weight)) is not None:
            found += summed_by_class(self.gy * self.tnormal.view(self.shape), len(found), found.shape[1:])
        tu = self._weighted(tgy)
        if self.tweight is not None:
            tu = tu + self.tweight * self.gy
        result = self._derivative(self._in_sets(tu))
        if self.change is not None:
            result += self.change * self._derivative(self.u)
            result -= self.scale * (self.tnormal * self._mean(self.normal * self.u) + self.normal * self._mean(self.tnormal * self.u))
        return result.view(self.shape)

    def _in_sets(self, x: Tensor) -> Tensor:
        """Maps as their sets: [N, sets, elements], or for a batch norm [N, channels, elements], whose sets go over all images."""
        return x.reshape(len(x), self.step.groups if self.step.kind in ("group", "layer") else x.shape[1], -1)

    def _mean(self, sets: Tensor) -> Tensor:
        return sets.mean((0, 2) if self.step.kind == "batch" else 2, keepdim=True)

    def _statistics(self, sets: Tensor, network: Network) -> tuple[Tensor, Tensor]:
        """Mean and variance, as they meet the sets; those of a batch norm in training move its buffers on."""
        step = self.step
        if step.kind != "batch":
            return self._mean(sets), sets.var(2, correction=0, keepdim=True)
        assert step.mean is not None
        assert step.variance is not None
        running = [network.buffers[name] for name in (step.mean, step.variance)]
        if self.frozen:
            mean, variance = (buffer[None, :, None] for buffer in running)
            return mean, variance
        assert step.momentum is not None
        mean, variance = self._mean(sets), sets.var((0, 2), correction=0, keepdim=True)
        count = sets.numel() // sets.shape[1]
        if count == 1:
            raise UsageError(ONE_NUMBER)
        for buffer, now in zip(running, (mean, variance * (count / (count - 1))), strict=True):
            buffer.lerp_(now.flatten(), step.momentum)
        return mean, variance

    def _derivative(self, u: Tensor) -> Tensor:
        """J u."""
        if self.frozen:
            return self.scale * u
        return self.scale * (u - self._mean(u) - self.normal * self._mean(self.normal * u))

    def _weighted(self, values: Tensor) -> Tensor:
        return values if self.weight is None else self.weight * values

    def _add(self, gradients: ByClass, gy: Tensor, normal: Tensor) -> None:
        step = self.step
        for name, values in ((step.weight, gy * normal), (step.bias, gy)):
            if (found := of(gradients, name)) is not None:
                found += summed_by_class(values, len(found), found.shape[1:])
