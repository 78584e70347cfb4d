"""Labels as people keep them: numbers of any type, a column, one-hot rows, names; and what they become, int64 [N]."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdc.errors import DataError

_SUM = 1e-3  # what the shares of classes may sum to beside 1
_WANTED = "one whole class number for each image, or one name"


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key by which names are sorted as people do, "a2" before "a10".

    >>> sorted(["10", "2", "a10", "a2", "1b"], key=natural)
    ['1b', '2', '10', 'a2', 'a10']
    """
    parts = re.split("([0-9]+)", name)
    return [(0, int(part[:18]), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def labels_and_names(labels: Any, known: Sequence[str] | None = None) -> tuple[Tensor, tuple[str, ...] | None]:
    """Class numbers int64 [N], and the names of the classes where labels are names.

    Args:
        labels: a list, an array, a tensor, or what numpy makes an array of, such as a column of a table.
        known: the names that number the classes; None: those that appear, in natural order ("2" before "10").

    Raises:
        DataError: labels that are neither numbers nor names, are missing, or are names that are not known.
    """
    if isinstance(labels, Tensor):
        return _numbers(labels), None
    try:
        names = isinstance(labels, list | tuple) and any(isinstance(label, str) for label in labels)  # numpy makes text of all the others
        array = np.array(labels, dtype=object) if names else np.asarray(labels)
        if array.dtype.kind in "OT":  # of Python's objects, or numpy's own text
            array = _of_objects(array)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise DataError(f"labels cannot be read as an array ({' '.join(str(error).split())}); expected {_WANTED}.") from None
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    if array.dtype.kind == "U":
        return _from_names(_flat(array).tolist(), known)
    if array.dtype.kind not in "biuf":
        raise DataError(f"labels are {array.dtype}; expected {_WANTED}.")
    native = array.astype(np.float64 if array.dtype.kind == "f" else np.int64 if array.dtype.kind in "bi" else np.uint64)
    if native.dtype == np.uint64:
        if native.size and native.max() > np.iinfo(np.int64).max:
            raise DataError(f"label {native.max()} is too large; expected class numbers from 0 on.")
        native = native.astype(np.int64)
    return _numbers(torch.from_numpy(np.ascontiguousarray(native))), None


def _of_objects(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An array of Python objects as one of numbers or of text."""
    values = [value.item() if isinstance(value, Tensor) else value for value in array.reshape(-1).tolist()]
    missing = next((i for i, value in enumerate(values) if value is None or value != value), None)
    if missing is not None:
        raise DataError(f"label {missing} is {values[missing]}; expected {_WANTED}.")
    if all(isinstance(value, str) for value in values):
        return np.array(values, dtype=np.str_).reshape(array.shape)
    if any(isinstance(value, str) for value in values):
        raise DataError(f"some labels are text and some are not; expected {_WANTED}.")
    return np.array(values).reshape(array.shape)


def are_one_hot(labels: Tensor) -> bool:
    """Whether each row [N, K] holds one 1, and 0 else."""
    return bool(((labels == 1).sum(1) == 1).all() and ((labels == 0).sum(1) == labels.shape[1] - 1).all())


def are_shares(labels: Tensor) -> Tensor:
    """Of each row [N, K], whether it holds shares of K classes: from 0 on, with the sum 1."""
    return (labels >= 0).all(1) & ((labels.sum(1) - 1).abs() <= _SUM)


def check_shares(shares: Tensor, count: int, num_classes: int) -> None:
    """Refuse soft labels that are no shares of the classes, [N, num_classes], of so many images.

    Raises:
        DataError: of another shape or dtype, not finite, below 0, or rows that do not sum to 1.
    """
    if tuple(shares.shape) != (count, num_classes) or not shares.dtype.is_floating_point:
        raise DataError(
            f"soft labels are {shares.dtype} of shape {list(shares.shape)} for {count} images of {num_classes} classes; expected float "
            f"[{count}, {num_classes}], the share of each class in each image."
        )
    odd = (~are_shares(shares)).nonzero()
    if len(odd):
        raise DataError(
            f"the soft label of image {int(odd[0])} goes from {shares[odd[0]].min():.4g} to {shares[odd[0]].max():.4g} and sums to "
            f"{shares[odd[0]].sum():.4g}; expected shares from 0 on that sum to 1: the softmax of logits gives them."
        )


def _from_names(names: list[str], known: Sequence[str] | None) -> tuple[Tensor, tuple[str, ...]]:
    classes = tuple(known) if known is not None else tuple(sorted(set(names), key=lambda name: (natural(name), name)))
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = sorted({name for name in names if name not in numbers})
    if unknown:
        listed = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
        raise DataError(f"{unknown[0]!r} is no class; expected one of {listed}.")
    return torch.tensor([numbers[name] for name in names], dtype=torch.int64, device="cpu"), classes


def _flat(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim != 1:
        raise DataError(f"labels have shape {list(array.shape)}; expected {_WANTED}, [N] or [N, 1].")
    return array


def _numbers(labels: Tensor) -> Tensor:
    """Numbers of any dtype, shape and place as int64 [N]."""
    labels = labels.detach().cpu()
    if labels.is_complex() or labels.is_sparse or labels.is_quantized:
        raise DataError(f"labels are {labels.dtype}; expected {_WANTED}.")
    if labels.dtype.is_floating_point:
        whole = labels.isfinite() & (labels == labels.round()) & (labels.abs() < 2**53)
        if not whole.all():
            place = int((~whole).flatten().nonzero()[0])
            raise DataError(
                f"label {place} is {labels.flatten()[place].item():.6g}; expected {_WANTED}: convert them with argmax or .long()."
            )
    if labels.dim() == 2 and labels.shape[1] > 1:
        if not are_one_hot(labels):
            raise DataError(f"labels have shape {list(labels.shape)} and are no one-hot rows; expected {_WANTED}: argmax(1) makes them.")
        return labels.to(torch.int64).argmax(1)
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dim() != 1:
        raise DataError(f"labels have shape {list(labels.shape)}; expected {_WANTED}, [N] or [N, 1].")
    return labels.to(torch.int64)
