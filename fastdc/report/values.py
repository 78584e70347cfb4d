"""What pages are made of: plain values that templates set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastdc.report.pictures import Picture
from fastdc.runs.content import in_a_line


@dataclass(frozen=True)
class Row:
    """A name and what is said of it."""

    name: str
    value: str


@dataclass(frozen=True)
class Cell:
    """A field of a grid."""

    text: str
    note: str = ""
    share: float | None = None
    """How deeply it is shaded, from 0 to 1; None: not at all."""


@dataclass(frozen=True)
class GridRow:
    """A row of a grid."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Grid:
    """A table: the head names its columns, that of the rows first."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[GridRow, ...]


@dataclass(frozen=True)
class Captioned:
    """A picture and what stands below it."""

    name: str
    picture: Picture


@dataclass(frozen=True)
class Bar:
    """An accuracy: places in percent of the axis, and words."""

    name: str
    mean: float
    low: float
    high: float
    """The mean less and more the standard deviation."""
    dots: tuple[float, ...]
    """Of each network."""
    value: str
    note: str
    color: int


@dataclass(frozen=True)
class Bars:
    """Accuracies one below the other."""

    title: str
    bars: tuple[Bar, ...]
    ticks: tuple[str, ...]
    """Of the axis, evenly from left to right."""


def settings(config: Mapping[str, Any], names: Sequence[str]) -> tuple[Row, ...]:
    """What a configuration says by these names, where it says something."""
    return tuple(Row(name.replace("_", " "), said(config[name])) for name in names if config.get(name) is not None)


def said(value: Any) -> str:
    """A value of a file as a line of text; lists without brackets, none for nothing.

    >>> said([1, 2]), said("a\\nb"), said(True)
    ('1, 2', 'a b', 'True')
    """
    return in_a_line(", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else value)


def mean_and_deviation(mean: float, std: float) -> str:
    """Both, kept on one line.

    >>> mean_and_deviation(51, 1) == "51.0\\u00a0±\\u00a01.0"
    True
    """
    return f"{mean:.1f}\u00a0±\u00a0{std:.1f}"


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(5.25), duration(75), duration(3725)
    ('5.2 s', '1 min 15 s', '1 h 2 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes as a person says them.

    >>> size(2560), size(3 << 20), size(7 << 29)
    ('2.5 KiB', '3.0 MiB', '3.5 GiB')
    """
    unit, power = ("KiB", 10) if count < 1 << 20 else ("MiB", 20) if count < 1 << 30 else ("GiB", 30)
    return f"{count / (1 << power):.1f} {unit}"
