"""Convolutions and linear layers: y = W x + b, whose products are what a network spends its time on.

    back           d L / d x = W^T gy         d L / d W = gy x^T         d L / d b = sum of gy
    along          y' = W x' + V x + b'       V the direction of W
    back along     W^T gy' + V^T gy           gy' x^T + gy x'^T          sum of gy'

W is shared by all images; V, and the gradients by W, are one for each class.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from fastdc.engines.chain.base import ByClass, Network, Pass, by_class, of, spread, spread_by_class, summed_by_class
from fastdc.engines.plan import Convolution, Linear


class _Product(Pass):
    def __init__(self, step: Convolution | Linear, network: Network, x: Tensor) -> None:
        self.step, self.round, self.dtype = step, network.precision.operand, x.dtype
        self.x, self.weight = self.round(x), self.round(network.weights[step.weight])
        self.y = self.product(self.x, self.weight)
        if step.bias is not None:
            self.y += spread(network.weights[step.bias], self.y)

    def back(self, gy: Tensor, gradients: ByClass, through: bool = True) -> Tensor:
        self.gy = self.round(gy)
        self._add_weight_gradients(gradients, self.x, self.gy)
        self._add_bias_gradients(gradients, gy)
        return self.transposed(self.gy, self.weight) if through else gy

    def along(self, tx: Tensor | None, direction: ByClass) -> Tensor:
        self.tx = None if tx is None else self.round(tx)
        ty = torch.zeros_like(self.y) if self.tx is None else self.product(self.tx, self.weight)
        v = of(direction, self.step.weight)
        self.v = None if v is None else self.round(v)
        if self.v is not None:
            ty += torch.cat(by_class(lambda x, v: self.product(x, v[0]), len(self.v), self.x, self.v))
        if (bias := of(direction, self.step.bias)) is not None:
            ty += spread_by_class(bias, ty)
        return ty

    def back_along(self, tgy: Tensor, products: ByClass, through: bool = True) -> Tensor:
        rounded = self.round(tgy)
        self._add_weight_gradients(products, self.x, rounded)
        if self.tx is not None:
            self._add_weight_gradients(products, self.tx, self.gy)
        self._add_bias_gradients(products, tgy)
        if not through:
            return tgy
        tgx = self.transposed(rounded, self.weight)
        if self.v is not None:
            tgx += torch.cat(by_class(lambda gy, v: self.transposed(gy, v[0]), len(self.v), self.gy, self.v))
        return tgx

    def _add_weight_gradients(self, gradients: ByClass, x: Tensor, gy: Tensor) -> None:
        if (found := of(gradients, self.step.weight)) is not None:
            for total, part in zip(found, by_class(self.weight_gradient, len(found), x, gy), strict=True):
                total += part

    def _add_bias_gradients(self, gradients: ByClass, gy: Tensor) -> None:
        if (found := of(gradients, self.step.bias)) is not None:
            found += summed_by_class(gy, len(found), found.shape[1:])

    @abstractmethod
    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """W x."""

    @abstractmethod
    def transposed(self, gy: Tensor, weight: Tensor) -> Tensor:
        """W^T gy."""

    @abstractmethod
    def weight_gradient(self, x: Tensor, gy: Tensor) -> Tensor:
        """gy x^T, of the shape of W."""


class LinearPass(_Product):
    """Rows [N, inputs] to rows [N, outputs]."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return (x @ weight.T).to(self.dtype)

    def transposed(self, gy: Tensor, weight: Tensor) -> Tensor:
        return (gy @ weight).to(self.dtype)

    def weight_gradient(self, x: Tensor, gy: Tensor) -> Tensor:
        return (gy.T @ x).to(self.dtype)


class ConvolutionPass(_Product):
    """Maps [N, channels, H, W] to [N, features, H', W']."""

    step: Convolution

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        step = self.step
        return torch.conv2d(x, weight, None, step.stride, step.padding, step.dilation, step.groups).to(self.dtype)

    def transposed(self, gy: Tensor, weight: Tensor) -> Tensor:
        like = gy.new_empty(()).expand(len(gy), *self.x.shape[1:])  # of which the shape alone is read
        return self._backward(gy, like, weight, (True, False, False))[0].to(self.dtype)

    def weight_gradient(self, x: Tensor, gy: Tensor) -> Tensor:
        return self._backward(gy, x, self.weight, (False, True, False))[1].to(self.dtype)

    def _backward(self, gy: Tensor, x: Tensor, weight: Tensor, which: tuple[bool, bool, bool]) -> tuple[Tensor, ...]:
        step = self.step
        found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
            gy, x, weight, None, step.stride, step.padding, step.dilation, False, [0, 0], step.groups, which
        )
        return found
