"""Datasets by name: scikit-learn's digits, torchvision's classes, Debian's FashionMNIST, and a user's files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from fastdc.data.arrays import as_images
from fastdc.data.image_data import ImageData, of_classes
from fastdc.data.pictures import Changes, Size, checked_size, resized
from fastdc.data.sources.archive import Archive
from fastdc.data.sources.folder import folder
from fastdc.data.sources.idx import read_idx
from fastdc.data.sources.labelled_pictures import LabelledPictures
from fastdc.data.sources.shards import shards
from fastdc.errors import DataError, MissingFileError, UsageError, unknown_name
from fastdc.parallel.world import shared
from fastdc.runs.content import UNFORESEEN, in_a_line, naming
from fastdc.runtime.public import public

Pair = tuple[ImageData, ImageData]

DEFAULT_ROOT = Path("~/.cache/fastdc/data")
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_DIGITS_SPLIT_SEED = 0
_IDX_STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_OF_DIGITS = ("digits", "mnist", "svhn", "usps")
_FASHION_CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@public
def load_dataset(
    name: str, root: str | Path | None = None, *, image_size: int | Size | None = None, classes: Sequence[int | str] | None = None
) -> Pair:
    """Load a dataset: the training set and the test set.

    Args:
        name: "digits", "mnist", "fashion-mnist", "svhn", "cifar10", "cifar100", "usps", "folder:PATH" (train/ and test/
            or val/ with one subfolder per class, or such subfolders alone), "npz:PATH" (x_train, y_train, x_test, y_test) or
            "shards:PATH" (train*.tar and test*.tar with KEY.jpg and KEY.cls, as WebDataset has them).
        root: where torchvision keeps its files; what is missing is downloaded there. None: ~/.cache/fastdc/data.
            FashionMNIST is also found where Debian's package dataset-fashion-mnist puts it.
        image_size: to bring the middle of each image to, N or (height, width); None: images stay as they are, and a folder's must have
            one size.
        classes: the names or numbers of those to keep, which are numbered anew in the order given; None: all.

    Returns:
        (train, test). mean and std are those of the training images, in both. digits, which has no official split, is
        split 80/20, stratified, always in the same way.

    Raises:
        UsageError: an unknown name or class, an image_size that is none, or digits where scikit-learn is not installed.
        MissingFileError: files that are neither there nor to be downloaded.
        DataError: files that cannot be read.

    Example:
        >>> train, test = load_dataset("digits")
        >>> len(train), len(test), train.channels, train.image_size, train.num_classes
        (1437, 360, 1, (8, 8), 10)
        >>> train, test = load_dataset("digits", image_size=12, classes=[3, "8"])
        >>> train.image_size, train.class_names
        ((12, 12), ('3', '8'))
    """
    size = checked_size(image_size)
    pair = _loaded(name, root, size)
    return pair if classes is None else keep_classes(pair, classes)


def _loaded(name: str, root: str | Path | None, size: Size | None) -> Pair:
    """Both halves of a dataset, all classes, the images of this size."""
    if not isinstance(name, str):
        raise UsageError(f"the name of a dataset is {name!r}; expected text, such as 'digits' or 'npz:PATH'.")
    if (files := _files_of_ones_own(name, size)) is not None:
        return files.pair()
    kind, colon, _ = name.partition(":")
    if colon or kind not in _LOADERS:
        raise unknown_name("dataset", name, dataset_names())
    train, test = _LOADERS[kind](Path(root if root is not None else DEFAULT_ROOT).expanduser())
    if size is None or train.image_size == size:
        return train, test
    changes = Changes()
    images, tested = (resized(part.images, size, changes) for part in (train, test))
    train = ImageData.of(images, train.labels, class_names=train.class_names, name=train.name, changes=changes.said(name))
    return train, ImageData.of(tested, test.labels, like=train)


@public
@shared
def load_share(name: str, root: str | Path | None = None, *, image_size: int | Size | None = None) -> ImageData:
    """The training set of this name, of which each of several processes reads the images of its own classes, where they are files of
    one's own; others are read whole. All processes call it. Raises as `load_dataset` does."""
    files = _files_of_ones_own(name, checked_size(image_size))
    return files.share() if files is not None else load_dataset(name, root, image_size=image_size)[0]


@public
def load_test(name: str, train: ImageData, root: str | Path | None = None, *, image_size: int | Size | None = None) -> ImageData:
    """The test set of this name, where what `load_share` gives is known. Raises as `load_dataset` does."""
    files = _files_of_ones_own(name, checked_size(image_size))
    return files.test(train) if files is not None else load_dataset(name, root, image_size=image_size)[1]


def _files_of_ones_own(name: Any, size: Size | None) -> LabelledPictures | Archive | None:
    """The files that a name leads to by their path, where it does."""
    kind, _, path = name.partition(":") if isinstance(name, str) else ("", "", "")
    if kind not in _FILES:
        return None
    if not path:
        raise UsageError(f"{name!r} names no path; write {kind}:PATH.")
    return _FILES[kind](Path(path).expanduser(), size)


def keep_classes(pair: Pair, classes: Sequence[int | str]) -> Pair:
    """Both halves with some classes alone, numbered anew in the order given; mean and std are those of the training images kept.

    Raises:
        UsageError: no list, an unknown class, one that is given twice, or fewer than two.
    """
    numbers = class_numbers(pair[0].class_names, classes)
    train, test = (of_classes(part, numbers) for part in pair)
    changes = (*train.changes, f"only the classes {', '.join(train.class_names)}")
    train = ImageData.of(train.images, train.labels, class_names=train.class_names, name=train.name, changes=changes)
    return train, ImageData.of(test.images, test.labels, like=train)


