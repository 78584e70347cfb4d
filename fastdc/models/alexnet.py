"""AlexNet for small images: five convolutions with ReLU, three 2x2 max poolings, one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from fastdc.models.parts import check_image_size, extra_padding

_LEAST = 8  # pixels of a side from which the last map has one


class AlexNet(nn.Module):
    """The AlexNet of Zhao et al. (ICLR 2021), after Krizhevsky et al. (2012), without norms and dropout.

    Grey 28x28 images are padded to 32x32 by the first convolution, as in the paper.

    Args:
        channels: of the images.
        num_classes: outputs.
        image_size: height and width in pixels, 8 or more.

    Raises:
        UsageError: a smaller image.

    Example:
        >>> import torch
        >>> AlexNet(1, 10, (28, 28))(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """

    def __init__(self, channels: int, num_classes: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        check_image_size("alexnet", image_size, _LEAST)
        more = extra_padding(channels, image_size)
        map_height, map_width = ((side + 2 * more) // 8 for side in image_size)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 5, padding=2 + more),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(192, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 192, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(192, 192, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Linear(192 * map_height * map_width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of normalised images [N, channels, H, W]."""
        return self.classifier(self.features(images).flatten(1))
