"""A part of a set: the images of some classes, where a process has no need of the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastdc.data.image_data import ImageData
from fastdc.data.storage import empty_pixels


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
        places = torch.searchsorted(self.positions, wanted).clamp(max=max(0, len(self.positions) - 1))
        if self.held is None or not torch.equal(self.positions[places], wanted):
            raise IndexError("images of classes that this process does not hold")
        return self.held.normalised(places, dtype, device)


def part_of(whole: ImageData, classes: Iterable[int]) -> PartOfImages:
    """The images of some classes, copied, with all that is known of the whole."""
    positions = torch.isin(whole.labels, torch.tensor(list(classes))).nonzero()[:, 0]
    known = {each.name: getattr(whole, each.name) for each in dataclasses.fields(ImageData)}
    images = empty_pixels((len(positions), *whole.images.shape[1:]))
    torch.index_select(whole.images, 0, positions, out=images)
    held = ImageData(**known | {"images": images, "labels": whole.labels[positions]}) if len(positions) else None
    none = whole.images[:0].clone()
    return PartOfImages(**known | {"images": none}, held=held, positions=positions, of_whole=whole.fingerprint)
