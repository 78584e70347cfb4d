"""A picture of a file or of a dataset's item as pixels: uint8, upright, on white, of one size."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastdc.errors import DataError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]  # height and width

_GREY = ("1", "L", "LA", "La", "I", "F")  # PIL's modes, and all that begin with "I;"
_BLOCK = 1024  # images that are resized at once
_LARGEST = 1 << 14  # pixels of a side
_KINDS = ("PNG", "JPEG", "MPO", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000")  # as PIL calls them
# Pixels of a picture that takes less than a gigabyte on its way: of these modes, and of those that are changed more.
_PLAIN, _MOST_PLAIN, _MOST = ("1", "L", "RGB"), 1 << 26, 1 << 25


class Changes:
    """What was done to pictures on the way in, with how many there were of each; said once, and kept with the data."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, what: str, count: int = 1) -> None:
        """Count some pictures of which `what` is true."""
        self.counts[what] += count

    def take_all(self, parts: Iterable[Counter[str]]) -> None:
        """Have in the place of its own counts those that several processes have counted."""
        whole: Counter[str] = Counter()
        for counts in parts:
            whole.update(counts)
        self.counts = whole

    def said(self, name: str) -> tuple[str, ...]:
        """The changes as texts, after a warning that names the data they belong to."""
        texts = tuple(f"{what} ({count} images)" if count else what for what, count in self.counts.items())
        if texts:
            warnings.warn(f"{name}: {'; '.join(texts)}.", stacklevel=2)
        return texts


def checked_size(image_size: Any) -> Size | None:
    """An `image_size` as (height, width); one number stands for both.

    Raises:
        UsageError: neither a whole number above 0, nor a pair of such, nor None.

    >>> checked_size(32), checked_size([24, 32]), checked_size(None)
    ((32, 32), (24, 32), None)
    """
    if image_size is None:
        return None
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    whole = isinstance(sides, tuple | list) and len(sides) == 2 and all(type(side) is int for side in sides)
    if not whole or not all(1 <= side <= _LARGEST for side in sides):
        raise UsageError(f"image_size is {image_size!r}; expected a whole number from 1 to {_LARGEST}, or (height, width).")
    return sides[0], sides[1]


def open_picture(file: Path | BinaryIO) -> Image:
    """A picture of one of the kinds that are read here: PIL knows others, of which it reads some by running another program.

    Raises:
        DataError: more pixels than a picture of a dataset has.
        OSError: another kind of file; and much else that a damaged one leads to.
    """
    from PIL import Image as Pictures

    Pictures.init()
    image = Pictures.open(file, formats=[kind for kind in _KINDS if kind in Pictures.OPEN])
    most = _MOST_PLAIN if image.mode in _PLAIN and "transparency" not in image.info else _MOST
    if image.width * image.height > most:
        image.close()
        raise DataError(f"it is {image.width}x{image.height} pixels; expected {most >> 20} million at most: make it smaller")
    return image


def channels_of(image: Image) -> int:
    """1 for a picture in grey, 3 for one in colour."""
    return 1 if image.mode in _GREY or image.mode.startswith("I;") else 3


def pixels_of(image: Image, channels: int, size: Size | None, changes: Changes) -> np.ndarray[Any, Any]:
    """A picture as uint8 [channels, H, W]: its first frame, turned as its EXIF says, on white where it is transparent.

    Args:
        image: as PIL opens it.
        channels: 1 or 3, what it is to become.
        size: its middle is brought to this; None: its own.
        changes: what had to be done is counted there.

    Raises:
        DataError: pixels of 32 bits that are not those of a picture of 8 or 16.
        OSError, SyntaxError, ValueError: a damaged file.
    """
    from PIL import Image as Pictures
    from PIL import ImageOps

    if getattr(image, "n_frames", 1) > 1 and image.format in ("GIF", "TIFF", "WEBP", "PNG"):
        changes.add("only the first of several frames is used")
    image.load()
    if image.getexif().get(0x0112, 1) != 1:
        changes.add("turned upright as their EXIF says")
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = Pictures.fromarray(_of_eight_bits(np.asarray(image), changes))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            changes.add("what is transparent was put on white")
        image = Pictures.alpha_composite(Pictures.new("RGBA", image.size, "white"), image)
    wanted = "L" if channels == 1 else "RGB"
    image = image if image.mode == wanted else image.convert(wanted)
    if size is not None and (image.height, image.width) != size:
        changes.add(f"resized, the middle of each, to {size[1]}x{size[0]} pixels")
        image = ImageOps.fit(image, (size[1], size[0]), Pictures.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def resized(images: Tensor, size: Size | None, changes: Changes) -> Tensor:
    """The middle of images uint8 [N, channels, H, W], brought to a size by antialiased bilinear interpolation."""
    if size is None or tuple(images.shape[2:]) == size:
        return images
    height, width = images.shape[2:]
    scale = min(height / size[0], width / size[1])
    inner = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))  # of the proportions wanted
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    result = torch.empty((*images.shape[:2], *size), dtype=torch.uint8)
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK, :, top : top + inner[0], left : left + inner[1]].float()
        block = F.interpolate(block, size, mode="bilinear", antialias=True, align_corners=False)
        result[start : start + _BLOCK] = block.round().clamp(0, 255).to(torch.uint8)
    changes.add(f"resized, the middle of each, from {width}x{height} to {size[1]}x{size[0]} pixels", len(images))
    return result


def _of_eight_bits(pixels: np.ndarray[Any, Any], changes: Changes) -> np.ndarray[Any, Any]:
    """The uint8 pixels of a picture of 16 bits, or of floats in 0..1."""
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind == "f":
        if not 0 <= low <= high <= 1:
            raise DataError(f"its pixels are floats from {low:.4g} to {high:.4g}; expected 0..1: save it with 8 bits")
        changes.add("rounded from floats to 8 bits a pixel")
        return (pixels * 255).round().astype(np.uint8)
    if not 0 <= low <= high < 1 << 16:
        raise DataError(f"its pixels are numbers from {low} to {high}; expected those of 8 or 16 bits: save it with 8")
    changes.add("rounded from 16 to 8 bits a pixel")
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)  # to the nearest; none lies in the middle
