"""What a user may hand over as data, turned into ImageData: a name, arrays, tensors, a map-style Dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdc.data.arrays import as_images
from fastdc.data.image_data import ImageData, count_classes
from fastdc.data.labels import labels_and_names
from fastdc.data.pictures import Changes, Size, channels_of, pixels_of, resized
from fastdc.data.sources.named import load_dataset
from fastdc.data.storage import empty_pixels
from fastdc.errors import DataError, UsageError
from fastdc.runs.content import UNFORESEEN, in_a_line
from fastdc.runtime.isolation import isolated

_ACCEPTED = (
    "the name of a dataset, an ImageData, a pair (images, labels), or a map-style Dataset of (image, label) or of dicts with both, such as "
    "those of torch or Hugging Face"
)
_IMAGE_KEYS = ("image", "img", "images", "pixel_values", "x", "data", "input")  # of an item that is a dict
_LABEL_KEYS = ("label", "labels", "fine_label", "target", "targets", "class", "y", "category")
_EXPECTED_ITEM = "(image, label), or a dict with both, such as {'image': ..., 'label': ...}"


@isolated()
def as_image_data(
    data: Any,
    *,
    split: str = "train",
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    image_size: Size | None = None,
    name: str = "data",
) -> ImageData:
    """Turn what a user calls data into ImageData.

    Args:
        data: the name of a dataset | ImageData | (images, labels), arrays or tensors | a map-style Dataset of (image, label), or of
            dicts with an image and a label. Images are uint8, or float in 0..1 (rounded to the nearest of 256 levels), as NCHW, NHWC or
            NHW, or pictures of PIL. Labels are whole numbers of any type, as [N] or [N, 1] or one-hot, or the names of classes.
        split: which half of a named dataset is meant, "train" or "test".
        num_classes: the number of classes, where not every class need have an image (a test set).
        class_names: of a test set, by which labels that are names are numbered.
        image_size: to bring the middle of each image to; None: all have one size.
        name: what data without a name is called.

    Raises:
        UsageError: another kind of object, or an unknown name.
        DataError: images or labels that cannot be used; the text says which and why.
    """
    if isinstance(data, str):
        train, test = load_dataset(data, image_size=image_size)
        return train if split == "train" else test
    changes = Changes()
    if isinstance(data, ImageData):
        images = resized(data.images, image_size, changes)
        return dataclasses.replace(data, images=images, changes=data.changes + changes.said(data.name)) if changes.counts else data
    if isinstance(data, tuple | list) and len(data) == 2:
        images, labels = resized(as_images(data[0]), image_size, changes), data[1]
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, np.ndarray | Tensor | dict):
        images, labels = _read_items(data, image_size, changes)
    else:
        raise UsageError(f"data is a {type(data).__name__}; expected {_ACCEPTED}.")
    labels, found = labels_and_names(labels, class_names)
    if len(images) != len(labels):
        raise DataError(f"there are {len(images)} images and {len(labels)} labels; expected one label per image.")
    if num_classes is None:
        num_classes = count_classes(labels)
    names = found if found is not None else _class_names(data)
    return ImageData.of(
        images,
        labels,
        num_classes=num_classes,
        class_names=names if names and len(names) == num_classes else None,
        name=name,
        changes=changes.said(name),
    )


def as_pair(train: Any, test: Any, name: str | None = None) -> tuple[ImageData, ImageData]:
    """A training set and its test set, each as `as_image_data` takes it.

    Args:
        train: the training set.
        test: the test set; labels that are names are numbered as those of the training set.
        name: what both are called, where they have no name.

    Raises:
        UsageError: another kind of object, or an unknown name.
        DataError: data that cannot be used, or two sets that differ in their classes, or in the channels or the size of their images.
    """
    real, of = as_image_data(train, name=name or "data"), f" of {name}" if name else ""
    tested = as_image_data(test, split="test", num_classes=real.num_classes, class_names=real.class_names)
    if tested.num_classes != real.num_classes or tested.images.shape[1:] != real.images.shape[1:]:
        raise DataError(
            f"the test set{of} has {tested.num_classes} classes of {list(tested.images.shape[1:])} images, "
            f"the training set {real.num_classes} of {list(real.images.shape[1:])}; expected the same."
        )
    check_order(tested, real.class_names, "training set", "give both in one order")
    return real, tested


def check_order(test: ImageData, class_names: Sequence[str], beside: str, cure: str) -> None:
    """Raise a DataError where a test set has the same classes as what stands beside it, by other numbers."""
    if test.class_names != tuple(class_names) and set(test.class_names) == set(class_names):
        raise DataError(
            f"classes of the test set are {', '.join(test.class_names[:5])}, ..., those of the {beside} "
            f"{', '.join(class_names[:5])}, ...; expected one order: {cure}."
        )


def _read_items(dataset: Any, size: Size | None, changes: Changes) -> tuple[Tensor, list[Any]]:
    """Read a map-style Dataset once; only the uint8 copy is kept. Pictures of PIL become grey where all of them are, else RGB."""
    count, kind = len(dataset), type(dataset).__name__
    if not count:
        raise DataError(f"the {kind} given is empty; expected at least one image of each class.")
    images: Tensor | None = None
    labels: list[Any] = []
    channels, i = 1, 0
    while i < count:
        item, label = _parts(dataset[i], i, kind)
        if _is_picture(item) and channels_of(item) > channels:
            channels, images, labels, i = 3, None, [], 0  # those before were grey: once more, with all in colour
            changes.counts.clear()
            continue
        image = _read_image(item, i, channels, size, changes)
        images = empty_pixels((count, *image.shape)) if images is None else images
        if image.shape != images.shape[1:]:
            cure = "give image_size=N to bring all to one size" if len(image) == len(images[0]) else "give all of them as many channels"
            raise DataError(f"image {i} has shape {list(image.shape)}, image 0 {list(images.shape[1:])}; {cure}.")
        images[i] = image
        labels.append(_one_label(label, i))
        i += 1
    assert images is not None
    return images, labels


def _parts(item: Any, position: int, kind: str) -> tuple[Any, Any]:
    """Image and label of an item."""
    if isinstance(item, Mapping):
        image, label = (next((key for key in keys if key in item), None) for keys in (_IMAGE_KEYS, _LABEL_KEYS))
        if image is None:  # by what it is, where no name says it
            image = next((key for key, value in item.items() if _is_picture(value)), None)
        if image is not None and label is not None:
            return item[image], item[label]
        raise DataError(
            f"item {position} of the {kind} is a dict with {', '.join(map(repr, item))}; expected {_EXPECTED_ITEM}, or give a dataset "
            "whose items are (image, label)."
        )
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise DataError(f"item {position} of the {kind} is a {type(item).__name__}; expected {_EXPECTED_ITEM}.")
    return item[0], item[1]


def _one_label(label: Any, position: int) -> Any:
    """The label of an item as a number or a name."""
    if isinstance(label, Tensor | np.ndarray):
        values = label.reshape(-1).tolist()
        if len(values) == 1:
            return values[0]
        if len(values) > 1 and sorted(values) == [0] * (len(values) - 1) + [1]:
            return values.index(1)
        raise DataError(
            f"the label of item {position} has {len(values)} elements; expected one class number (argmax() of a one-hot label)."
        )
    return label


def _class_names(data: Any) -> list[str] | None:
    """The names that a Dataset keeps: in `classes`, in its features, or those of the one it is a part of."""
    for part in (data, getattr(data, "dataset", None)):
        classes = getattr(part, "classes", None)
        if isinstance(classes, Iterable) and not isinstance(classes, str):
            return [str(name) for name in classes]
        features = getattr(part, "features", None)
        if isinstance(features, Mapping):
            names = next((getattr(features[key], "names", None) for key in _LABEL_KEYS if key in features), None)
            if names:
                return [str(name) for name in names]
    return None


def _is_picture(value: Any) -> bool:
    """Whether it is a picture of PIL, which need not be installed."""
    return all(hasattr(value, name) for name in ("mode", "convert", "getextrema"))


def _read_image(image: Any, position: int, channels: int, size: Size | None, changes: Changes) -> Tensor:
    try:
        if _is_picture(image):
            return torch.from_numpy(np.ascontiguousarray(pixels_of(image, channels, size, changes)))
        array = image if isinstance(image, Tensor) else np.array(image)
        if array.ndim not in (2, 3):
            raise DataError(f"it has shape {list(array.shape)}; expected [channels, H, W], [H, W, channels] or [H, W].")
        return resized(as_images(array[None]), size, changes)[0]
    except DataError as error:
        raise DataError(f"image {position} of the dataset: {error}") from None
    except UNFORESEEN as error:
        reason = in_a_line(error) or type(error).__name__
        raise DataError(f"image {position} of the dataset cannot be read ({reason}); replace it, or leave it out.") from None
