"""Lists of gradients by a backend that computes one gradient at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def one_by_one(
    layerwise_distance: Callable[[Tensor, Tensor, tuple[int, ...], str], tuple[Tensor, Tensor]],
) -> Callable[[Sequence[Tensor], Sequence[Tensor], str], tuple[Tensor, list[Tensor]]]:
    """`layerwise_distances` of a backend by its `layerwise_distance`, tensor by tensor, each read where it lies."""

    def layerwise_distances(synthetic: Sequence[Tensor], real: Sequence[Tensor], metric: str) -> tuple[Tensor, list[Tensor]]:
        """The distance of two lists of gradients, and its cotangents; see `fastdc.metrics.operator`."""
        results = [
            layerwise_distance(a.reshape(1, -1), b.reshape(1, -1), _segments(a), metric) for a, b in zip(synthetic, real, strict=True)
        ]
        distances, cotangents = zip(*results, strict=True)
        return torch.cat(distances).sum(), [cotangent.view(a.shape) for cotangent, a in zip(cotangents, synthetic, strict=True)]

    return layerwise_distances


def _segments(gradient: Tensor) -> tuple[int, ...]:
    """Those of a gradient that lies alone; none where it has no rows."""
    return (0, len(gradient), gradient.numel() // len(gradient)) if len(gradient) else ()
