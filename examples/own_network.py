"""Condense arrays of one's own with a network of one's own: any nn.Module will do."""

import numpy as np
from torch import Tensor, nn

import fastdc

RNG = np.random.default_rng(0)


class SmallResidualNetwork(nn.Module):
    """A convolution, a block that is added to what goes into it, and a linear layer."""

    def __init__(self, channels: int, num_classes: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        height, width = image_size
        self.first = nn.Conv2d(channels, 8, 3, padding=1)
        self.block = nn.Sequential(nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.last = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8 * (height // 2) * (width // 2), num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, channels, height, width]."""
        maps = self.first(images)
        return self.last(maps + self.block(maps))


def stripes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy RGB images of two classes, lying and standing stripes: uint8 [count, 12, 12, 3] and labels [count]."""
    labels = RNG.integers(0, 2, count)
    lying = np.broadcast_to((np.arange(12) % 4 < 2)[:, None] * 30, (12, 12))
    patterns = np.stack([lying, lying.T])[labels][..., None]  # [count, 12, 12, 1]
    return (patterns + RNG.integers(0, 226, (count, 12, 12, 3))).astype(np.uint8), labels


def main() -> None:
    """Condense and evaluate. The class is called for each fresh network, with torch seeded before."""
    train, test = stripes(400), stripes(200)
    condensed = fastdc.condense(train, ipc=1, model=SmallResidualNetwork, iterations=15, lr_images=1.0, batch_real=64)
    print(condensed)
    for name, images in {"condensed": condensed, "random": fastdc.coresets.random(train, ipc=1)}.items():
        print(f"{name:<10} {fastdc.evaluate(images, test, model=SmallResidualNetwork, networks=3, epochs=50)}")


if __name__ == "__main__":
    main()
