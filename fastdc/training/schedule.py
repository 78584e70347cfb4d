"""Schedules: loop lengths by images per class, and the SGD by which networks are trained to be tested."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fastdc.engines import Sgd
from fastdc.options.ipc import mean_ipc

# ipc, matching steps per network, epochs of training the network between two of them
_PAPER = ((1, 1, 1), (10, 10, 50), (20, 20, 25), (30, 30, 20), (40, 40, 15), (50, 50, 10))
_LR, _MOMENTUM, _WEIGHT_DECAY = 0.01, 0.9, 5e-4


def paper_schedule(ipc: int | Sequence[int]) -> tuple[int, int]:
    """(matching_steps, model_epochs) for a number of images per class.

    The paper's numbers where it names some (1, 10, 20, 30, 40, 50); between two of these both are interpolated linearly
    and rounded; above 50 they stay (50, 10). Where classes have different numbers their mean decides: that of as many images in all.

    >>> [paper_schedule(ipc) for ipc in (1, 5, 10, 25, 50, 100)]
    [(1, 1), (5, 23), (10, 50), (25, 22), (50, 10), (50, 10)]
    >>> paper_schedule([20, 1, 9])  # as 10 of each
    (10, 50)
    """
    ipcs, steps, epochs = zip(*_PAPER, strict=True)
    mean = mean_ipc(ipc)
    return round(float(np.interp(mean, ipcs, steps))), round(float(np.interp(mean, ipcs, epochs)))


def paper_training(epochs: int) -> list[Sgd]:
    """The phases of training from scratch: batch 256, momentum, weight decay, a tenth of the learning rate in the second half.

    >>> [(sgd.epochs, round(sgd.lr, 3), sgd.momentum) for sgd in paper_training(7)]
    [(4, 0.01, 0.9), (3, 0.001, 0.9)]
    """
    later = epochs // 2
    return _phases([(epochs - later, _LR), (later, _LR * 0.1)], batch=256)


def idc_training(epochs: int) -> list[Sgd]:
    """The phases of Kim et al. (ICML 2022): batch 64, a fifth of the learning rate after two thirds of the epochs, and again after five
    sixths. The first two epochs have the whole rate.

    >>> [(sgd.epochs, round(sgd.lr, 4), sgd.batch) for sgd in idc_training(1000)]
    [(666, 0.01, 64), (167, 0.002, 64), (167, 0.0004, 64)]
    >>> [sgd.epochs for sgd in idc_training(2)]
    [2]
    """
    first = max(2 * epochs // 3, min(2, epochs))
    second = max(5 * epochs // 6, first)
    return _phases([(first, _LR), (second - first, _LR / 5), (epochs - second, _LR / 25)], batch=64)


def _phases(rates: Iterable[tuple[int, float]], batch: int) -> list[Sgd]:
    """SGD for some epochs at each learning rate."""
    return [Sgd(epochs, lr, _MOMENTUM, _WEIGHT_DECAY, batch) for epochs, lr in rates if epochs]
