"""K-means of points, and its medoids: the points that stand nearest to its centres."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastdc.runtime.stopping import stop_point

_SAME = 100  # roundings of the mean square of the points by which the squares of equal distances may differ
_ROUNDS = 10  # of Lloyd's algorithm; more of them change the centres of a class of images little


def medoids(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The positions [count] of different points, each the nearest to a centre of their k-means that is not taken by one before it.

    Of points that are equally near but for rounding, as both of a cluster of two are, it is the first.

    Args:
        points: float [n, F], n >= count; on any device.
        count: of centres.
        generator: on the CPU; decides where the centres begin.

    Example:
        >>> points = torch.tensor([0.0, 1.0, 2.0, 10.0, 11.0, 12.0])[:, None]
        >>> sorted(medoids(points, 2, torch.Generator().manual_seed(0)).tolist())
        [1, 4]
    """
    points = points - points.mean(0)  # the shorter points are, the more exact is the square of a distance made of products
    distances = points.square().sum(1) - 2 * k_means(points, count, generator) @ points.T  # [count, n], less the square of each centre
    slack = _SAME * torch.finfo(points.dtype).eps * points.square().sum(1).mean()
    chosen = []
    for row in distances:
        chosen.append((row <= row.min() + slack).to(torch.uint8).argmax()[None])
        distances.index_fill_(1, chosen[-1], math.inf)
    return torch.cat(chosen)


def k_means(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The centres [count, F] to which points [n, F] are near: some rounds of Lloyd's algorithm, begun as k-means++ does.

    A centre to which no point is nearest stays where it is.
    """
    centres = points[_spread(points, count, generator)]  # [count, F]
    for _ in range(_ROUNDS):
        stop_point()
        nearest = (centres.square().sum(1) - points @ (2 * centres.T)).argmin(1)  # [n]
        members = (nearest == torch.arange(count, device=points.device)[:, None]).to(points.dtype)  # [count, n]
        sizes = members.sum(1, keepdim=True)
        centres = torch.where(sizes > 0, members @ points / sizes.clamp(min=1), centres)
    return centres


def _spread(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The positions [count] of different points, each drawn with the square of its distance from those before it (Arthur &
    Vassilvitskii, "k-means++", SODA 2007)."""
    tiny = torch.finfo(points.dtype).tiny  # in the place of zero, so that of points that are all alike another one is drawn
    # Of points with logarithms of weights, the one is drawn whose sum with noise of Gumbel's distribution is largest.
    noise = torch.rand(count, len(points), dtype=torch.float64, generator=generator).log_().neg_().log_().neg_()
    noise = noise.to(points.device, points.dtype)  # [count, n]
    squares = points.square().sum(1)
    weights = points.new_full((len(points),), math.inf)
    chosen: list[Tensor] = []
    for row in noise:
        stop_point()
        drawn = (weights.clamp(min=tiny).log_() + row).index_fill_(0, torch.cat(chosen), -math.inf) if chosen else row
        chosen.append(drawn.argmax()[None])
        point = points[chosen[-1]][0]
        weights = torch.minimum(weights, squares - points @ (2 * point) + point.square().sum())  # the square of the distance
    return torch.cat(chosen)
