"""What files hold, checked before it is used: a file may be whole and still not say what it should."""

from __future__ import annotations

import contextlib
import json
import math
import pickle
import struct
import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from fastdc.errors import DataError, FastdcError, MissingFileError, UsageError

# What content that nobody foresaw makes of code that reads it: a missing key, deep JSON, text that is no number, a weight too large.
UNFORESEEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SafetensorError,
    SyntaxError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    tarfile.TarError,
    tokenize.TokenError,  # of the headers of .npy, which are Python
    zipfile.BadZipFile,
    zlib.error,
)


def in_a_line(text: object, most: int = 200) -> str:
    """Text that comes from a file as one line that can be printed, the middle left out where it is long.

    >>> in_a_line("a\\n\\tb\\0"), in_a_line("abcdefghijkl", 8)
    ('a b\\\\x00', 'abcde...l')
    """
    whole = str(text)
    line = " ".join((whole if len(whole) < 10 * most else f"{whole[: 5 * most]} {whole[-5 * most :]}").split())
    line = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in line)
    return line if len(line) <= most else f"{line[: 2 * most // 3]}...{line[-(most // 6) :]}"


def plain_types(text: str | bytes) -> Any:
    """What JSON says; a ValueError where it is none, or holds text that is no Unicode and could not be written anywhere."""
    content = json.loads(text)
    json.dumps(content, ensure_ascii=False).encode()
    return content


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error about what a file holds say which file.

    Raises:
        DataError: in the place of a UsageError or DataError whose text does not hold `path`.
    """
    try:
        yield
    except MissingFileError:
        raise
    except (UsageError, DataError) as error:  # an option that stands in the file, or what does not know that it comes from one
        if str(path) in str(error):
            raise
        raise DataError(f"{path}: {in_a_line(error, 600)}") from None


@contextlib.contextmanager
def reading(path: Path, expected: str, advice: str = "restore it, or remove it to make it anew") -> Iterator[None]:
    """Make one kind of error of all that the content of a file can cause.

    Args:
        path: the file.
        expected: what it should be, such as "a checkpoint of fastdc".
        advice: what to do where it is not.

    Raises:
        DataError: whatever was raised inside, but the errors of fastdc, which pass.
    """
    try:
        with naming(path):
            yield
    except FastdcError:
        raise
    except UNFORESEEN as error:
        reason = in_a_line(error) or type(error).__name__
        raise DataError(f"{path} is not {expected}: it is cut short, altered or of another kind ({reason}); {advice}.") from None


def whole_number(content: Mapping[str, Any], name: str, least: int = 0) -> int:
    """A whole number, `least` or more; a ValueError where `content` holds another thing by that name."""
    value = content[name]
    if type(value) is not int or value < least:
        raise ValueError(f"{name} is {in_a_line(value, 40)}, no whole number from {least} on")
    return value


def finite_number(content: Mapping[str, Any], name: str, least: float = 0.0, most: float = math.inf) -> float:
    """A finite number from `least` to `most`; a ValueError where `content` holds another thing by that name."""
    return _checked(content[name], name, least, most)


def finite_numbers(
    content: Mapping[str, Any], name: str, least: float = 0.0, most: float = math.inf, count: int | None = None
) -> tuple[float, ...]:
    """Finite numbers from `least` to `most`, one at least; a ValueError where `content` holds another thing by that name.

    Args:
        content: of a file.
        name: in it.
        least: of each.
        most: of each.
        count: how many; None: any number.
    """
    values = content[name]
    if not isinstance(values, list) or not values or (count is not None and len(values) != count):
        raise ValueError(f"{name} is no list of {'some' if count is None else count} numbers")
    return tuple(_checked(value, name, least, most) for value in values)


def tensor_like(tensors: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    """A tensor of the shape and dtype of another; a ValueError where `tensors` holds another thing by that name."""
    found = tensors[name]
    if found.shape != like.shape or found.dtype != like.dtype:
        raise ValueError(f"{name} is {found.dtype} {list(found.shape)}, not {like.dtype} {list(like.shape)}")
    return found


def finite(tensor: Tensor, name: str) -> Tensor:
    """A tensor that holds no NaN and nothing infinite; a ValueError where it does."""
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name} is not finite")
    return tensor


def _checked(value: Any, name: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most or math.isinf(value):
        raise ValueError(f"{name} is {in_a_line(value, 40)}, no finite number from {least} to {most}")
    return float(value)
