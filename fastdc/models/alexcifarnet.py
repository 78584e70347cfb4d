"""AlexCifarNet, the network of Dataset Distillation: two 5x5 convolutions with local response norm, three linear layers."""

from __future__ import annotations

import math

from torch import Tensor, nn


class AlexCifarNet(nn.Module):
    """The AlexCifarNet of Wang et al. (Dataset Distillation, 2018), with which Zhao et al. (ICLR 2021) compare on CIFAR10.

    Args:
        channels: of the images.
        num_classes: outputs.
        image_size: height and width in pixels.

    Example:
        >>> import torch
        >>> AlexCifarNet(3, 10, (32, 32))(torch.zeros(5, 3, 32, 32)).shape
        torch.Size([5, 10])
    """

    def __init__(self, channels: int, num_classes: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        map_height, map_width = (math.ceil(side / 4) for side in image_size)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 64, 5, padding=2),
            nn.ReLU(),
            _pooling(),
            _response_norm(),
            nn.Conv2d(64, 64, 5, padding=2),
            nn.ReLU(),
            _response_norm(),
            _pooling(),
        )
        self.classifier = nn.Sequential(
            nn.Linear(64 * map_height * map_width, 384), nn.ReLU(), nn.Linear(384, 192), nn.ReLU(), nn.Linear(192, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of normalised images [N, channels, H, W]."""
        return self.classifier(self.features(images).flatten(1))


def _pooling() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, padding=1)


def _response_norm() -> nn.Module:
    return nn.LocalResponseNorm(4, alpha=0.001 / 9, beta=0.75, k=1)
