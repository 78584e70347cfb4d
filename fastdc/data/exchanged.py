"""Condensed images as other programs of the field keep them in files: tensors, with less said about them than is needed to use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdc.data.arrays import channels_first
from fastdc.data.image_data import Statistics
from fastdc.data.labels import are_one_hot, are_shares, labels_and_names
from fastdc.data.sources.archive import array_of_archive
from fastdc.errors import DataError, MissingFileError
from fastdc.runs.content import UNFORESEEN, in_a_line, reading

SUFFIXES = (".pt", ".pth", ".npz")
AUTHORS_STATISTICS: dict[str, Statistics] = {"cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))}
"""Mean and standard deviation by which the programs of DC, DSA and DM normalise a dataset, where they are not those of its pixels."""

_IN_FOLDERS = ("images_best.pt", "images.pt", "data.pt")  # what a folder of MTT, DD-Ranking or IDC holds
_IMAGES, _LABELS = ("images", "image_syn", "x"), ("labels", "label_syn", "targets", "y")  # names in a dict or an archive
_NEAR = 0.1  # what pixels may lie outside 0..1 by, where they are clamped now and then
_REPEATED = 1 << 26  # bytes that a tensor may take which a file holds a part of, repeated
_KNOWN = "{'data': [[images, labels], ...]}, [images, labels], a dict or an .npz archive with images and labels, or images beside labels.pt"


@dataclass(frozen=True, eq=False)
class Exchanged:
    """What such a file holds.

    Args:
        images: float32 [S, channels, H, W].
        labels: class numbers int64 [S]; or soft, shares of the K classes, float32 [S, K].
        in_pixels: whether the images are pixels in 0..1; else they are normalised, by numbers that the file does not say.
        provenance: where they come from, and what was done to them on the way in.
    """

    images: Tensor
    labels: Tensor
    in_pixels: bool
    provenance: dict[str, Any] = field(default_factory=dict)


def exchanged_file(path: Path) -> Path | None:
    """The file by which to read `path`, where it is one that other programs wrote or a folder with one; else None."""
    if path.is_dir():
        return next((path / name for name in _IN_FOLDERS if (path / name).is_file()), None)
    return path if path.suffix.lower() in SUFFIXES else None


def read_exchanged(path: Path, experiment: int = 0) -> Exchanged:
    """Read a file of condensed images that another program wrote; no code in it is run.

    Args:
        path: the file: `.npz`, or what `torch.save` wrote.
        experiment: which pair to take, where there are several.

    Raises:
        MissingFileError: no such file.
        DataError: a file of another make, or an experiment that is not in it.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} is missing; expected a file with condensed images.")
    with reading(path, "a file of condensed images"):
        pairs, more = ([_of_archive(path)], {}) if path.suffix.lower() == ".npz" else _pairs(_loaded(path), path)
    if not 0 <= experiment < len(pairs):
        raise DataError(f"{path} holds experiments 0 to {len(pairs) - 1}; got {experiment}.")
    images, labels = pairs[experiment]
    if not _is_dense(images) or not _is_dense(labels) or not labels.numel():
        raise DataError(f"{path}: experiment {experiment} is no pair of dense tensors; expected images and labels.")
    with reading(path, "a file of condensed images"):
        images, in_pixels = _as_float(images)
        labels, changes = _as_labels(labels)
    in_pixels &= "accs_all_exps" not in more  # the authors' are normalised
    provenance = {"imported": path.name, "experiment": experiment, **more, **({"changes": changes} if changes else {})}
    return Exchanged(images, labels, in_pixels, provenance)


def _loaded(path: Path) -> Any:
    """What `torch.save` wrote."""
    # The authors' accuracies are numpy scalars; these names rebuild numbers and nothing else.
    scalar = np.float64(0).__reduce__()[0]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")  # of numpy 1 and 2, whichever wrote the file
    numbers: list[Any] = [*((scalar, f"{module}.scalar") for module in modules), np.dtype, type(np.dtype(np.float64))]
    try:
        with torch.serialization.safe_globals(numbers):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UNFORESEEN as error:
        raise _of_another_make(path, type(error).__name__) from None


