"""LeNet: two 5x5 convolutions with ReLU and 2x2 max pooling, three linear layers."""

from __future__ import annotations

from torch import Tensor, nn

from fastdc.models.parts import check_image_size, extra_padding

_LEAST = 16  # pixels of a side from which the last map has one


class LeNet(nn.Module):
    """The LeNet of Zhao et al. (ICLR 2021), after LeCun et al. (1998).

    Its convolutions do not pad, but that the first makes 32x32 of grey 28x28 images.

    Args:
        channels: of the images.
        num_classes: outputs.
        image_size: height and width in pixels, 16 or more.

    Raises:
        UsageError: a smaller image.

    Example:
        >>> import torch
        >>> LeNet(1, 10, (28, 28))(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """

    def __init__(self, channels: int, num_classes: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        check_image_size("lenet", image_size, _LEAST)
        padding = extra_padding(channels, image_size)
        map_height, map_width = (((side + 2 * padding - 4) // 2 - 4) // 2 for side in image_size)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.classifier = nn.Sequential(
            nn.Linear(16 * map_height * map_width, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of normalised images [N, channels, H, W]."""
        return self.classifier(self.features(images).flatten(1))
