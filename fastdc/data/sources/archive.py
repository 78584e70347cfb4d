"""A user's own .npz archive."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdc.data.arrays import as_images
from fastdc.data.image_data import ImageData, check_labels, count_classes
from fastdc.data.labels import labels_and_names
from fastdc.data.part import PartOfImages, part_of, read_share
from fastdc.data.pictures import Changes, Size, resized
from fastdc.data.storage import empty_pixels
from fastdc.errors import DataError, MissingFileError
from fastdc.parallel.devices import free_memory
from fastdc.parallel.world import world
from fastdc.runs.content import in_a_line, naming, reading

_KEYS = (("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels"))
_BLOCK = 1 << 24  # bytes of images that are read at once


class Archive:
    """An .npz archive with x_train, y_train, x_test, y_test, or train_images, train_labels, test_images, test_labels.

    Args:
        path: the file.
        size: to bring the middle of each image to; None: all have one size.

    Raises:
        MissingFileError: no such file.
        DataError: not an .npz archive, cut short, without these arrays, or larger than memory.
    """

    def __init__(self, path: Path, size: Size | None = None) -> None:
        self.path, self.name, self.size = path, f"npz:{path}", size
        if not path.is_file():
            raise MissingFileError(f"{path} is missing; expected an .npz archive.")
        with self._opened() as archive:
            keys = next((keys for keys in _KEYS if set(keys) <= set(archive.files)), None)
            found = in_a_line(", ".join(archive.files)) or "nothing"
        if keys is None:
            raise DataError(f"{path} holds {found}; expected {' or '.join(', '.join(keys) for keys in _KEYS)}.")
        self.keys = keys

    def pair(self) -> tuple[ImageData, ImageData]:
        """Images to train and to test on."""
        with self._opened() as archive:
            arrays = [array_of_archive(archive, key) for key in self.keys]
        with naming(self.path):
            labels, test_labels, names = self._labels(arrays[1], arrays[3])
            images, test = (as_images(array) for array in arrays[0::2])
            if images.shape[1:] != test.shape[1:] and self.size is None:
                shapes = f"{list(images.shape[1:])} and test images {list(test.shape[1:])}"
                raise DataError(f"training images of {self.path} are {shapes}; expected the same size: give image_size=N.")
            changes = Changes()
            images, test = (resized(part, self.size, changes) for part in (images, test))
            train = ImageData.of(
                images, labels, num_classes=count_classes(labels), class_names=names, name=self.name, changes=changes.said(self.name)
            )
            return train, ImageData.of(test, test_labels, like=train)

    def share(self) -> PartOfImages:
        """Those to train on, of which each of several processes holds the images of its own classes; the archive is read whole."""
        with self._opened() as archive:
            (count, *_), dtype = _shape_and_dtype(archive, self.keys[0])
            labels, test_labels = (array_of_archive(archive, key) for key in self.keys[1::2])
        if dtype != np.uint8:
            whole, _ = self.pair()
            return part_of(whole, world().share(whole.num_classes))
        changes = Changes()

        def read(positions: Tensor) -> Tensor:
            with self._opened() as archive:
                rows = _rows_of_archive(archive, self.keys[0], positions)
            return resized(as_images(rows), self.size, changes)

        with naming(self.path):
            numbers, _, names = self._labels(labels, test_labels)
            check_labels(numbers, count, num_classes := count_classes(numbers))
            return read_share(numbers, names or [str(c) for c in range(num_classes)], read, name=self.name, changes=changes)

    def test(self, train: ImageData) -> ImageData:
        """Those to test on, where those to train on are known."""
        with self._opened() as archive:
            _, labels, images, test_labels = (array_of_archive(archive, key) if i else None for i, key in enumerate(self.keys))
        with naming(self.path):
            _, numbers, _ = self._labels(labels, test_labels)
            return ImageData.of(resized(as_images(images), self.size, Changes()), numbers, like=train)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        with reading(self.path, "an .npz archive of a dataset", "get it anew"), np.load(self.path, allow_pickle=False) as archive:
            yield archive

    def _labels(self, given: Any, test: Any) -> tuple[Tensor, Tensor, tuple[str, ...] | None]:
        """Those of both halves as numbers, and the names of the classes where they are names."""
        labels, names = labels_and_names(given)
        test_labels, test_names = labels_and_names(test, names)
        if (names is None) != (test_names is None):
            raise DataError(f"the labels of {self.path} are names in one half and numbers in the other; expected the same in both.")
        return labels, test_labels, names


def array_of_archive(archive: Any, key: str) -> np.ndarray[Any, Any]:
    """An array of an .npz archive, of which no more is read than its header declares and the archive says that there is."""
    shape, dtype = _shape_and_dtype(archive, key)
    if (declared := math.prod(shape) * dtype.itemsize) > free_memory(torch.device("cpu")):
        raise ValueError(f"{key} declares {declared / 1e9:.1f} GB, more than there is memory for")
    result: np.ndarray[Any, Any] = archive[key]
    return result


def _shape_and_dtype(archive: Any, key: str) -> tuple[tuple[int, ...], Any]:
    """What the header of an array declares, where the archive says that there is as much."""
    with archive.zip.open(f"{key}.npy") as member:
        shape, _, dtype = _header(member)
        declared, held = math.prod(shape) * dtype.itemsize, archive.zip.getinfo(f"{key}.npy").file_size - member.tell()
    if dtype.hasobject or declared != held:
        raise ValueError(f"{key} declares {declared} bytes of {dtype} where it holds {held}")
    return shape, dtype


def _header(member: Any) -> tuple[tuple[int, ...], bool, Any]:
    """Shape, whether columns come before rows, and dtype of an array that begins here."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    found: tuple[tuple[int, ...], bool, Any] = read(member)
    return found


def _rows_of_archive(archive: Any, key: str, positions: Tensor) -> Tensor:
    """The rows of an array of bytes at rising positions; of the others a block is held at once."""
    with archive.zip.open(f"{key}.npy") as member:
        shape, by_columns, _ = _header(member)
        if by_columns:
            return torch.from_numpy(np.ascontiguousarray(array_of_archive(archive, key)[positions.numpy()]))
        rows, size = empty_pixels((len(positions), *shape[1:])), math.prod(shape[1:])
        most = max(1, _BLOCK // max(1, size))
        for start in range(0, shape[0], most):  # to the end, where the archive's check sum is compared
            count = min(most, shape[0] - start)
            block = torch.frombuffer(bytearray(member.read(count * size)), dtype=torch.uint8).view(count, *shape[1:])
            here = (positions >= start) & (positions < start + count)
            rows[here] = block[positions[here] - start]
    return rows
