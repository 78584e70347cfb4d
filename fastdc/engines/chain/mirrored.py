"""The weights of convolutions as those of the convolutions that go back, of all layers in one launch."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from fastdc.metrics import ParameterLayout


def mirrored(weights: Tensor) -> Tensor:
    """Weights [..., features, channels, *kernel] as those of the convolution that goes back [..., channels, features, *kernel]."""
    return weights.transpose(-4, -3).flip(-2, -1)


class MirroredWeights:
    """Of a layout, on a device; what it takes there it takes at the first call."""

    def __init__(self, layout: ParameterLayout, device: torch.device) -> None:
        self.layout, self.device = layout, device

    def of(self, theta: Tensor) -> Mapping[str, Tensor]:
        """By the names of the weights, of theta [P]."""
        shapes, places = self._places
        parts = theta.index_select(0, places).split([shape.numel() for shape in shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    @functools.cached_property
    def _places(self) -> tuple[dict[str, torch.Size], Tensor]:
        """The shapes of mirrored weights, and where their numbers lie in theta, one after another."""
        views = self.layout.views(torch.arange(self.layout.size, dtype=torch.int32))
        found = {name: mirrored(view) for name, view in views.items() if view.dim() == 4}
        places = torch.cat([torch.empty(0, dtype=torch.int32), *(view.flatten() for view in found.values())])
        return {name: view.shape for name, view in found.items()}, places.to(self.device)
