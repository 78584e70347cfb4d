"""A user's own files: a folder with one subfolder per class, or an .npz archive."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastdc.data.convert import as_images, as_labels
from fastdc.data.image_data import ImageData, count_classes
from fastdc.errors import DataError, MissingFileError

_NPZ_KEYS = (("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels"))


def load_folder(path: Path) -> tuple[ImageData, ImageData]:
    """Read PATH/train/CLASS/* and PATH/test/CLASS/*: images of one size, grey if all of them are, else RGB.

    Raises:
        MissingFileError: no such folder, or no train/ or test/ in it.
        DataError: an empty class, an unreadable image, images of several sizes, or classes that differ in train and test.
    """
    splits = []
    for split in ("train", "test"):
        folder = path / split
        if not folder.is_dir():
            raise MissingFileError(f"{folder} is missing; expected folders train/ and test/ with one subfolder per class.")
        splits.append(_list_folder(folder))
    (train_files, classes), (test_files, test_classes) = splits
    if classes != test_classes:
        odd = sorted(set(classes) ^ set(test_classes))
        raise DataError(f"train/ and test/ of {path} differ in the classes {', '.join(odd)}; expected the same subfolders.")
    grey = all(_mode(file) in ("1", "L") for file, _ in (*train_files, *test_files))
    train = ImageData.of(*_read_files(train_files, grey), class_names=classes, name=f"folder:{path}")
    return train, ImageData.of(*_read_files(test_files, grey, train.image_size), like=train)


def load_npz(path: Path) -> tuple[ImageData, ImageData]:
    """Read an .npz archive with x_train, y_train, x_test, y_test, or train_images, train_labels, test_images, test_labels.

    Raises:
        MissingFileError: no such file.
        DataError: not an .npz archive, cut short, or without these arrays.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} is missing; expected an .npz archive.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys = next((keys for keys in _NPZ_KEYS if set(keys) <= set(archive.files)), None)
            arrays = [archive[key] for key in keys] if keys else []
            found = ", ".join(archive.files) or "nothing"
    except (OSError, ValueError, EOFError, AttributeError, TypeError, NotImplementedError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as an .npz archive ({error}); it is cut short, damaged or of another kind.") from None
    if not arrays:
        raise DataError(f"{path} holds {found}; expected {' or '.join(', '.join(keys) for keys in _NPZ_KEYS)}.")
    labels = [as_labels(array.reshape(-1) if array.ndim == 2 and array.shape[1] == 1 else array) for array in arrays[1::2]]
    images = [as_images(array) for array in arrays[0::2]]
    if images[0].shape[1:] != images[1].shape[1:]:
        shapes = [list(part.shape[1:]) for part in images]
        raise DataError(f"training images of {path} are {shapes[0]} and test images {shapes[1]}; expected the same size.")
    train = ImageData.of(images[0], labels[0], num_classes=count_classes(labels[0]), name=f"npz:{path}")
    return train, ImageData.of(images[1], labels[1], like=train)


def _list_folder(folder: Path) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

    try:
        classes, numbers = find_classes(str(folder))
        samples = make_dataset(str(folder), numbers, IMG_EXTENSIONS)
    except FileNotFoundError as error:
        raise DataError(f"{folder}: {error} Give every class at least one image, or remove its subfolder.") from None
    return [(Path(file), number) for file, number in samples], tuple(classes)


def _mode(file: Path) -> str:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            return image.mode
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read as an image ({error}); replace it or remove it.") from None


def _read_files(files: list[tuple[Path, int]], grey: bool, size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    from PIL import Image

    images: Tensor | None = None
    for i, (file, _) in enumerate(files):
        try:
            with Image.open(file) as image:
                if image.mode.startswith(("I", "F")):
                    raise DataError(f"{file} has more than 8 bits a pixel (mode {image.mode}); save it with 8.")
                pixels = np.array(image.convert("L" if grey else "RGB"))
        except DataError:
            raise
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{file} cannot be read as an image ({error}); replace it or remove it.") from None
        size = pixels.shape[:2] if size is None else size
        if pixels.shape[:2] != size:
            height, width = pixels.shape[:2]
            raise DataError(f"{file} is {width}x{height} pixels, the first image {size[1]}x{size[0]}; bring all to one size.")
        image_tensor = torch.from_numpy(pixels[None] if grey else pixels.transpose(2, 0, 1))
        images = torch.empty((len(files), *image_tensor.shape), dtype=torch.uint8) if images is None else images
        images[i] = image_tensor
    assert images is not None
    return images, torch.tensor([number for _, number in files])
