"""What a user may hand over as data, turned into ImageData: a name, arrays, tensors, a map-style Dataset."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdc.data.image_data import ImageData, count_classes
from fastdc.data.sources.named import load_dataset
from fastdc.errors import DataError, UsageError
from fastdc.runtime.isolation import isolated

_ACCEPTED = "the name of a dataset, an ImageData, a pair (images, labels), or a map-style torch Dataset"


@isolated()
def as_image_data(data: Any, *, split: str = "train", num_classes: int | None = None, name: str = "data") -> ImageData:
    """Turn what a user calls data into ImageData.

    Args:
        data: the name of a dataset | ImageData | (images, labels), arrays or tensors | a map-style torch Dataset.
            Images are uint8, or float in 0..1 (rounded to the nearest of 256 levels), as NCHW, NHWC or NHW.
        split: which half of a named dataset is meant, "train" or "test".
        num_classes: the number of classes, where not every class need have an image (a test set).
        name: what data without a name is called.

    Raises:
        UsageError: another kind of object, or an unknown name.
        DataError: images or labels that cannot be used; the text says which and why.
    """
    if isinstance(data, ImageData):
        return data
    if isinstance(data, str):
        train, test = load_dataset(data)
        return train if split == "train" else test
    if isinstance(data, tuple | list) and len(data) == 2:
        images, labels = as_images(data[0]), as_labels(data[1])
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, np.ndarray | Tensor | dict):
        images, labels = _read_items(data)
    else:
        raise UsageError(f"data is a {type(data).__name__}; expected {_ACCEPTED}.")
    if len(images) != len(labels):
        raise DataError(f"there are {len(images)} images and {len(labels)} labels; expected one label per image.")
    classes = getattr(data, "classes", None)
    if num_classes is None:
        num_classes = count_classes(labels)
    named = isinstance(classes, Iterable) and not isinstance(classes, str)
    names = [str(c) for c in classes] if named and classes is not None else None
    return ImageData.of(
        images, labels, num_classes=num_classes, class_names=names if names and len(names) == num_classes else None, name=name
    )


def as_images(images: Any) -> Tensor:
    """Images as uint8 [N, channels, H, W], from uint8 or float in 0..1, NCHW, NHWC or NHW."""
    tensor = _as_tensor(images, "images")
    if tensor.dim() not in (3, 4):
        raise DataError(f"images have shape {list(tensor.shape)}; expected [N, channels, H, W], [N, H, W, channels] or [N, H, W].")
    if not tensor.numel():
        raise DataError(f"images have shape {list(tensor.shape)}: there are none; expected at least one.")
    if tensor.dim() == 3:
        tensor = tensor.unsqueeze(1)
    elif tensor.shape[1] not in (1, 3):
        if tensor.shape[3] not in (1, 3):
            raise DataError(f"images have shape {list(tensor.shape)}; expected 1 (grey) or 3 (RGB) channels as dimension 1 or 3.")
        tensor = tensor.permute(0, 3, 1, 2)
    return _as_bytes(tensor)


def as_labels(labels: Any) -> Tensor:
    """Labels as int64 [N], from any whole-number dtype."""
    tensor = _as_tensor(labels, "labels")
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool:
        raise DataError(f"labels are {tensor.dtype}; expected whole class numbers: convert them with .long() or .astype(int).")
    if tensor.dim() != 1:
        raise DataError(f"labels have shape {list(tensor.shape)}; expected one number per image, [N].")
    return tensor.to(torch.int64)


def _as_tensor(values: Any, what: str) -> Tensor:
    if isinstance(values, np.ndarray) and (not values.dtype.isnative or min(values.strides, default=0) < 0):
        values = values.astype(values.dtype.newbyteorder("="), order="C")  # torch takes neither as it is
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is only read here
            return torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        expected = "whole class numbers" if what == "labels" else "uint8 or float pixels"
        raise DataError(f"{what} cannot be read as an array ({' '.join(str(error).split())}); expected {expected}.") from None


def _as_bytes(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return images
    if not images.dtype.is_floating_point:
        raise DataError(f"images are {images.dtype}; expected uint8 in 0..255 or float in 0..1.")
    result = torch.empty(images.shape, dtype=torch.uint8)
    for start in range(0, len(images), 1024):
        block = images[start : start + 1024]
        low, high = block.amin().item(), block.amax().item()  # NaN passes through both
        if not 0 <= low <= high <= 1:
            bad = next(i for i, image in enumerate(block) if not 0 <= image.amin() <= image.amax() <= 1)
            given = f"{block[bad].amin().item():.4g} to {block[bad].amax().item():.4g}"
            raise DataError(
                f"image {start + bad} has pixels from {given}; expected finite float pixels in 0..1, before any normalisation: "
                "scale them, remove NaN, or give uint8."
            )
        result[start : start + 1024] = (block * 255).round().to(torch.uint8)
    return result


def _read_items(dataset: Any) -> tuple[Tensor, Tensor]:
    """Read a map-style Dataset of (image, label) once; only the uint8 copy is kept."""
    count = len(dataset)
    if not count:
        raise DataError(f"the {type(dataset).__name__} given is empty; expected at least one image of each class.")
    labels = torch.empty(count, dtype=torch.int64)
    images: Tensor | None = None
    for i in range(count):
        item = dataset[i]
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise DataError(f"item {i} of the {type(dataset).__name__} is a {type(item).__name__}; expected (image, label).")
        image = _read_image(item[0], i)
        images = torch.empty((count, *image.shape), dtype=torch.uint8) if images is None else images
        if image.shape != images.shape[1:]:
            raise DataError(f"image {i} has shape {list(image.shape)}, image 0 {list(images.shape[1:])}; bring them to one size.")
        label = as_labels(item[1].reshape(-1) if isinstance(item[1], Tensor | np.ndarray) else [item[1]])
        if len(label) != 1:
            raise DataError(f"the label of item {i} has {len(label)} elements; expected one class number (argmax() of a one-hot label).")
        images[i], labels[i] = image, label[0]
    assert images is not None
    return images, labels


def _read_image(image: Any, position: int) -> Tensor:
    if getattr(image, "mode", None) in ("P", "PA"):
        image = image.convert("RGB")  # pixels of such a PIL image are numbers of a palette
    array = image if isinstance(image, Tensor) else np.array(image)  # a PIL image becomes HW or HWC
    if array.ndim not in (2, 3):
        raise DataError(f"image {position} has shape {list(array.shape)}; expected [channels, H, W], [H, W, channels] or [H, W].")
    try:
        return as_images(array[None])[0]
    except DataError as error:
        raise DataError(f"image {position} of the dataset: {error}") from None
