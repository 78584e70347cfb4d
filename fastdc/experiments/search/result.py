"""What a search comes to: how well each proxy ranks the networks, compared with the whole set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ProxyResult:
    """All networks trained on one proxy."""

    name: str
    """A coreset, a method's spec, or "early_stopping"."""
    accuracies: Mapping[str, float]
    """Of each network, fractions of 1."""
    seconds: float
    """Of training and testing, summed over networks."""
    making: float
    """Seconds that it took to make the proxy itself."""
    images: int
    """That have to be kept."""

    @property
    def ranking(self) -> tuple[str, ...]:
        """The networks from the best on; of equals the one that comes first in the space."""
        return tuple(sorted(self.accuracies, key=lambda model: -self.accuracies[model]))


@dataclass(frozen=True)
class SearchResult:
    """Proxies, the truth about some networks or all, and what could not be trained."""

    proxies: tuple[ProxyResult, ...]
    truth: Mapping[str, float]
    """The accuracy of networks trained on the whole set."""
    truth_seconds: float
    """Of training and testing these, summed over networks."""
    images: int
    """In the whole set."""
    top: int
    """How many of the best-ranked are compared."""
    skipped: Mapping[str, str]
    """Networks that cannot take the images, and why."""

    def best(self, proxy: ProxyResult) -> tuple[str, float]:
        """The network that a proxy ranks first, and its accuracy when trained on the whole set."""
        return proxy.ranking[0], self.truth[proxy.ranking[0]]

    def correlation(self, proxy: ProxyResult, *, top: bool) -> float:
        """Spearman's rank correlation of the accuracies on a proxy and on the whole set.

        Args:
            proxy: one of `proxies`.
            top: over the `top` networks that the proxy ranks first; else over all whose truth is known.

        Returns:
            From -1 to 1; NaN where all accuracies are equal.
        """
        models = proxy.ranking[: self.top] if top else tuple(model for model in proxy.ranking if model in self.truth)
        return rank_correlation([proxy.accuracies[model] for model in models], [self.truth[model] for model in models])


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation of two lists, ties given their mean rank; NaN where one of them is constant or has one entry.

    >>> round(rank_correlation([0.1, 0.2, 0.3, 0.4], [1, 2, 4, 3]), 12)
    0.8
    """
    if len(set(first)) < 2 or len(set(second)) < 2:
        return math.nan
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    """The place of each value from the smallest, from 1 on; equal values share the mean of their places."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[which]
