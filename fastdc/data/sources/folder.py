"""A user's own folder, with one subfolder per class."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastdc.data.image_data import ImageData
from fastdc.data.labels import natural
from fastdc.data.part import PartOfImages, read_share
from fastdc.data.pictures import Changes, Size, channels_of, open_picture, pixels_of
from fastdc.data.storage import empty_pixels
from fastdc.errors import DataError, MissingFileError
from fastdc.parallel.world import world
from fastdc.runs.content import UNFORESEEN, in_a_line
from fastdc.runtime.seeding import make_generator

_TRAIN, _TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")  # names of folders, the first that is there
_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2")
_NOT_CLASSES = ("__MACOSX", "__pycache__", "@eaDir", "lost+found")  # what systems put beside
_TESTED = 5  # one image in so many is for testing, where a folder has no split
_SPLIT_SEED = 0

Files = list[tuple[Path, int]]  # with the number of the class of each


class Folder:
    """PATH/train/CLASS/* and PATH/test/CLASS/*, or val/ in its place: images in grey if all of them are, else RGB.

    Without train/ and test/ the subfolders of PATH are the classes; where there are no images to test on, one in five of each class is
    for that, drawn always in the same way. Names that begin with a dot are not looked at; classes are in natural order, "2" before "10".
    Images that are larger than half of the free memory are kept in a file and read as they are drawn.

    Args:
        path: the folder.
        size: to bring the middle of each image to; None: all have one size.

    Raises:
        MissingFileError: no such folder, or no train/ beside a test/.
        DataError: an empty class, an unreadable image, images of several sizes, or classes that only the test images have.
    """

    def __init__(self, path: Path, size: Size | None = None) -> None:
        self.name, self.size, self.split = f"folder:{path}", size, ""
        if not path.is_dir():
            raise MissingFileError(f"{path} is missing; expected a folder with train/ and test/, each with one subfolder per class.")
        halves = {entry.name.lower(): entry for entry in sorted(path.iterdir()) if entry.is_dir() and _classes_of(entry)}
        train, test = (next((halves[name] for name in names if name in halves), None) for names in (_TRAIN, _TEST))
        if train is None and test is not None:
            raise MissingFileError(f"{path / 'train'} is missing beside {test.name}/; expected both, each with one subfolder per class.")
        if test is None:
            self.train_files, self.test_files, self.classes = _split(*_list_folder(path if train is None else train))
            self.split = f"split into {len(self.train_files)} images to train on and {len(self.test_files)} to test on"
            return
        assert train is not None
        self.train_files, self.classes = _list_folder(train)
        test_files, test_classes = _list_folder(test)
        if odd := [name for name in test_classes if name not in self.classes]:
            raise DataError(f"{test.name}/ of {path} has the classes {', '.join(odd)}, {train.name}/ has not; expected no others there.")
        self.test_files = [(file, self.classes.index(test_classes[number])) for file, number in test_files]

    def pair(self) -> tuple[ImageData, ImageData]:
        """Images to train and to test on."""
        changes, channels = self._changes(), _most_channels(self._files())
        images, labels = _read_files(self.train_files, channels, self.size, changes)
        test, test_labels = _read_files(self.test_files, channels, self.size, changes, expected=(images.shape[2], images.shape[3]))
        data = ImageData.of(images, labels, class_names=self.classes, name=self.name, changes=changes.said(self.name))
        return data, ImageData.of(test, test_labels, like=data)

    def share(self) -> PartOfImages:
        """Those to train on, of which each of several processes reads the images of its own classes."""
        changes, here, files = self._changes(), world(), self._files()
        channels = max(here.gathered(_most_channels([files[i] for i in here.share(len(files))])))

        def read(positions: Tensor) -> Tensor:
            return _read_files([self.train_files[i] for i in positions.tolist()], channels, self.size, changes)[0]

        labels = torch.tensor([number for _, number in self.train_files])
        return read_share(labels, self.classes, read, name=self.name, changes=changes)

    def test(self, train: ImageData) -> ImageData:
        """Those to test on, where those to train on are known."""
        images, labels = _read_files(self.test_files, train.channels, self.size, Changes(), expected=train.image_size)
        return ImageData.of(images, labels, like=train)

    def _files(self) -> list[Path]:
        return [file for file, _ in (*self.train_files, *self.test_files)]

    def _changes(self) -> Changes:
        changes = Changes()
        if self.split:
            changes.add(self.split, 0)
        return changes


def read_classes(path: Path) -> ImageData:
    """Read PATH/CLASS/*, all of it as one set.

    Raises:
        MissingFileError: no such folder.
        DataError: as `Folder`.
    """
    if not path.is_dir():
        raise MissingFileError(f"{path} is missing; expected a folder with one subfolder per class.")
    changes = Changes()
    files, classes = _list_folder(path)
    images, labels = _read_files(files, _most_channels(file for file, _ in files), None, changes)
    return ImageData.of(images, labels, class_names=classes, name=f"folder:{path}", changes=changes.said(f"folder:{path}"))


def _list_folder(folder: Path) -> tuple[Files, tuple[str, ...]]:
    """The images of each subfolder, however deep, with the number of its class; and the names of the classes."""
    classes = _classes_of(folder)
    if not classes:
        raise DataError(f"{folder} has no subfolder; expected one for each class, with its images.")
    files: Files = []
    for number, name in enumerate(classes):
        found = sorted(_images_in(folder / name))
        if not found:
            raise DataError(
                f"{folder / name} holds no image ({', '.join(_SUFFIXES)}); give every class one at least, or remove its subfolder."
            )
        files += [(file, number) for file in found]
    return files, tuple(classes)


def _classes_of(folder: Path) -> list[str]:
    """The names of its subfolders, in natural order."""
    names = [entry.name for entry in folder.iterdir() if entry.is_dir() and not _is_hidden(entry.name)]
    return sorted(names, key=lambda name: (natural(name), name))


def _images_in(folder: Path) -> Iterator[Path]:
    """The images below a folder, through links too, but no folder twice on one way."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = Path(parent).resolve()
        folders[:] = [name for name in folders if not _is_hidden(name) and (real / name).resolve() not in (real, *real.parents)]
        for name in names:
            if name.lower().endswith(_SUFFIXES) and not _is_hidden(name):
                yield Path(parent) / name


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _NOT_CLASSES


def _split(files: Files, classes: tuple[str, ...]) -> tuple[Files, Files, tuple[str, ...]]:
    """Files to train on and files to test on: of each class one in five, drawn always in the same way."""
    train: Files = []
    test: Files = []
    for number in range(len(classes)):
        own = [file for file in files if file[1] == number]
        order = torch.randperm(len(own), generator=make_generator(_SPLIT_SEED, "split", number)).tolist()
        tested = set(order[: max(1, round(len(own) / _TESTED))] if len(own) > 1 else [])
        for position, file in enumerate(own):
            (test if position in tested else train).append(file)
    if not test:
        raise DataError("every class has one image, and none is left to test on; give more, or folders train/ and test/.")
    return train, test, classes


def _most_channels(files: Iterable[Path]) -> int:
    """3 where one of them is in colour."""
    return max(map(_channels, files), default=1)


def _channels(file: Path) -> int:
    from PIL import Image

    try:
        with open_picture(file) as image:
            return channels_of(image)
    except DataError as error:
        raise DataError(f"{file}: {error}.") from None
    except (*UNFORESEEN, Image.DecompressionBombError) as error:
        raise _unreadable(file, error) from None


def _read_files(files: Files, channels: int, size: Size | None, changes: Changes, expected: Size | None = None) -> tuple[Tensor, Tensor]:
    """The pixels of all files, brought to `size` where there is one, all of the size expected or that of the first; and the labels."""
    from PIL import Image

    images: Tensor | None = None
    for i, (file, _) in enumerate(files):
        try:
            with open_picture(file) as image:
                pixels = pixels_of(image, channels, size, changes)
        except DataError as error:
            raise DataError(f"{file}: {error}.") from None
        except (*UNFORESEEN, Image.DecompressionBombError) as error:
            raise _unreadable(file, error) from None
        height, width = pixels.shape[1:]
        expected = (height, width) if expected is None else expected
        if (height, width) != expected:
            raise DataError(
                f"{file} is {width}x{height} pixels, the first image {expected[1]}x{expected[0]}; give image_size=N (--image-size) to "
                "bring all to one size."
            )
        images = empty_pixels((len(files), *pixels.shape)) if images is None else images
        images[i] = torch.from_numpy(np.array(pixels, order="C"))  # a copy, which may be written
    assert images is not None
    return images, torch.tensor([number for _, number in files])


def _unreadable(file: Path, error: Exception) -> DataError:
    reason = in_a_line(error) or type(error).__name__
    return DataError(f"{file} cannot be read as an image ({reason}); replace it or remove it.")
