"""A user's own folder, with one subfolder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fastdc.data.image_data import ImageData
from fastdc.data.labels import natural
from fastdc.data.pictures import Changes, Size
from fastdc.data.sources.labelled_pictures import SUFFIXES, TEST, TRAIN, Labelled, LabelledPictures, most_channels, read_pictures
from fastdc.errors import DataError, MissingFileError

_NOT_CLASSES = ("__MACOSX", "__pycache__", "@eaDir", "lost+found")  # what systems put beside


def folder(path: Path, size: Size | None = None) -> LabelledPictures:
    """PATH/train/CLASS/* and PATH/test/CLASS/*, or val/ in its place.

    Without train/ and test/ the subfolders of PATH are the classes; where there are no images to test on, one in five of each class is
    for that, drawn always in the same way. Names that begin with a dot are not looked at; classes are in natural order, "2" before "10".

    Args:
        path: the folder.
        size: to bring the middle of each image to; None: all have one size.

    Raises:
        MissingFileError: no such folder, or no train/ beside a test/.
        DataError: an empty class, or classes that only the test images have.
    """
    name = f"folder:{path}"
    if not path.is_dir():
        raise MissingFileError(f"{path} is missing; expected a folder with train/ and test/, each with one subfolder per class.")
    halves = {entry.name.lower(): entry for entry in sorted(path.iterdir()) if entry.is_dir() and _classes_of(entry)}
    train, test = (next((halves[half] for half in names if half in halves), None) for names in (TRAIN, TEST))
    if train is None and test is not None:
        raise MissingFileError(f"{path / 'train'} is missing beside {test.name}/; expected both, each with one subfolder per class.")
    if test is None:
        return LabelledPictures.with_split(name, *_list_folder(path if train is None else train), size)
    assert train is not None
    train_files, classes = _list_folder(train)
    test_files, test_classes = _list_folder(test)
    if odd := [name for name in test_classes if name not in classes]:
        raise DataError(f"{test.name}/ of {path} has the classes {', '.join(odd)}, {train.name}/ has not; expected no others there.")
    return LabelledPictures(name, train_files, [(file, classes.index(test_classes[number])) for file, number in test_files], classes, size)


def read_classes(path: Path) -> ImageData:
    """Read PATH/CLASS/*, all of it as one set.

    Raises:
        MissingFileError: no such folder.
        DataError: as `folder`; an unreadable picture, or pictures of several sizes.
    """
    if not path.is_dir():
        raise MissingFileError(f"{path} is missing; expected a folder with one subfolder per class.")
    changes = Changes()
    files, classes = _list_folder(path)
    images, labels = read_pictures(files, most_channels(file for file, _ in files), None, changes)
    return ImageData.of(images, labels, class_names=classes, name=f"folder:{path}", changes=changes.said(f"folder:{path}"))


def _list_folder(folder: Path) -> tuple[Labelled, tuple[str, ...]]:
    """The images of each subfolder, however deep, with the number of its class; and the names of the classes."""
    classes = _classes_of(folder)
    if not classes:
        raise DataError(f"{folder} has no subfolder; expected one for each class, with its images.")
    files: Labelled = []
    for number, name in enumerate(classes):
        found = sorted(_images_in(folder / name))
        if not found:
            raise DataError(
                f"{folder / name} holds no image ({', '.join(SUFFIXES)}); give every class one at least, or remove its subfolder."
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
            if name.lower().endswith(SUFFIXES) and not _is_hidden(name):
                yield Path(parent) / name


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _NOT_CLASSES
