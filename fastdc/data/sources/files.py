"""A user's own files: a folder with one subfolder per class, or an .npz archive."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdc.data.convert import as_images
from fastdc.data.image_data import ImageData, count_classes
from fastdc.data.labels import labels_and_names, natural
from fastdc.data.pictures import Changes, Size, channels_of, open_picture, pixels_of, resized
from fastdc.data.storage import empty_pixels
from fastdc.errors import DataError, MissingFileError
from fastdc.parallel.devices import free_memory
from fastdc.runs.content import UNFORESEEN, in_a_line, naming, reading
from fastdc.runtime.seeding import make_generator

_NPZ_KEYS = (("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels"))
_TRAIN, _TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")  # names of folders, the first that is there
_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2")
_NOT_CLASSES = ("__MACOSX", "__pycache__", "@eaDir", "lost+found")  # what systems put beside
_TESTED = 5  # one image in so many is for testing, where a folder has no split
_SPLIT_SEED = 0

Files = list[tuple[Path, int]]  # with the number of the class of each


def load_folder(path: Path, size: Size | None = None) -> tuple[ImageData, ImageData]:
    """Read PATH/train/CLASS/* and PATH/test/CLASS/*, or val/ in its place: images in grey if all of them are, else RGB.

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
    changes = Changes()
    if not path.is_dir():
        raise MissingFileError(f"{path} is missing; expected a folder with train/ and test/, each with one subfolder per class.")
    halves = {entry.name.lower(): entry for entry in sorted(path.iterdir()) if entry.is_dir() and _classes_of(entry)}
    train, test = (next((halves[name] for name in names if name in halves), None) for names in (_TRAIN, _TEST))
    if train is None and test is not None:
        raise MissingFileError(f"{path / 'train'} is missing beside {test.name}/; expected both, each with one subfolder per class.")
    if test is None:
        train_files, test_files, classes = _split(*_list_folder(path if train is None else train))
        changes.add(f"split into {len(train_files)} images to train on and {len(test_files)} to test on", 0)
    else:
        assert train is not None
        train_files, classes = _list_folder(train)
        test_files, test_classes = _list_folder(test)
        if odd := [name for name in test_classes if name not in classes]:
            raise DataError(f"{test.name}/ of {path} has the classes {', '.join(odd)}, {train.name}/ has not; expected no others there.")
        test_files = [(file, classes.index(test_classes[number])) for file, number in test_files]
    channels = max(_channels(file) for file, _ in (*train_files, *test_files))
    images, labels = _read_files(train_files, channels, size, changes)
    test_images, test_labels = _read_files(test_files, channels, size, changes, expected=(images.shape[2], images.shape[3]))
    data = ImageData.of(images, labels, class_names=classes, name=f"folder:{path}", changes=changes.said(f"folder:{path}"))
    return data, ImageData.of(test_images, test_labels, like=data)


def read_classes(path: Path) -> ImageData:
    """Read PATH/CLASS/*, all of it as one set.

    Raises:
        MissingFileError: no such folder.
        DataError: as `load_folder`.
    """
    if not path.is_dir():
        raise MissingFileError(f"{path} is missing; expected a folder with one subfolder per class.")
    changes = Changes()
    files, classes = _list_folder(path)
    images, labels = _read_files(files, max(_channels(file) for file, _ in files), None, changes)
    return ImageData.of(images, labels, class_names=classes, name=f"folder:{path}", changes=changes.said(f"folder:{path}"))


def load_npz(path: Path, size: Size | None = None) -> tuple[ImageData, ImageData]:
    """Read an .npz archive with x_train, y_train, x_test, y_test, or train_images, train_labels, test_images, test_labels.

    Args:
        path: the file.
        size: to bring the middle of each image to; None: all have one size.

    Raises:
        MissingFileError: no such file.
        DataError: not an .npz archive, cut short, without these arrays, or larger than memory.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} is missing; expected an .npz archive.")
    with reading(path, "an .npz archive of a dataset", "get it anew"), np.load(path, allow_pickle=False) as archive:
        keys = next((keys for keys in _NPZ_KEYS if set(keys) <= set(archive.files)), None)
        arrays = [array_of_archive(archive, key) for key in keys] if keys else []
        found = in_a_line(", ".join(archive.files)) or "nothing"
    if not arrays:
        raise DataError(f"{path} holds {found}; expected {' or '.join(', '.join(keys) for keys in _NPZ_KEYS)}.")
    with naming(path):
        return _of_arrays(path, arrays, size)


def _of_arrays(path: Path, arrays: list[np.ndarray[Any, Any]], size: Size | None) -> tuple[ImageData, ImageData]:
    """What an archive holds: images and labels to train on, images and labels to test on."""
    changes = Changes()
    labels, names = labels_and_names(arrays[1])
    test_labels, test_names = labels_and_names(arrays[3], names)
    if (names is None) != (test_names is None):
        raise DataError(f"the labels of {path} are names in one half and numbers in the other; expected the same in both.")
    images = [as_images(array) for array in arrays[0::2]]
    if images[0].shape[1:] != images[1].shape[1:] and size is None:
        shapes = [list(part.shape[1:]) for part in images]
        raise DataError(
            f"training images of {path} are {shapes[0]} and test images {shapes[1]}; expected the same size: give image_size=N."
        )
    images = [resized(part, size, changes) for part in images]
    name, said = f"npz:{path}", changes.said(f"npz:{path}")
    train = ImageData.of(images[0], labels, num_classes=count_classes(labels), class_names=names, name=name, changes=said)
    return train, ImageData.of(images[1], test_labels, like=train)


def array_of_archive(archive: Any, key: str) -> np.ndarray[Any, Any]:
    """An array of an .npz archive, of which no more is read than its header declares and the archive says that there is."""
    with archive.zip.open(f"{key}.npy") as member:
        version = np.lib.format.read_magic(member)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(member)
        declared, held = math.prod(shape) * dtype.itemsize, archive.zip.getinfo(f"{key}.npy").file_size - member.tell()
    if dtype.hasobject or declared != held:
        raise ValueError(f"{key} declares {declared} bytes of {dtype} where it holds {held}")
    if declared > free_memory(torch.device("cpu")):
        raise ValueError(f"{key} declares {declared / 1e9:.1f} GB, more than there is memory for")
    result: np.ndarray[Any, Any] = archive[key]
    return result


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
        images[i] = torch.from_numpy(np.ascontiguousarray(pixels))
    assert images is not None
    return images, torch.tensor([number for _, number in files])


def _unreadable(file: Path, error: Exception) -> DataError:
    reason = in_a_line(error) or type(error).__name__
    return DataError(f"{file} cannot be read as an image ({reason}); replace it or remove it.")
