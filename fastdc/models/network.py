"""NetworkFamily: networks of one structure with fresh random weights, for one kind of images, on one device."""

from __future__ import annotations

import torch
from torch import nn

from fastdc.errors import FastdcError, UsageError
from fastdc.models.registry import ModelFactory, build
from fastdc.seeding import global_seed


class NetworkFamily:
    """Draws networks of one model, for images of one shape.

    Args:
        model: a name, or a function (channels, num_classes, (height, width)) -> nn.Module.
        channels: of the images.
        num_classes: how many logits are expected.
        image_size: height and width.
        device: where the networks go.

    Raises:
        UsageError: an unknown model, or one that does not map these images to num_classes logits.
    """

    def __init__(
        self, model: str | ModelFactory, channels: int, num_classes: int, image_size: tuple[int, int], device: torch.device
    ) -> None:
        self.model, self.channels, self.num_classes, self.image_size, self.device = model, channels, num_classes, image_size, device
        self._check(self.fresh(0))

    def fresh(self, seed: int) -> nn.Module:
        """A network whose weights `seed` decides; torch's global generator is left as it was."""
        with global_seed(seed):
            return build(self.model, self.channels, self.num_classes, self.image_size).to(self.device)

    def _check(self, network: nn.Module) -> None:
        images = torch.zeros(2, self.channels, *self.image_size, device=self.device)
        size = "x".join(map(str, self.image_size))
        try:
            with torch.no_grad():
                logits = network.eval()(images)
        except FastdcError:
            raise
        except Exception as error:
            raise UsageError(f"{type(network).__name__} cannot take {self.channels}x{size} images: {error}") from error
        if not isinstance(logits, torch.Tensor) or logits.shape != (2, self.num_classes):
            found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise UsageError(f"{type(network).__name__} maps 2 images to {found}; expected logits of shape [2, {self.num_classes}].")
