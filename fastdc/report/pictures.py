"""Pictures in a report: PNG files inside its text, as many as it has room for."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from fastdc.condensed import CondensedDataset
from fastdc.loop.thumbnails import fitting_set, png, shrunk

_ROOM = 3 << 20  # values of all images of a set in a report at the most, about as many bytes
_LEAST_SIDE = 32  # pixels of an image, below which it is made no smaller


@dataclass(frozen=True)
class Picture:
    """An image that stands in the text of a page."""

    source: str
    """A data URL."""
    alt: str
    """What it shows, in words."""


@dataclass(frozen=True)
class ClassPictures:
    """The images of one class."""

    name: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Gallery:
    """The images of a set, by class."""

    classes: tuple[ClassPictures, ...]
    left_out: str
    """What is not shown, as a sentence; or nothing."""


def picture(content: bytes, alt: str) -> Picture:
    """A PNG file as it stands in a page."""
    return Picture("data:image/png;base64," + base64.b64encode(content).decode(), alt)


def gallery(condensed: CondensedDataset, room: int = _ROOM) -> Gallery:
    """The images of a set in so many values: all, or the first of each class, or smaller ones, or those of the first classes."""
    shown, positions = fitting_set(condensed.labels, tuple(condensed.images.shape[1:]), room, _LEAST_SIDE)
    pixels, labels = shrunk(condensed.to_pixels()[positions], shown.shrink), condensed.labels[positions].tolist()
    contents: dict[int, list[bytes]] = {}
    for image, label in zip(pixels, labels, strict=True):
        contents.setdefault(label, []).append(png(image))
    classes = []
    for label, files in contents.items():
        name, many = condensed.class_names[label], len(files) > 1
        alts = (f"Learned image of class {name}" + (f", {place} of {len(files)}" if many else "") for place in range(1, len(files) + 1))
        classes.append(ClassPictures(name, tuple(map(picture, files, alts))))
    return Gallery(tuple(classes), _left_out(condensed, len(positions), len(contents), shown.shrink))


def _left_out(condensed: CondensedDataset, images: int, classes: int, shrink: int) -> str:
    parts = []
    if images < len(condensed):
        parts.append(f"{images:,} of {len(condensed):,} images are shown, of {classes:,} of {len(condensed.labels.unique()):,} classes")
    if shrink > 1:
        parts.append(f"{shrink} x {shrink} pixels of each are drawn as one")
    return f"So that this file stays small, {' and '.join(parts)}." if parts else ""
