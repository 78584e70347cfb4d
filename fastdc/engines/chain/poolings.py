"""Poolings, and rows of maps: y = P x with P linear once the images are known, so that all four passes are P or its transpose.

The largest of a window is where the forward pass found it, the first of several.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdc.engines.chain.base import ByClass, Network, Pass
from fastdc.engines.plan import Flatten, Pooling


class _LinearMap(Pass):
    def back(self, gy: Tensor, gradients: ByClass, through: bool = True) -> Tensor:
        return self.transposed(gy)

    def along(self, tx: Tensor | None, direction: ByClass) -> Tensor:
        return torch.zeros_like(self.y) if tx is None else self.applied(tx)

    def back_along(self, tgy: Tensor, products: ByClass, through: bool = True) -> Tensor:
        return self.transposed(tgy)

    @abstractmethod
    def applied(self, x: Tensor) -> Tensor:
        """P x."""

    @abstractmethod
    def transposed(self, gy: Tensor) -> Tensor:
        """P^T gy."""


class FlattenPass(_LinearMap):
    """Maps [N, channels, H, W] to rows [N, channels * H * W]."""

    def __init__(self, _: Flatten, __: Network, x: Tensor) -> None:
        self.shape = x.shape[1:]
        self.y = self.applied(x)

    def applied(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def transposed(self, gy: Tensor) -> Tensor:
        return gy.view(len(gy), *self.shape)


class MeanPass(_LinearMap):
    """The mean of windows."""

    def __init__(self, step: Pooling, _: Network, x: Tensor) -> None:
        self.step, self.like = step, x
        self.y = self.applied(x)

    def applied(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.step.kernel, self.step.stride, self.step.padding)

    def transposed(self, gy: Tensor) -> Tensor:
        step = self.step
        return torch.ops.aten.avg_pool2d_backward(gy, self.like, step.kernel, step.stride, step.padding, False, True, None)


class AdaptiveMeanPass(_LinearMap):
    """The mean of so many windows as there shall be."""

    def __init__(self, step: Pooling, _: Network, x: Tensor) -> None:
        self.size, self.like = step.kernel, x
        self.y = self.applied(x)
        sides = tuple(zip(x.shape[2:], self.y.shape[2:], strict=True))
        self.shares = [_shares(there, here, x) for there, here in sides] if any(there % here for there, here in sides) else None

    def applied(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, self.size)

    def transposed(self, gy: Tensor) -> Tensor:
        if self.shares is None:
            return torch.ops.aten._adaptive_avg_pool2d_backward(gy, self.like)
        down, across = self.shares  # windows overlap, and torch adds up on a GPU in the order in which its threads come
        columns = (gy.unsqueeze(-1) * across).sum(-2)  # [N, channels, H', W]
        return (columns.unsqueeze(-2) * down.unsqueeze(-1)).sum(-3)


def _shares(there: int, here: int, like: Tensor) -> Tensor:
    """What each of `here` windows takes of each of `there` numbers [here, there]: windows from floor(i there / here) to the ceiling of the
    next one's."""
    window, place = torch.arange(here, device=like.device)[:, None], torch.arange(there, device=like.device)
    start, stop = window * there // here, ((window + 1) * there + here - 1) // here
    return ((place >= start) & (place < stop)).to(like.dtype) / (stop - start)


class LargestPass(_LinearMap):
    """The largest of windows."""

    def __init__(self, step: Pooling, _: Network, x: Tensor) -> None:
        self.step, self.like = step, x
        self.y, self.places = F.max_pool2d(x, step.kernel, step.stride, step.padding, return_indices=True)

    def applied(self, x: Tensor) -> Tensor:
        return x.flatten(2).gather(2, self.places.flatten(2)).view(self.y.shape)

    def transposed(self, gy: Tensor) -> Tensor:
        step = self.step
        return torch.ops.aten.max_pool2d_with_indices_backward(
            gy, self.like, step.kernel, step.stride, step.padding, (1, 1), False, self.places
        )


# By the kinds of `engines.plan`.
POOLINGS: dict[str, Callable[[Pooling, Network, Tensor], Pass]] = {
    "avg": MeanPass,
    "max": LargestPass,
    "adaptive": AdaptiveMeanPass,
}
