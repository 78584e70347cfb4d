"""Pictures that lie in files, each with its class: to train on, and to test on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch
from torch import Tensor

from fastdc.data.image_data import ImageData
from fastdc.data.part import PartOfImages, read_share
from fastdc.data.pictures import Changes, Size, channels_of, open_picture, pixels_of
from fastdc.data.storage import empty_pixels
from fastdc.errors import DataError
from fastdc.parallel.world import world
from fastdc.runs.content import UNFORESEEN, in_a_line
from fastdc.runtime.seeding import make_generator

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2")
TRAIN, TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")  # names of halves, the first that is there
_TESTED = 5  # one image in so many is for testing, where there is no split
_SPLIT_SEED = 0


class Member(Protocol):
    """A picture within another file; as a text it says where."""

    def content(self) -> BinaryIO:
        """Its bytes."""


Picture = Path | Member
Labelled = list[tuple[Picture, int]]  # with the number of the class of each


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures in grey if all of them are, else RGB. Images that are larger than half of the free memory are kept in a file and read as
    they are drawn.

    The functions that read them raise a DataError for an unreadable picture, and for pictures of several sizes where there is no `size`.
    """

    name: str
    train: Labelled
    test_pictures: Labelled
    classes: tuple[str, ...]
    size: Size | None
    """To bring the middle of each image to; None: all have one size."""
    split: str = ""
    """How they were split into two halves, where that was to be done."""

    @classmethod
    def with_split(cls, name: str, pictures: Labelled, classes: tuple[str, ...], size: Size | None) -> LabelledPictures:
        """Of each class one in five to test on, drawn always in the same way."""
        train, test = _split(pictures, classes)
        return cls(name, train, test, classes, size, f"split into {len(train)} images to train on and {len(test)} to test on")

    def pair(self) -> tuple[ImageData, ImageData]:
        """Images to train and to test on."""
        changes, channels = self._changes(), most_channels(self._pictures())
        images, labels = read_pictures(self.train, channels, self.size, changes)
        test, test_labels = read_pictures(self.test_pictures, channels, self.size, changes, expected=(images.shape[2], images.shape[3]))
        data = ImageData.of(images, labels, class_names=self.classes, name=self.name, changes=changes.said(self.name))
        return data, ImageData.of(test, test_labels, like=data)

    def share(self) -> PartOfImages:
        """Those to train on, of which each of several processes reads the images of its own classes."""
        changes, here, pictures = self._changes(), world(), self._pictures()
        channels = max(here.gathered(most_channels(pictures[i] for i in here.share(len(pictures)))))

        def read(positions: Tensor) -> Tensor:
            return read_pictures([self.train[i] for i in positions.tolist()], channels, self.size, changes)[0]

        labels = torch.tensor([number for _, number in self.train])
        return read_share(labels, self.classes, read, name=self.name, changes=changes)

    def test(self, train: ImageData) -> ImageData:
        """Those to test on, where those to train on are known."""
        images, labels = read_pictures(self.test_pictures, train.channels, self.size, Changes(), expected=train.image_size)
        return ImageData.of(images, labels, like=train)

    def _pictures(self) -> list[Picture]:
        return [picture for picture, _ in (*self.train, *self.test_pictures)]

    def _changes(self) -> Changes:
        changes = Changes()
        if self.split:
            changes.add(self.split, 0)
        return changes


def _split(pictures: Labelled, classes: tuple[str, ...]) -> tuple[Labelled, Labelled]:
    """Those to train on and those to test on."""
    train: Labelled = []
    test: Labelled = []
    for number in range(len(classes)):
        own = [picture for picture in pictures if picture[1] == number]
        order = torch.randperm(len(own), generator=make_generator(_SPLIT_SEED, "split", number)).tolist()
        tested = set(order[: max(1, round(len(own) / _TESTED))] if len(own) > 1 else [])
        for position, picture in enumerate(own):
            (test if position in tested else train).append(picture)
    if not test:
        raise DataError("every class has one image, and none is left to test on; give more, or folders train/ and test/.")
    return train, test


def most_channels(pictures: Iterable[Picture]) -> int:
    """3 where one of them is in colour."""
    return max(map(_channels, pictures), default=1)


def _channels(picture: Picture) -> int:
    from PIL import Image

    try:
        with open_picture(picture if isinstance(picture, Path) else picture.content()) as image:
            return channels_of(image)
    except DataError as error:
        raise DataError(f"{picture}: {error}.") from None
    except (*UNFORESEEN, Image.DecompressionBombError) as error:
        raise _unreadable(picture, error) from None


def read_pictures(
    pictures: Labelled, channels: int, size: Size | None, changes: Changes, expected: Size | None = None
) -> tuple[Tensor, Tensor]:
    """The pixels of all pictures, brought to `size` where there is one, all of the size expected or that of the first; and the labels."""
    from PIL import Image

    images: Tensor | None = None
    for i, (picture, _) in enumerate(pictures):
        try:
            with open_picture(picture if isinstance(picture, Path) else picture.content()) as image:
                pixels = pixels_of(image, channels, size, changes)
        except DataError as error:
            raise DataError(f"{picture}: {error}.") from None
        except (*UNFORESEEN, Image.DecompressionBombError) as error:
            raise _unreadable(picture, error) from None
        height, width = pixels.shape[1:]
        expected = (height, width) if expected is None else expected
        if (height, width) != expected:
            raise DataError(
                f"{picture} is {width}x{height} pixels, the first image {expected[1]}x{expected[0]}; give image_size=N (--image-size) to "
                "bring all to one size."
            )
        images = empty_pixels((len(pictures), *pixels.shape)) if images is None else images
        images[i] = torch.from_numpy(np.array(pixels, order="C"))  # a copy, which may be written
    assert images is not None
    return images, torch.tensor([number for _, number in pictures])


def _unreadable(picture: Picture, error: Exception) -> DataError:
    reason = in_a_line(error) or type(error).__name__
    return DataError(f"{picture} cannot be read as an image ({reason}); replace it or remove it.")
