"""The loss at the end of a chain: how it changes with the logits, and how that changes along a direction.

With z the logits of an image, p = softmax(z) and n the images of the mean,

    d L / d z = (p - onehot) / n        along z': p (z' - <p, z'>) / n
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor


class CrossEntropy:
    """Of images of several classes."""

    cotangent: Tensor
    """d L / d z [N, num_classes]."""

    def __init__(self, logits: Tensor, labels: Tensor, count: int, kernels: bool = False) -> None:
        """
        Args:
            logits: [N, num_classes].
            labels: one for each of G classes of N / G images, int64 [G].
            count: n.
            kernels: whether the Triton kernels may compute it.
        """
        self.count, self.kernels = count, _kernels() if kernels and logits.shape[1] <= _kernels().MOST else None
        if self.kernels is not None:
            self.shares, self.cotangent = self.kernels.cotangent(logits.contiguous(), labels.contiguous(), count)
            return
        self.shares = logits.softmax(1)
        by_class = self.shares.unflatten(0, (len(labels), -1))  # [G, b, num_classes]
        each = labels[:, None, None].expand(-1, by_class.shape[1], 1)
        self.cotangent = by_class.scatter(2, each, -1.0, reduce="add").flatten(0, 1).div_(count)

    def along(self, tangent: Tensor) -> Tensor:
        """How the cotangent changes where the logits change by the tangent [N, num_classes]."""
        if self.kernels is not None:
            found: Tensor = self.kernels.along(tangent.contiguous(), self.shares, self.count)
            return found
        return torch._softmax_backward_data(tangent, self.shares, 1, tangent.dtype).div_(self.count)


def _kernels() -> ModuleType:
    from fastdc.kernels import cross_entropy  # here, so that fastdc imports without Triton

    return cross_entropy
