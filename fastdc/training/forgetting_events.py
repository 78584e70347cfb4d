"""Forgetting events: how often a sample that a network had right is got wrong again."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def forgetting_events(history: Iterable[Tensor]) -> Tensor:
    """Count how often each sample turns from right to wrong between two epochs (Toneva et al., ICLR 2019).

    Args:
        history: after each epoch, whether the network has each sample right, bool [N]. It is read once, and of what was
            read only the latest is kept.

    Returns:
        Counts, float64 [N]; infinity for a sample that was never right.

    Example:
        >>> forgetting_events(torch.tensor([[True, False, True], [False, False, True], [True, False, True], [False, False, True]]))
        tensor([2., inf, 0.], dtype=torch.float64)
    """
    rows = iter(history)
    before = next(rows).clone()
    learned, events = before.clone(), torch.zeros(before.shape, dtype=torch.float64)
    for right in rows:
        events += before & ~right
        learned |= right
        before.copy_(right)
    return torch.where(learned, events, math.inf)
