"""The stages of continual learning: datasets brought to one form, their classes the same ones or new ones each time."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastdc.data import ImageData, as_pair, check_every_class, load_dataset
from fastdc.data.image_data import of_classes
from fastdc.errors import DataError, UsageError, unknown_name
from fastdc.options.checks import check_count
from fastdc.runtime.public import public

SCENARIOS = ("task", "class")
AVERAGE = "all"  # what table.csv has in the place of a stage's name, for the average over the stages so far
_BLOCK = 1000  # images brought to another size at once


@dataclass(frozen=True, eq=False)
class Stage:
    """One of the datasets, in the form that all of them have."""

    name: str
    """Of the dataset, with a number where an earlier stage has the same name."""
    train: ImageData
    """Its classes numbered from 0."""
    test: ImageData
    """Likewise."""
    offset: int
    """The number that the network gives to the first of its classes."""
    groups: tuple[int, ...]
    """How many classes the network knows once it has seen this stage, group by group as they came."""

    @property
    def seen(self) -> int:
        """How many classes the network knows once it has seen this stage."""
        return sum(self.groups)

    @property
    def tested(self) -> ImageData:
        """The test set, its classes numbered as the network does."""
        names = ("",) * self.offset + self.test.class_names
        return dataclasses.replace(self.test, labels=self.test.labels + self.offset, num_classes=len(names), class_names=names)


def as_stages(stages: Sequence[Any], scenario: str, image_size: tuple[int, int] | None = None) -> tuple[Stage, ...]:
    """Bring datasets to one form: RGB if one of them is, one size, and the mean and standard deviation of the first.

    Args:
        stages: names of datasets, or pairs (train, test) of what `fastdc.condense` takes.
        scenario: "task", all have the same classes; or "class", each brings new ones.
        image_size: height and width; None: those of the largest.

    Raises:
        UsageError: fewer than two stages, an unknown scenario, or something that is no stage.
        DataError: data that cannot be used, or numbers of classes that differ where they must not.
    """
    if scenario not in SCENARIOS:
        raise unknown_name("scenario", scenario, SCENARIOS)
    if isinstance(stages, str) or not isinstance(stages, Sequence) or len(stages) < 2:
        given = f"{len(stages)} stage(s)" if isinstance(stages, list | tuple) else repr(stages)
        raise UsageError(f"stages is {given}; expected a list of two or more: names of datasets, or pairs (train, test).")
    pairs = [_pair(stage, number) for number, stage in enumerate(stages, 1)]
    first = pairs[0][0]
    channels = max(train.channels for train, _ in pairs)
    for number, (train, _) in enumerate(pairs, 1):
        if train.channels not in (1, channels):
            raise DataError(f"images of stage {number} have {train.channels} channels; expected {channels}, as the others, or 1.")
    size = image_size if image_size is not None else max((train.image_size for train, _ in pairs), key=lambda size: size[0] * size[1])
    formed = [tuple(_formed(data, channels, size) for data in pair) for pair in pairs]
    first = ImageData.of(formed[0][0].images, first.labels, num_classes=first.num_classes)  # whose mean and std all have
    result: list[Stage] = []
    names = _told_apart([train.name for train, _ in pairs])
    groups: tuple[int, ...] = ()
    for (train, test), (original, _) in zip(formed, pairs, strict=True):
        if scenario == "class":
            offset, groups = sum(groups), (*groups, original.num_classes)
        else:
            offset, groups = 0, (original.num_classes,)
            if original.num_classes != first.num_classes:
                raise DataError(
                    f"stage {len(result) + 1} ({original.name}) has {original.num_classes} classes, the first {first.num_classes}; "
                    "expected the same ones in every stage, or scenario='class', where each brings new ones."
                )
        train, test = (dataclasses.replace(data, mean=first.mean, std=first.std) for data in (train, test))
        result.append(Stage(names[len(result)], train, test, offset, groups))
    return tuple(result)


@public
def split_classes(train: Any, test: Any, stages: int) -> list[tuple[ImageData, ImageData]]:
    """Split a dataset into stages of nearly as many classes each, in their order: for scenario="class".

    Args:
        train: as `fastdc.condense` takes it.
        test: likewise, of the same classes.
        stages: how many, at most one for each two classes.

    Returns:
        (train, test) of each stage, its classes numbered from 0.

    Raises:
        UsageError: more stages than pairs of classes, or fewer than two.

    Example:
        >>> from fastdc import load_dataset
        >>> [pair[0].class_names for pair in split_classes(*load_dataset("digits"), 5)][:2]
        [('0', '1'), ('2', '3')]
    """
    check_count("stages", stages)
    real, tested = as_pair(train, test)
    if not 2 <= stages <= real.num_classes // 2:
        raise UsageError(
            f"{real.num_classes} classes cannot be split into {stages} stages; "
            f"expected 2 to {real.num_classes // 2}, so that each has two classes or more."
        )
    bounds = [round(number * real.num_classes / stages) for number in range(stages + 1)]
    return [(_some(real, start, stop), _some(tested, start, stop)) for start, stop in itertools.pairwise(bounds)]


def _told_apart(names: Sequence[str]) -> list[str]:
    """Names by which each stage is found in table.csv: those that are taken get a number.

    >>> _told_apart(["data", "data (2)", "data", "data", "all"])
    ['data', 'data (2)', 'data (3)', 'data (4)', 'all (2)']
    """
    taken = [AVERAGE]
    for name in names:
        numbered = (f"{name} ({number})" for number in itertools.count(2))
        taken.append(next(text for text in itertools.chain([name], numbered) if text not in taken))
    return taken[1:]


def _some(data: ImageData, start: int, stop: int) -> ImageData:
    """The images of classes start to stop - 1, numbered from 0."""
    some = of_classes(data, range(start, stop))
    return dataclasses.replace(some, name=f"{data.name} {some.class_names[0]} to {some.class_names[-1]}")


def _pair(stage: Any, number: int) -> tuple[ImageData, ImageData]:
    if isinstance(stage, str):
        train, test = load_dataset(stage)
    elif isinstance(stage, tuple | list) and len(stage) == 2:
        train, test = as_pair(stage[0], stage[1], name=f"stage {number}")
    else:
        raise UsageError(f"stage {number} is a {type(stage).__name__}; expected the name of a dataset, or a pair (train, test).")
    check_every_class(train)
    return train, test


def _formed(data: ImageData, channels: int, size: tuple[int, int]) -> ImageData:
    """With as many channels, grey repeated, and of a size, by bilinear interpolation with antialiasing."""
    if data.channels == channels and data.image_size == size:
        return data
    images = data.images.expand(-1, channels, -1, -1)
    if data.image_size != size:
        images = torch.cat([_resized(part, size) for part in images.split(_BLOCK)])
    mean, std = (values * (channels // data.channels) for values in (data.mean, data.std))
    return dataclasses.replace(data, images=images, mean=mean, std=std)


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    from torchvision.transforms.functional import resize  # bilinear, with antialiasing

    return resize(images, list(size))
