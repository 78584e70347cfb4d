"""Products with weights of each class by the kernels of `fastdc.kernels.convolution`: one launch where patches take five.

What they compute is what `products` says. Convolutions take them where they would go through patches, and then for the way back with the
weights that all share as well; a linear layer does on its way back along a direction, as a convolution of maps of one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from fastdc.engines.chain.base import ByClass, Network, Pass, of
from fastdc.engines.chain.products import ConvolutionPass, LinearPass
from fastdc.engines.plan import Convolution, Linear

OUTPUTS = 128  # of a linear layer, up to which one launch beats two products of matrices

Link = TypeVar("Link")


class Direct(NamedTuple):
    """A convolution or a linear layer of a chain that the kernels serve."""

    product: Convolution | Linear


def directly(chain: Sequence[Link]) -> tuple[Link | Direct, ...]:
    """A chain in which those convolutions and linear layers are marked that the kernels serve."""
    return tuple(Direct(link) if isinstance(link, Convolution | Linear) and _served(link) else link for link in chain)


def _served(step: Convolution | Linear) -> bool:
    if isinstance(step, Linear):
        return step.groups == 1 and step.outputs <= OUTPUTS
    around = all(padding < size for padding, size in zip(step.padding, step.kernel, strict=True))
    return around and step.stride == step.dilation == (1, 1)


def direct_pass(link: Direct, network: Network, x: Tensor) -> Pass:
    """The pass of what is marked."""
    step = link.product
    return DirectLinearPass(step, network, x) if isinstance(step, Linear) else DirectPass(step, network, x)


def _kernels() -> ModuleType:
    from fastdc.kernels import convolution  # here, so that fastdc imports without Triton

    return convolution


class DirectPass(ConvolutionPass):
    """Maps [N, channels, H, W] to [N, features, H', W'] with a stride of one."""

    few = False
    """Whether there are several classes of few images, whose way back is by the kernels."""

    def back(self, gy: Tensor, gradients: ByClass, through: bool = True) -> Tensor:
        found = of(gradients, self.step.weight)
        self.few = found is not None and len(found) > 1 and self._directly(len(found))
        return super().back(gy, gradients, through)

    def transposed(self, gy: Tensor, weight: Tensor) -> Tensor:
        return self._convolved(((gy, weight[None]),), back=True) if self.few else super().transposed(gy, weight)

    def tangent(self, tx: Tensor | None, v: Tensor | None) -> Tensor:
        if v is None or not self._directly(len(v)):
            return super().tangent(tx, v)
        return self._convolved(((tx, self.weight[None]), (self.x, v)), back=False)

    def tangent_back(self, tgy: Tensor, v: Tensor | None) -> Tensor:
        if v is None or not self._directly(len(v)):
            return super().tangent_back(tgy, v)
        return self._convolved(((tgy, self.weight[None]), (self.gy, v)), back=True)

    def add_weight_gradients(self, gradients: Tensor, x: Tensor, gy: Tensor) -> None:
        if self._directly(len(gradients)):
            _kernels().add_weight_gradients(gradients, x.contiguous(), gy.contiguous(), self._windows, self.network.precision.dot)
        else:
            super().add_weight_gradients(gradients, x, gy)

    def _directly(self, classes: int) -> bool:
        return self._by_patches(classes) and _kernels().serves(self.dtype)

    def _convolved(self, terms: Sequence[tuple[Tensor | None, Tensor]], back: bool) -> Tensor:
        """The sum of maps convolved with their weights, of those that are there."""
        given = [(maps.contiguous(), weights) for maps, weights in terms if maps is not None]
        windows = self._windows.back if back else self._windows
        found: Tensor = _kernels().convolve(given, windows, back, self.network.precision.dot, self.dtype)
        return found

    @property
    def _windows(self) -> Any:
        return _kernels().Windows(self.step.kernel, self.step.padding)


class DirectLinearPass(LinearPass):
    """Rows [N, inputs] to rows [N, outputs], few of these."""

    def tangent_back(self, tgy: Tensor, v: Tensor | None) -> Tensor:
        kernels = _kernels()
        if v is None or not kernels.serves(self.dtype):
            return super().tangent_back(tgy, v)
        terms = [
            (rows.contiguous()[..., None, None], weights[..., None, None]) for rows, weights in ((tgy, self.weight[None]), (self.gy, v))
        ]
        found: Tensor = kernels.convolve(terms, kernels.Windows((1, 1), (0, 0)), True, self.network.precision.dot, self.dtype)
        return found.flatten(1)