def _pairs(content: Any, path: Path) -> tuple[list[Any], dict[str, Any]]:
    """The pairs of images and labels in what a file holds, and what else it says."""
    if isinstance(content, Mapping) and "data" in content:
        pairs = content["data"]
        if isinstance(pairs, Sequence) and pairs and all(isinstance(pair, Sequence) and len(pair) == 2 for pair in pairs):
            return list(pairs), {"accs_all_exps": _plain(content.get("accs_all_exps"))}
    elif isinstance(content, Mapping):
        if pair := _by_name(content):
            return [pair], {}
    elif isinstance(content, list | tuple) and len(content) == 2 and isinstance(content[0], Tensor):
        return [content], {}
    elif isinstance(content, Tensor):
        beside = path.with_name(path.name.replace("images", "labels"))
        if beside == path or not beside.is_file():
            raise MissingFileError(f"{path} holds images alone, and no file beside it their labels; expected images.pt and labels.pt.")
        return [(content, _loaded(beside))], {}
    raise _of_another_make(path, "it holds something else")


def _of_archive(path: Path) -> Any:
    """The pair in an .npz archive, whose images may be NHWC."""
    with reading(path, "an .npz archive of condensed images"), np.load(path, allow_pickle=False) as archive:
        names = _by_name({name: name for name in archive.files})
        if names is None:
            raise _of_another_make(path, f"it holds {in_a_line(', '.join(archive.files)) or 'nothing'}")
        images, labels = (torch.from_numpy(np.ascontiguousarray(array_of_archive(archive, name))) for name in names)
        return channels_first(images), labels


def _by_name(content: Mapping[Any, Any]) -> tuple[Any, Any] | None:
    images, labels = (next((content[name] for name in names if name in content), None) for names in (_IMAGES, _LABELS))
    return None if images is None or labels is None else (images, labels)


def _as_float(images: Tensor) -> tuple[Tensor, bool]:
    """Images as float32 [S, channels, H, W], and whether they are pixels in 0..1."""
    if images.dim() == 3:
        images = images.unsqueeze(1)
    if not (images.dtype.is_floating_point or images.dtype == torch.uint8) or images.dim() != 4 or not images.numel():
        raise DataError(f"images are {images.dtype} of shape {list(images.shape)}; expected float or uint8 [N, channels, H, W].")
    if images.dtype == torch.uint8:
        return images.float() / 255, True
    images = images.detach().float()
    return images, bool((images >= -_NEAR).all() and (images <= 1 + _NEAR).all())


def _as_labels(labels: Tensor) -> tuple[Tensor, list[str]]:
    """Class numbers int64 [S], or shares of classes float32 [S, K]; and what was done to them."""
    if labels.dim() != 2 or labels.shape[1] == 1 or not labels.dtype.is_floating_point or are_one_hot(labels):
        return labels_and_names(labels)[0], []
    labels = labels.detach().float()
    if not labels.isfinite().all():
        raise DataError("some labels are NaN or infinite; expected the number of a class, or shares of classes, for each image.")
    if are_shares(labels).all():
        return labels / labels.sum(1, keepdim=True), []
    return labels.softmax(1), ["soft labels by the softmax of logits"]


def _is_dense(value: Any) -> bool:
    """Whether it is a tensor of numbers that lie one after another in the memory of the CPU."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_nested or value.is_complex())
        and value.nbytes <= max(_REPEATED, value.untyped_storage().nbytes())
    )


def _plain(value: Any) -> Any:
    """Numbers, lists and dicts of a file as types that JSON holds."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, int | float | np.number | Tensor) else None


def _of_another_make(path: Path, why: str) -> DataError:
    return DataError(
        f"{path} is not a file of condensed images: it is damaged, of another kind, or holds more than tensors and numbers ({why}); "
        f"expected {_KNOWN}."
    )
