"""Condense arrays of one's own with a network of one's own."""

import numpy as np
import torch
from torch import nn

import fastdc

RNG = np.random.default_rng(0)


def stripes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy RGB images of two classes, lying and standing stripes: uint8 [count, 12, 12, 3] and labels [count]."""
    labels = RNG.integers(0, 2, count)
    lying = np.broadcast_to((np.arange(12) % 4 < 2)[:, None] * 30, (12, 12))
    patterns = np.stack([lying, lying.T])[labels][..., None]  # [count, 12, 12, 1]
    return (patterns + RNG.integers(0, 226, (count, 12, 12, 3))).astype(np.uint8), labels


def small_network(channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """A fresh network at each call; fastdc seeds torch before it."""
    height, width = image_size
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.Softplus(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * (height // 2) * (width // 2), num_classes),
    )


def main() -> None:
    """Condense, evaluate, train."""
    train, test = stripes(400), stripes(200)
    condensed = fastdc.condense(train, ipc=1, model=small_network, iterations=30, lr_images=1.0, batch_real=64)
    print(condensed)
    print("condensed", fastdc.evaluate(condensed, test, model=small_network, networks=3, epochs=100))
    print("random   ", fastdc.evaluate(fastdc.coresets.random(train, ipc=1), test, model=small_network, networks=3, epochs=100))
    for images, labels in torch.utils.data.DataLoader(condensed, batch_size=2, shuffle=True):  # it is a torch Dataset
        print("a batch of", tuple(images.shape), "with labels", sorted(labels.tolist()))


if __name__ == "__main__":
    main()