def class_numbers(names: Sequence[str], classes: Sequence[int | str]) -> list[int]:
    """The numbers of classes that are given by number or by name.

    Raises:
        UsageError: no list, an unknown class, one that is given twice, or fewer than two.
    """
    if isinstance(classes, str) or not isinstance(classes, Sequence | np.ndarray | range):
        raise UsageError(f"classes is {classes!r}; expected a list of names or numbers.")
    numbers = []
    for given in classes:
        if str(given) in names:
            numbers.append(list(names).index(str(given)))
        elif (isinstance(given, int | np.integer) or _is_number(given)) and 0 <= int(given) < len(names):
            numbers.append(int(given))
        else:
            raise unknown_name("class", str(given), names)
    if len(numbers) < 2 or len(set(numbers)) < len(numbers):
        raise UsageError(f"classes is {list(classes)!r}; expected two classes or more, each once.")
    return numbers


def _is_number(text: object) -> bool:
    """Whether it is the text of a number of few digits, as the command line gives it."""
    return isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) < 10


def dataset_names() -> tuple[str, ...]:
    """The names that `load_dataset` knows."""
    return (*_LOADERS, *(f"{kind}:PATH" for kind in _FILES))


def is_of_digits(name: str) -> bool:
    """Whether a dataset of this name is one of digits, or some of their classes; of others a name does not say it.

    >>> [is_of_digits(name) for name in ("mnist", "digits 0 to 1", "fashion-mnist", "folder:digits")]
    [True, True, False, False]
    """
    return name.partition(" ")[0] in _OF_DIGITS


def _digits(root: Path) -> Pair:
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise UsageError("dataset 'digits' comes from scikit-learn, which is not installed; pip install scikit-learn brings it.") from None

    bunch = load_digits()
    images = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8))[:, None]  # grey levels 0..16 -> 0..255
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    parts = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=_DIGITS_SPLIT_SEED)
    train = ImageData.of(images[parts[0]], labels[parts[0]], name="digits")
    return train, ImageData.of(images[parts[1]], labels[parts[1]], like=train)


def _fashion_mnist(root: Path) -> Pair:
    folders = (root / "FashionMNIST" / "raw", DEBIAN_FASHION_MNIST)
    folder = next((folder for folder in folders if all(_plain_or_gzipped(folder / stem).exists() for stem in _IDX_STEMS)), None)
    if folder is None:
        return _from_torchvision("fashion-mnist", "FashionMNIST")(root)
    images, labels, test_images, test_labels = (read_idx(_plain_or_gzipped(folder / stem)) for stem in _IDX_STEMS)
    with naming(folder):
        train = ImageData.of(images[:, None], labels.long(), class_names=_FASHION_CLASSES, name="fashion-mnist")
        return train, ImageData.of(test_images[:, None], test_labels.long(), like=train)


def _plain_or_gzipped(path: Path) -> Path:
    return path if path.exists() else path.with_name(path.name + ".gz")


def _from_torchvision(name: str, cls: str, *splits: dict[str, Any]) -> Callable[[Path], Pair]:
    """A loader for one of torchvision's dataset classes; `splits` are its arguments for training and test set."""

    def load(root: Path) -> Pair:
        import torchvision.datasets

        parts = []
        for arguments in splits or ({"train": True}, {"train": False}):
            try:
                data = _there_or_downloaded(getattr(torchvision.datasets, cls), root, name, arguments)
            except (OSError, RuntimeError) as error:
                reason = in_a_line(error)
                if isinstance(error, RuntimeError) and not reason.startswith("Error downloading"):
                    raise DataError(f"{name} in {root} cannot be read ({reason}); remove its files to have it downloaded anew.") from None
                raise MissingFileError(
                    f"{name} is not in {root} and cannot be downloaded ({reason}); put torchvision's files for {cls} there, "
                    "or name another folder with root (--data-root)."
                ) from None
            except UNFORESEEN as error:
                reason = in_a_line(error) or type(error).__name__
                raise DataError(f"{name} in {root} cannot be read ({reason}); remove its files to have it downloaded anew.") from None
            labels = data.labels if hasattr(data, "labels") else data.targets
            with naming(root):
                parts.append((as_images(data.data), torch.as_tensor(labels, dtype=torch.int64), getattr(data, "classes", None)))
        with naming(root):
            train = ImageData.of(*parts[0][:2], class_names=parts[0][2], name=name)
            return train, ImageData.of(*parts[1][:2], like=train)

    return load


def _there_or_downloaded(kind: Callable[..., Any], root: Path, name: str, arguments: dict[str, Any]) -> Any:
    """A dataset of torchvision; what is missing of its files is downloaded, by one process at a time."""
    try:
        return kind(str(root), download=False, **arguments)
    except (OSError, RuntimeError):  # as torchvision says that a file is missing, or damaged
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # where nothing can be written, nothing is downloaded either
                root.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(root / f".{name}.lock"))
            return kind(str(root), download=True, **arguments)


_FILES: dict[str, Callable[[Path, Size | None], LabelledPictures | Archive]] = {"folder": folder, "npz": Archive, "shards": shards}
_LOADERS: dict[str, Callable[[Path], Pair]] = {
    "digits": _digits,
    "mnist": _from_torchvision("mnist", "MNIST"),
    "fashion-mnist": _fashion_mnist,
    "svhn": _from_torchvision("svhn", "SVHN", {"split": "train"}, {"split": "test"}),
    "cifar10": _from_torchvision("cifar10", "CIFAR10"),
    "cifar100": _from_torchvision("cifar100", "CIFAR100"),
    "usps": _from_torchvision("usps", "USPS"),
}
