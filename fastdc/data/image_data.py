"""ImageData: a labelled set of images, kept as uint8 and normalised only when it is drawn."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdc.errors import DataError
from fastdc.parallel.devices import to_device
from fastdc.runtime.public import plain

_BLOCK = 1 << 22  # pixels counted or hashed at once: bincount widens them to int64

_FIELDS: tuple[tuple[str, type, str], ...] = (
    ("images", Tensor, "a tensor: torch.from_numpy makes one of an array"),
    ("labels", Tensor, "a tensor: torch.from_numpy makes one of an array"),
    ("num_classes", int, "a whole number"),
    ("class_names", tuple, "one name per class, as a tuple"),
    ("mean", tuple, "one number per channel, as a tuple"),
    ("std", tuple, "one number per channel, as a tuple"),
)


def _check_fields(given: Mapping[str, Any]) -> None:
    """Raise a DataError where a field of an ImageData is of another kind, or its images of another dtype or shape."""
    for field, kind, expected in _FIELDS:
        if field in given and not isinstance(value := given[field], kind):
            what = f"is a {type(value).__name__}" if kind is Tensor else f"is {value!r}"
            raise DataError(f"{field} {what}; expected {expected}.")
    images = given["images"]
    if images.dtype != torch.uint8 or images.dim() != 4 or not all(images.shape[1:]):
        raise DataError(f"images are {images.dtype} of shape {list(images.shape)}; expected uint8 [N, channels, H, W].")


@dataclass(frozen=True, eq=False)
class ImageData:
    """A labelled set of images; frozen, and the tensors given are kept without a copy.

    Args:
        images: uint8 [N, channels, H, W]; 1 channel is grey, 3 are RGB, others are what they are.
        labels: int64 [N], from 0 to num_classes - 1.
        num_classes: how many classes there are; a test set need not hold all of them.
        class_names: one name per class.
        mean: per channel, of pixels in 0..1.
        std: per channel, of pixels in 0..1, above 0.
        name: what it is called in reports, such as "fashion-mnist". By "digits", "mnist", "svhn" or "usps" it is known to be of digits.
        changes: what was done to the images on the way in, such as "resized", as texts; they stand in the provenance of what is made
            of them.

    Raises:
        DataError: images or labels of another shape, dtype, length or range.
    """

    images: Tensor
    labels: Tensor
    num_classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str = "data"
    changes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_fields(vars(self))
        check_labels(self.labels, len(self.images), self.num_classes)
        if len(self.class_names) != self.num_classes:
            raise DataError(f"{len(self.class_names)} class names for {self.num_classes} classes; give one for each.")
        for what, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels or not np.isfinite(values).all():
                raise DataError(f"{what} is {values}; expected one finite number for each of {self.channels} channels.")
        if min(self.std) <= 0:
            raise DataError(f"std is {self.std}; expected numbers above 0.")

    @classmethod
    def of(
        cls,
        images: Tensor,
        labels: Tensor,
        *,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        name: str = "data",
        like: ImageData | None = None,
        changes: tuple[str, ...] = (),
    ) -> ImageData:
        """Make an ImageData, its mean and std those of its own pixels; std is 1 where a channel has one value alone.

        A test set takes number and names of classes, mean, std and name from the training set given as `like`.

        Raises:
            DataError: as `ImageData`.
        """
        if like is not None:
            return cls(images, labels, like.num_classes, like.class_names, like.mean, like.std, like.name, changes)
        _check_fields({"images": images, "labels": labels})
        number: int = count_classes(labels) if num_classes is None else plain(num_classes)
        names = tuple(class_names) if class_names is not None else tuple(str(c) for c in range(number))
        mean, std = pixel_statistics(images)
        return cls(images, labels, number, names, mean, deviations(std), name, changes)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for RGB; others for others."""
        return self.images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[2], self.images.shape[3]

    @cached_property
    def class_counts(self) -> Tensor:
        """How many images each class has, int64 [num_classes]."""
        return torch.bincount(self.labels, minlength=self.num_classes)

    @property
    def class_members(self) -> tuple[Tensor, ...]:
        """For each class the positions of its images in their order, int64 [images of the class]."""
        return torch.argsort(self.labels, stable=True).cpu().split(self.class_counts.tolist())

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of all that is drawn from it: two sets with the same one hold the same images and labels in the same
        order, normalised in the same way."""
        digests = digests_by_class(self.images, self.labels, range(self.num_classes))
        return fingerprint_of(tuple(self.images.shape), self.mean, self.std, self.labels, digests)

    def said(self) -> str:
        """Its name, with what was done to the images on the way in."""
        return f"{self.name} ({'; '.join(self.changes)})" if self.changes else self.name

    def normalised(self, index: Tensor | slice, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
        """The images at `index` as (pixels - mean) / std, [len(index), channels, H, W], on `device`; None: where they are."""
        if isinstance(index, Tensor):
            index = to_device(index, self.images.device)
        images = self.images[index]
        return self._by_statistics(to_device(images, images.device if device is None else device).to(dtype))

    def normalised_for_all(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The images at `index` as `normalised` gives them on the CPU; of a set that several processes hold a part of each, all ask."""
        return self.normalised(index, dtype, "cpu")

    def levels(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """What `normalised` makes of each of the 256 bytes in each channel, [channels, 256]."""
        pixels = torch.arange(256, dtype=dtype, device="cpu").view(-1, 1, 1, 1).repeat(1, self.channels, 1, 1)
        return self._by_statistics(pixels).flatten(1).T.contiguous()

    def _by_statistics(self, pixels: Tensor) -> Tensor:
        """(pixels / 255 - mean) / std, in place: no copies."""
        return pixels.div_(255).sub_(per_channel(self.mean, pixels)).div_(per_channel(self.std, pixels))


def of_classes(data: ImageData, numbers: Sequence[int]) -> ImageData:
    """The images of some classes, numbered anew in this order; mean and std stay."""
    renumbered = torch.full((data.num_classes,), -1)
    renumbered[torch.tensor(numbers)] = torch.arange(len(numbers))
    labels = renumbered[data.labels]
    kept = labels >= 0
    names = tuple(data.class_names[number] for number in numbers)
    return dataclasses.replace(data, images=data.images[kept], labels=labels[kept], num_classes=len(numbers), class_names=names)


def per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    """One number per channel as a tensor [channels, 1, 1] with the dtype and device of `like`."""
    return to_device(torch.tensor(values, dtype=like.dtype, device="cpu"), like.device).view(-1, 1, 1)


Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation per channel, of pixels in 0..1


def pixel_statistics(images: Tensor) -> Statistics:
    """Those of uint8 images; exact, from counts of the 256 values."""
    return statistics_of(pixel_counts(images))


def pixel_counts(images: Tensor) -> Tensor:
    """How often each of the 256 values stands in each channel of uint8 images, int64 [channels, 256]."""
    if images.dtype != torch.uint8 or images.dim() != 4 or not images.numel():
        raise DataError(f"images are {images.dtype} of shape {list(images.shape)}; expected uint8 [N, channels, H, W], N > 0.")
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64, device="cpu")
    for count, channel in zip(counts, images.unbind(1), strict=True):  # [N, H, W]
        for part in channel.split(max(1, _BLOCK // channel[0].numel())):
            count += torch.bincount(part.flatten(), minlength=256).cpu()
    return counts


def statistics_of(counts: Tensor) -> Statistics:
    """Those of pixels of which there are so many, int64 [channels, 256]."""
    values = torch.arange(256, dtype=torch.float64, device="cpu") / 255
    means, stds = [], []
    for count in counts:
        share = count.double() / count.sum()
        mean = (share * values).sum()
        means.append(mean.item())
        stds.append((share * (values - mean) ** 2).sum().sqrt().item())
    return tuple(means), tuple(stds)


def deviations(std: tuple[float, ...]) -> tuple[float, ...]:
    """What to divide by: 1 where a channel has one value alone."""
    return tuple(value or 1.0 for value in std)


def digests_by_class(images: Tensor, labels: Tensor, classes: range) -> list[bytes]:
    """For each of some classes a hash of its images, in their order."""
    block = max(1, _BLOCK // max(1, math.prod(images.shape[1:])))
    order, counts = torch.argsort(labels, stable=True), torch.bincount(labels, minlength=classes.stop).tolist()
    members, found = order.split(counts), []
    for number in classes:
        digest = hashlib.blake2b(digest_size=16)
        for some in members[number].split(block):
            digest.update(np.ascontiguousarray(images[some].cpu().numpy()).data)
        found.append(digest.digest())
    return found


def fingerprint_of(shape: tuple[int, ...], mean: Sequence[float], std: Sequence[float], labels: Tensor, digests: Iterable[bytes]) -> str:
    """A short hash of a set, of which each class has a hash of its own."""
    digest = hashlib.blake2b(repr((shape, mean, std)).encode(), digest_size=12)
    digest.update(np.ascontiguousarray(labels.cpu().numpy()).data)
    for each in digests:
        digest.update(each)
    return digest.hexdigest()


def count_classes(labels: Tensor) -> int:
    """How many classes a training set's labels name; every one from 0 on must appear."""
    if not labels.numel():
        raise DataError("there are no labels; expected at least one image of each class.")
    present = labels.unique()
    count = int(present.max()) + 1
    if present.min() < 0:
        raise DataError(f"label {int(present.min())} is negative; expected labels from 0 to the number of classes - 1.")
    if len(present) < count:
        held = set(present.tolist())
        missing = [c for c in range(min(count, len(present) + 6)) if c not in held]  # labels may be large: not all that there are
        raise DataError(
            f"labels go up to {count - 1}, but class {', '.join(map(str, missing[:5]))}{'...' if len(missing) > 5 else ''} "
            "has no image; number the classes 0, 1, 2, ... without a gap, as np.unique(labels, return_inverse=True)[1] does."
        )
    if count < 2:
        raise DataError("all labels are 0; expected two classes or more.")
    return count


def what_classes_have(data: ImageData, ipc: int, each: int = 1) -> tuple[int, ...]:
    """`ipc` for every class, or what a class with fewer images has, which a warning says.

    Args:
        data: real images, some of each class.
        ipc: how many are wanted of each class.
        each: how many images make one.
    """
    numbers = tuple(min(ipc, max(1, count // each)) for count in data.class_counts.tolist())
    if short := [f"{name!r} {number}" for name, number in zip(data.class_names, numbers, strict=True) if number < ipc]:
        listed = ", ".join(short[:5]) + (", ..." if len(short) > 5 else "")
        warnings.warn(f"ipc is {ipc}, but some classes have fewer images and give all that they have: {listed}.", stacklevel=2)
    return numbers


def check_every_class(data: ImageData) -> None:
    """Raise unless each class of a training set has an image."""
    if not data.class_counts.all():
        empty = data.class_names[int(data.class_counts.argmin())]
        raise DataError(f"class {empty!r} has no image; expected at least one of each class in a training set.")


def check_labels(labels: Tensor, images: int, num_classes: int) -> None:
    """Raise unless `labels` is int64 [images] with values from 0 to num_classes - 1."""
    if labels.dtype != torch.int64:
        raise DataError(f"labels are {labels.dtype}; expected int64 class numbers: use labels.long() if they are whole.")
    if labels.dim() != 1 or len(labels) != images:
        raise DataError(f"labels have shape {list(labels.shape)} for {images} images; expected one label per image.")
    if not images:
        raise DataError("there are no images; expected at least one.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise DataError(f"labels go from {low} to {high}; expected 0 to {num_classes - 1} for {num_classes} classes.")
