"""A convolution whose products with weights of each class, and gradients by them, go through the kernels of
`fastdc.kernels.class_convolution`, all classes in one launch. What they compute is what `products` says."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from fastdc.engines.chain.base import ByClass, Network, of
from fastdc.engines.chain.products import ConvolutionPass
from fastdc.engines.plan import Convolution


def serves(step: Convolution, dtype: torch.dtype) -> bool:
    """Whether the kernels compute such a convolution of maps of this dtype."""
    return step.groups == 1 and step.dilation == (1, 1) and dtype in _kernels().DTYPES


def _kernels() -> ModuleType:
    from fastdc.kernels import class_convolution  # here, so that fastdc imports without Triton

    return class_convolution


class ClassConvolutionPass(ConvolutionPass):
    """One of them; gradients of a single class are a call of the library already. Those by a bias sum the maps as products read them."""

    def __init__(self, step: Convolution, network: Network, x: Tensor) -> None:
        self.kernels = _kernels()
        self.window = self.kernels.Window(step.kernel, step.stride, step.padding, network.precision.of_dot)
        super().__init__(step, network, x.contiguous())

    def laid_out(self, direction: Tensor) -> Tensor:
        weights: Tensor = self.kernels.laid_out(direction)
        return weights

    def add_product_by_class(self, y: Tensor, x: Tensor, weights: Tensor) -> None:
        self.kernels.add_products(self.window, y, x, weights)

    def add_transposed_by_class(self, gx: Tensor, gy: Tensor, weights: Tensor) -> None:
        self.kernels.add_transposed(self.window, gx, gy, weights)

    def _add_gradients(self, gradients: ByClass, x: Tensor, gy: Tensor, by_bias: Tensor | None) -> None:
        weight, bias = of(gradients, self.step.weight), of(gradients, self.step.bias)
        if weight is None or len(weight) == 1:
            super()._add_gradients(gradients, x, gy, by_bias)
        else:
            self.kernels.add_weight_gradients(self.window, x, gy, weight, None if by_bias is None else bias)
