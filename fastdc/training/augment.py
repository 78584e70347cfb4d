"""What is done to each batch before a network learns it: operations, drawn for every image, and CutMix.

The operations are those of siamese augmentation (`fastdc.training.operations`), in training drawn for each image apart, as their
authors do it there (Zhao & Bilen, ICML 2021; Kim et al., ICML 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdc.engines import Augmentation
from fastdc.errors import UsageError, unknown_name
from fastdc.parallel.devices import to_device
from fastdc.training.operations import OPERATIONS

MODES = ("batch", "image")
_PAD, _SCALE, _ROTATION = 4, 0.2, 45.0  # of `crop_scale_or_rotate`: pixels; fraction of the size, per axis; degrees


def training_augmentation(operations: Sequence[str], mode: str, cutmix: float = 0.0) -> Augmentation | None:
    """What changes each batch of a training; None where there is nothing to change.

    Args:
        operations: names in `fastdc.training.operations.OPERATIONS`; "crop/scale/rotate" is one of the three, drawn for each batch.
        mode: "batch", one of all the operations for each batch; "image", one after another. What an operation draws, it draws for
            every image.
        cutmix: the probability of CutMix, for each batch.

    Raises:
        UsageError: an unknown operation or mode, or a number that is no probability.

    Example:
        >>> augment = training_augmentation(["color", "crop/scale"], "image", cutmix=0.5)
        >>> images, labels = augment(torch.rand(4, 3, 8, 8), torch.arange(4), torch.Generator().manual_seed(0))
        >>> images.shape, labels.shape
        (torch.Size([4, 3, 8, 8]), torch.Size([4, 4]))
        >>> training_augmentation([], "image") is None
        True
    """
    if isinstance(operations, str):
        raise UsageError(f"operations is {operations!r}; expected a list of names, such as ['color', 'crop'].")
    augmentation = TrainingAugmentation(tuple(operations), mode, cutmix)
    return augmentation if operations or cutmix else None


@dataclass(frozen=True)
class TrainingAugmentation:
    """What `training_augmentation` gives; it is called with images [N, channels, H, W], labels and a generator."""

    operations: tuple[str, ...]
    mode: str
    cutmix: float

    def __post_init__(self) -> None:
        for name in "/".join(self.operations).split("/") if self.operations else ():
            if name not in OPERATIONS:
                raise unknown_name("operation", name, OPERATIONS)
        if self.mode not in MODES:
            raise unknown_name("mode", self.mode, MODES)
        if isinstance(self.cutmix, bool) or not isinstance(self.cutmix, int | float) or not 0 <= self.cutmix <= 1:
            raise UsageError(f"cutmix is {self.cutmix!r}; expected a probability, 0 to 1.")

    def __call__(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A batch, changed; its labels are soft where it was mixed."""
        count, _, height, width = images.shape
        for choice in self._choices():
            operation = OPERATIONS[choice[int(torch.randint(len(choice), (), generator=generator))]]
            images = operation.apply(images, to_device(operation.draw(count, height, width, generator), images.device))
        if self.cutmix and float(torch.rand((), generator=generator)) < self.cutmix:
            return cut_and_mixed(images, labels, generator)
        return images, labels

    def _choices(self) -> list[list[str]]:
        """The names of which one is drawn, for each operation that comes one after another."""
        if not self.operations:
            return []
        return [name.split("/") for name in (self.operations if self.mode == "image" else ["/".join(self.operations)])]


def cut_and_mixed(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al., ICCV 2019): a box of each image is that of another image of the batch, and so is this share of its label.

    Of an image the box takes a share drawn evenly from 0..1, about a middle drawn anywhere; what of it lies outside is left out.

    Args:
        images: [N, channels, H, W].
        labels: int64 [N], or soft [N, k].
        generator: decides the draws.

    Returns:
        Images of the same shape, and soft labels of as many classes as the labels name, [N, k].
    """
    count, _, height, width = images.shape
    others = to_device(torch.randperm(count, generator=generator), images.device)
    side = math.sqrt(float(torch.rand((), generator=generator)))  # of the box, as a share of the image's
    x, y = (int(torch.randint(size, (), generator=generator)) for size in (width, height))
    across, down = int(width * side) // 2, int(height * side) // 2  # from the middle
    rows, columns = slice(max(y - down, 0), min(y + down, height)), slice(max(x - across, 0), min(x + across, width))
    mixed = images.clone()
    mixed[..., rows, columns] = images[others][..., rows, columns]
    share = (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)  # of the other image
    known = (labels if labels.dim() == 2 else F.one_hot(labels)).to(images.dtype)
    return mixed, (1 - share) * known + share * known[others]


def crop_scale_or_rotate(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The augmentation of the paper's MNIST evaluation (Zhao et al., ICLR 2021): each image is changed by one operation drawn for it, a
    crop after padding by 4 pixels, a scaling of height and width by 0.8 to 1.2 each, or a rotation by up to 45 degrees.

    What comes into view from outside takes the darkest value of the image.

    Args:
        images: [N, channels, H, W].
        labels: of any kind.
        generator: decides the draws.

    Returns:
        Images of the same shape, and the labels.
    """
    count, _, height, width = images.shape
    choice = torch.randint(3, (count,), generator=generator)
    shift = torch.randint(-_PAD, _PAD + 1, (count, 2), generator=generator) * torch.tensor([2 / width, 2 / height])
    scale = 1 + _SCALE * (2 * torch.rand(count, 2, generator=generator) - 1)
    angle = math.radians(_ROTATION) * (2 * torch.rand(count, generator=generator) - 1)
    matrix = torch.eye(2, 3).repeat(count, 1, 1)  # from output to input coordinates, [N, 2, 3]
    matrix[choice == 0, :, 2] = shift[choice == 0]
    matrix[choice == 1, [[0], [1]], [[0], [1]]] = (1 / scale[choice == 1]).T
    rotation = torch.stack([angle.cos(), -angle.sin() * height / width, angle.sin() * width / height, angle.cos()], 1).view(-1, 2, 2)
    matrix[choice == 2, :, :2] = rotation[choice == 2]
    grid = F.affine_grid(matrix.to(images), list(images.shape), align_corners=False)
    darkest = images.amin((1, 2, 3), keepdim=True)
    return F.grid_sample(images - darkest, grid, align_corners=False) + darkest, labels
