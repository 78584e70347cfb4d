"""What is done to each batch before a network learns it: operations, drawn for every image, and CutMix.

The operations are those of siamese augmentation (`fastdc.training.operations`), in training drawn for each image apart, as their
authors do it there (Zhao & Bilen, ICML 2021; Kim et al., ICML 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdc.engines import Augmentation, DrawnAugmentation
from fastdc.errors import UsageError, unknown_name
from fastdc.training.operations import OPERATIONS

MODES = ("batch", "image")
_PAD, _SCALE, _ROTATION = 4, 0.2, 45.0  # of `crop_scale_or_rotate`: pixels; fraction of the size, per axis; degrees
_MIXED_BY = 6  # numbers, CutMix


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
class TrainingAugmentation(DrawnAugmentation):
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

    @property
    def numbers_each(self) -> int:
        """Those of the operations one after another, then those of CutMix."""
        return sum(max(OPERATIONS[name].numbers for name in choice) for choice in self._choices()) + (_MIXED_BY if self.cutmix else 0)

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> tuple[tuple[tuple[str, ...], bool], Tensor]:
        """The names of the operations and whether the batch is mixed; their numbers from left to right."""
        names, numbers = [], [torch.zeros(count, 0)]
        for choice in self._choices():
            names.append(choice[int(torch.randint(len(choice), (), generator=generator))])
            numbers.append(OPERATIONS[names[-1]].draw(count, height, width, generator))
        mixed = bool(self.cutmix) and float(torch.rand((), generator=generator)) < self.cutmix
        if mixed:
            numbers.append(drawn_cutmix(count, height, width, generator))
        drawn = torch.cat([some.double() for some in numbers], 1)
        return (tuple(names), mixed), F.pad(drawn, (0, self.numbers_each - drawn.shape[1]))

    def apply(self, images: Tensor, labels: Tensor, kind: Any, numbers: Tensor, classes: int | None = None) -> tuple[Tensor, Tensor]:
        """The operations, then CutMix."""
        names, mixed = kind
        start = 0
        for operation in map(OPERATIONS.__getitem__, names):
            images = operation.apply(images, numbers[:, start : start + operation.numbers])
            start += operation.numbers
        return cut_and_mixed(images, labels, numbers[:, start : start + _MIXED_BY], classes) if mixed else (images, labels)

    def _choices(self) -> list[list[str]]:
        """The names of which one is drawn, for each operation that comes one after another."""
        if not self.operations:
            return []
        return [name.split("/") for name in (self.operations if self.mode == "image" else ["/".join(self.operations)])]


def drawn_cutmix(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """What CutMix draws for a batch, float64 [count, 6]: of each image the other one; of all the first and last row and column of the box,
    those behind the last, and the share of the other image."""
    others = torch.randperm(count, generator=generator)
    side = math.sqrt(float(torch.rand((), generator=generator)))  # of the box, as a share of the image's
    x, y = (int(torch.randint(size, (), generator=generator)) for size in (width, height))
    across, down = int(width * side) // 2, int(height * side) // 2  # from the middle
    top, bottom, left, right = max(y - down, 0), min(y + down, height), max(x - across, 0), min(x + across, width)
    share = (bottom - top) * (right - left) / (height * width)
    return torch.cat(
        [others[:, None].double(), torch.tensor([[top, bottom, left, right, share]], dtype=torch.float64).expand(count, -1)], 1
    )


def cut_and_mixed(images: Tensor, labels: Tensor, numbers: Tensor, classes: int | None = None) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al., ICCV 2019): a box of each image is that of another image of the batch, and so is this share of its label.

    Of an image the box takes a share drawn evenly from 0..1, about a middle drawn anywhere; what of it lies outside is left out.

    Args:
        images: [N, channels, H, W].
        labels: int64 [N], or soft [N, k].
        numbers: as `drawn_cutmix` gives them, on the device of the images.
        classes: of how many classes labels are; None: as many as they name.

    Returns:
        Images of the same shape, and soft labels [N, k].
    """
    others = numbers[:, 0].long()
    top, bottom, left, right, share = numbers[0, 1:].unbind()
    y, x = (torch.arange(side, device=images.device) for side in images.shape[-2:])
    box = ((y >= top) & (y < bottom))[:, None] & (x >= left) & (x < right)  # [H, W]
    known = labels.to(images.dtype) if labels.dim() == 2 else _one_hot(labels, classes).to(images.dtype)
    return torch.where(box, images[others], images), (1 - share) * known + share * known[others]


def _one_hot(labels: Tensor, classes: int | None) -> Tensor:
    """Labels [N] as shares [N, classes]."""
    return labels[:, None] == torch.arange(int(labels.max()) + 1 if classes is None else classes, device=labels.device)


class CropScaleOrRotate(DrawnAugmentation):
    """The augmentation of the paper's MNIST evaluation (Zhao et al., ICLR 2021): each image is changed by one operation drawn for it, a
    crop after padding by 4 pixels, a scaling of height and width by 0.8 to 1.2 each, or a rotation by up to 45 degrees.

    What comes into view from outside takes the mean of the batch, with a crop channel by channel; with a scaling 0, which is the mean of
    all real images.
    """

    numbers_each = 7

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> tuple[None, Tensor]:
        """The matrix from output to input coordinates, [2, 3] of each image, and the number of its operation."""
        choice = torch.randint(3, (count,), generator=generator)
        shift = torch.randint(-_PAD, _PAD + 1, (count, 2), generator=generator) * torch.tensor([2 / width, 2 / height])
        scale = 1 + _SCALE * (2 * torch.rand(count, 2, generator=generator) - 1)
        angle = math.radians(_ROTATION) * (2 * torch.rand(count, generator=generator) - 1)
        matrix = torch.eye(2, 3).repeat(count, 1, 1)  # [N, 2, 3]
        matrix[choice == 0, :, 2] = shift[choice == 0]
        matrix[choice == 1, [[0], [1]], [[0], [1]]] = (1 / scale[choice == 1]).T
        rotation = torch.stack([angle.cos(), -angle.sin() * height / width, angle.sin() * width / height, angle.cos()], 1).view(-1, 2, 2)
        matrix[choice == 2, :, :2] = rotation[choice == 2]
        return None, torch.cat([matrix.flatten(1), choice[:, None]], 1).double()

    def apply(self, images: Tensor, labels: Tensor, kind: Any, numbers: Tensor, classes: int | None = None) -> tuple[Tensor, Tensor]:
        """By interpolation; the labels stay."""
        numbers = numbers.to(images.dtype)
        grid = F.affine_grid(numbers[:, :6].view(-1, 2, 3), list(images.shape), align_corners=False)
        means = images.mean((0, 2, 3))  # [channels]
        of_operation = torch.stack([means, torch.zeros_like(means), means.mean().expand_as(means)])  # [3, channels]
        around = of_operation[numbers[:, 6].long()][..., None, None]  # [N, channels, 1, 1]
        return F.grid_sample(images - around, grid, align_corners=False) + around, labels


crop_scale_or_rotate = CropScaleOrRotate()
