"""A user's own tar files, as WebDataset has them: KEY.jpg and KEY.cls beside each other, in any number of shards."""

from __future__ import annotations

import io
import operator
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastdc.data.image_data import count_classes
from fastdc.data.labels import labels_and_names, natural
from fastdc.data.pictures import Size
from fastdc.data.sources.labelled_pictures import SUFFIXES, TEST, TRAIN, Labelled, LabelledPictures
from fastdc.errors import DataError, MissingFileError
from fastdc.runs.content import naming, reading

_LABELS = (".cls", ".label", ".txt")  # the first of these that is there, wherever it stands in the tar file


@dataclass(frozen=True)
class _Member:
    """A file within a tar file."""

    shard: Path
    name: str
    place: int
    length: int

    def __str__(self) -> str:
        return f"{self.name} in {self.shard}"

    def content(self) -> BinaryIO:
        """Its bytes, of which no others are read."""
        with open(self.shard, "rb") as file:
            file.seek(self.place)
            return io.BytesIO(file.read(self.length))


def shards(path: Path, size: Size | None = None) -> LabelledPictures:
    """PATH/train*.tar and PATH/test*.tar, or val in its place, or such folders with tar files; where there are none to test on, one in five
    of each class is for that, drawn always in the same way.

    A sample is KEY.png, or another kind of picture, with KEY.cls beside it, which holds the number of its class, or its name.

    Args:
        path: the folder.
        size: to bring the middle of each image to; None: all have one size.

    Raises:
        MissingFileError: no such folder, or no tar file to train on in it.
        DataError: a tar file that cannot be read, a picture without a class, or a class that only the test images have.
    """
    name = f"shards:{path}"
    if not path.is_dir():
        raise MissingFileError(f"{path} is missing; expected a folder with tar files.")
    found = sorted(path.rglob("*.tar"), key=lambda file: natural(str(file)))
    train, test = (next((some for half in names if (some := _of_half(found, path, half))), []) for names in (TRAIN, TEST))
    if test and not train:
        raise MissingFileError(f"{path} has {test[0].name} to test on, and no train*.tar; expected both.")
    if not found:
        raise MissingFileError(f"{path} has no tar file; expected train*.tar and test*.tar, or any number of others.")
    samples = [sample for shard in (train or found) for sample in _samples(shard)]
    with naming(path):
        labels, names = labels_and_names([label for _, label in samples])
        classes = names or tuple(map(str, range(count_classes(labels))))
        pictures: Labelled = list(zip((member for member, _ in samples), labels.tolist(), strict=True))
        if not test:
            return LabelledPictures.with_split(name, pictures, classes, size)
        tested = [sample for shard in test for sample in _samples(shard)]
        numbers, _ = labels_and_names([label for _, label in tested], names)
        if (highest := int(numbers.max())) >= len(classes):
            raise DataError(f"class {highest} is one of test images alone; expected 0 to {len(classes) - 1}, as in those to train on.")
    return LabelledPictures(name, pictures, list(zip((member for member, _ in tested), numbers.tolist(), strict=True)), classes, size)


def _of_half(found: list[Path], path: Path, half: str) -> list[Path]:
    """The tar files of which the name, or that of the folder they lie in, begins with that of a half."""
    return [file for file in found if file.relative_to(path).as_posix().lower().startswith(half)]


def _samples(shard: Path) -> Iterator[tuple[_Member, str | int]]:
    """The pictures of a tar file in their order, each with its class; no picture is read."""
    pictures: dict[str, _Member] = {}
    labels: dict[str, tuple[int, str | int]] = {}  # with the place of its suffix among those
    with reading(shard, "a tar file", "get it anew"), tarfile.open(shard, "r:") as file:
        for info in file:
            folder, _, base = info.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            key, suffix = f"{folder}/{stem}", f".{suffix.lower()}"
            if not info.isfile() or not stem:
                continue
            if suffix in SUFFIXES:
                pictures[key] = _Member(shard, info.name, info.offset_data, info.size)
            elif suffix in _LABELS:
                content = file.extractfile(info)
                text = content.read(256).decode().strip() if content is not None else ""
                found = (_LABELS.index(suffix), int(text) if text.isdecimal() else text)
                labels[key] = min(found, labels.get(key, found), key=operator.itemgetter(0))
    for key, member in pictures.items():
        if key not in labels:
            raise DataError(f"{member} has no class; expected a file beside it that ends in {_LABELS[0]}.")
        yield member, labels[key][1]
