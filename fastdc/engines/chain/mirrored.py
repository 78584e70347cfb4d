"""The weights of convolutions as those of the convolutions that go back, of all layers in one launch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fastdc.metrics import ParameterLayout


def mirrored(weights: Tensor) -> Tensor:
    """Weights [..., features, channels, *kernel] as those of the convolution that goes back [..., channels, features, *kernel]."""
    return weights.transpose(-4, -3).flip(-2, -1)


class MirroredWeights:
    """Of a layout, on a device."""

    def __init__(self, layout: ParameterLayout, device: torch.device) -> None:
        places = layout.views(torch.arange(layout.size))
        found = {name: mirrored(view) for name, view in places.items() if view.dim() == 4}
        self._shapes = {name: places.shape for name, places in found.items()}
        self._places = torch.cat([torch.empty(0, dtype=torch.int64), *(places.flatten() for places in found.values())]).to(device)

    def of(self, theta: Tensor) -> Mapping[str, Tensor]:
        """By the names of the weights, of theta [P]."""
        parts = theta.index_select(0, self._places).split([shape.numel() for shape in self._shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}
