"""K networks of one structure as one network of K times as many channels: what is one launch for one of them is one for all.

In each map the channels of a network stand together, those of the next one behind them, [N, K * channels, H, W], and so do the features
of a row. Convolutions and linear layers are in K times as many groups, and what is done to each channel, or to some of them, is as it was.
Of each parameter that of a network stands before that of the next one: [K * rows, ...].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastdc.engines.plan import Activation, Convolution, Flatten, Linear, Norm, Pooling, Step
from fastdc.metrics.layout import Parameter, ParameterLayout

_WIDENED: dict[type, Callable[[Any, int], Step]] = {
    Convolution: lambda step, count: step._replace(
        channels=count * step.channels, features=count * step.features, groups=count * step.groups
    ),
    Linear: lambda step, count: step._replace(inputs=count * step.inputs, outputs=count * step.outputs, groups=count * step.groups),
    Norm: lambda step, count: step._replace(groups=count * step.groups, shape=_more(step.shape, count)),
    Flatten: lambda step, count: Flatten(step.features and count * step.features),
    Activation: lambda step, count: step,
    Pooling: lambda step, count: step,
}


def side_by_side(chain: Sequence[Step], count: int) -> tuple[Step, ...]:
    """The chain of `count` networks of this chain."""
    return tuple(_WIDENED[type(step)](step, count) for step in chain)


def layout_of(layout: ParameterLayout, count: int) -> ParameterLayout:
    """Where the parameters of `count` networks lie, of one of which this is the layout."""
    return ParameterLayout(tuple(Parameter(p.name, count * p.offset, _more(p.shape, count), p.frozen) for p in layout.parameters))


def joined(thetas: Tensor, layout: ParameterLayout) -> Tensor:
    """The weights of K networks [K, P] as those of one [K * P]."""
    return torch.cat([part.flatten() for part in layout.views(thetas).values()])


def parted(theta: Tensor, layout: ParameterLayout, count: int) -> Tensor:
    """The weights of one network [K * P] as those of `count` [K, P]."""
    parts = layout_of(layout, count).views(theta).values()
    return torch.cat([part.reshape(count, -1) for part in parts], 1)


def _more(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    return (count * shape[0], *shape[1:]) if shape else ()
