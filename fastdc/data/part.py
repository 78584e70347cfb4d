"""A part of a set: the images of some classes, where a process has no need of the others."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastdc.data.image_data import ImageData, deviations, digests_by_class, fingerprint_of, pixel_counts, statistics_of
from fastdc.data.pictures import Changes
from fastdc.data.storage import empty_pixels
from fastdc.errors import DataError
from fastdc.parallel.world import world


@dataclass(frozen=True, eq=False)
class PartOfImages(ImageData):
    """A set of which the images of some classes alone are held. Labels, numbers, statistics and fingerprint are those of the whole, and
    so are the positions by which its images are asked for.

    Its own `images` are none.
    """

    positions: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """Where in the whole the images stand that are there, int64 [held], rising."""
    held: ImageData | None = None
    """These images, where there are any."""
    of_whole: str = ""
    """The fingerprint of the whole."""

    def __post_init__(self) -> None:
        """Its fields are those of a set that was checked."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        """That of the whole."""
        return self.of_whole

    def normalised(self, index: Tensor | slice, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
        """As the whole gives them; images that are not there have no place to be found at."""
        wanted = torch.arange(*index.indices(len(self))) if isinstance(index, slice) else index.cpu()
        if not len(wanted):
            return torch.empty(0, *self.images.shape[1:], dtype=dtype, device=device)
        places = torch.searchsorted(self.positions, wanted).clamp(max=max(0, len(self.positions) - 1))
        if self.held is None or not torch.equal(self.positions[places], wanted):
            raise IndexError("images of classes that this process does not hold")
        return self.held.normalised(places, dtype, device)

    def normalised_for_all(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Images that all processes ask for, of whichever classes: each gives those that it holds."""
        labels, here = self.labels[index], world()
        by_class = torch.argsort(labels, stable=True)
        counts = torch.bincount(labels, minlength=self.num_classes).tolist()
        mine = here.share(self.num_classes)
        own = by_class[sum(counts[: mine.start]) : sum(counts[: mine.stop])]
        result = torch.empty(len(index), *self.images.shape[1:], dtype=dtype)
        result[by_class] = here.joined(self.normalised(index[own], dtype, "cpu"), counts)
        return result


def part_of(whole: ImageData, classes: Sequence[int]) -> PartOfImages:
    """The images of some classes, copied, with all that is known of the whole."""
    positions = _positions(whole.labels, classes)
    images = empty_pixels((len(positions), *whole.images.shape[1:]))
    torch.index_select(whole.images, 0, positions, out=images)
    known = {each.name: getattr(whole, each.name) for each in dataclasses.fields(ImageData)}
    return _part(known, positions, images, whole.fingerprint)


def read_share(
    labels: Tensor, class_names: Sequence[str], read: Callable[[Tensor], Tensor], *, name: str, changes: Changes
) -> PartOfImages:
    """A set of which each process reads the images of its own classes; what is to be known of the whole is brought together.

    Args:
        labels: of the whole set, int64 [N].
        class_names: one for each class.
        read: the images uint8 [n, channels, H, W] at positions [n].
        name: what the set is called.
        changes: what was done to the images so far, and is done while they are read.

    Raises:
        DataError: processes find images of several sizes; and what `read` raises.
    """
    here = world()
    mine = here.share(len(class_names))
    positions = _positions(labels, mine)
    images = read(positions) if len(positions) else None
    seen = None
    if images is not None:
        seen = tuple(images.shape[1:]), pixel_counts(images), digests_by_class(images, labels[positions], mine)
    found = [each for each in here.gathered(seen) if each is not None]
    sizes = sorted({shape for shape, _, _ in found})
    if len(sizes) > 1:
        listed = " and ".join(f"{width}x{height}" for _, height, width in sizes)
        raise DataError(f"images of {name} are {listed} pixels; give image_size=N (--image-size) to bring all to one size.")
    mean, std = statistics_of(torch.stack([counts for _, counts, _ in found]).sum(0))
    std = deviations(std)
    fingerprint = fingerprint_of((len(labels), *sizes[0]), mean, std, labels, itertools.chain(*(digests for _, _, digests in found)))
    changes.take_all(here.gathered(changes.counts))
    known = {
        "images": torch.empty(0, *sizes[0], dtype=torch.uint8),
        "labels": labels,
        "num_classes": len(class_names),
        "class_names": tuple(map(str, class_names)),
        "mean": mean,
        "std": std,
        "name": name,
        "changes": changes.said(name),
    }
    return _part(known, positions, images, fingerprint)


def _positions(labels: Tensor, classes: Sequence[int]) -> Tensor:
    return torch.isin(labels, torch.tensor(list(classes))).nonzero()[:, 0]


def _part(whole: dict[str, Any], positions: Tensor, images: Tensor | None, fingerprint: str) -> PartOfImages:
    """The part with these images of a set of which the fields are known, those of images but for their shape."""
    held = ImageData(**whole | {"images": images, "labels": whole["labels"][positions]}) if images is not None and len(images) else None
    none = whole["images"][:0].clone()
    return PartOfImages(**whole | {"images": none}, held=held, positions=positions, of_whole=fingerprint)
