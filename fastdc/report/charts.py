"""Charts: numbers to the places where they are drawn, in percent of the plot's width and height; templates draw them as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

COLORS, PLAIN = 6, 5  # of series in the style sheet, and the one for what others are compared with

Point = tuple[float, float]  # across, up

_TICKS = 5  # about as many on an axis
_MOST_POINTS = 400  # of a line; more are averaged


@dataclass(frozen=True)
class Series:
    """One line, or one kind of dots."""

    name: str
    points: tuple[Point, ...]
    spread: tuple[float, ...] = ()
    """Of each point, up and down; or none."""
    joined: bool = True
    """Whether a line goes through the points."""
    marked: bool = True
    """Whether each point has a dot."""
    dashed: bool = False
    color: int = 0


@dataclass(frozen=True)
class Tick:
    """A place on an axis, in percent of its length, and what is said there."""

    place: float
    label: str


@dataclass(frozen=True)
class Drawn:
    """A series at its places: SVG paths in a square of 100 x 100, y downwards."""

    name: str
    line: str
    dots: str
    whiskers: str
    dashed: bool
    color: int


@dataclass(frozen=True)
class Chart:
    """A chart with two axes."""

    title: str
    """What the vertical axis shows."""
    across: str
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    drawn: tuple[Drawn, ...]
    said: str
    """What the chart shows, for those who do not see it."""


def chart(title: str, across: str, series: Sequence[Series], said: str, names: Sequence[str] = ()) -> Chart:
    """A chart of series.

    Args:
        title: what the vertical axis shows.
        across: what the horizontal axis shows.
        series: one at least, each with a point at least.
        said: what it shows, in words.
        names: of the places 1, 2, ... on the horizontal axis; none: it has numbers.
    """
    series = [_averaged(one) for one in series]
    xs = [x for one in series for x, _ in one.points]
    ys = [y + sign * spread for one in series for (_, y), spread in _with_spread(one) for sign in (-1, 1)]
    up_ticks = round_ticks(min(ys), max(ys))
    low, high = up_ticks[0], up_ticks[-1]
    if names:
        left, right, x_ticks = 0.5, len(names) + 0.5, [(float(place), name) for place, name in enumerate(names, 1)]
    else:
        values = round_ticks(min(xs), max(xs))
        left, right = values[0], values[-1]
        if max(xs) < right - 0.1 * (right - left):  # which would be empty
            right = max(xs)
        x_ticks = [(value, number(value)) for value in values if value <= right]
    step = up_ticks[1] - up_ticks[0]

    def place(point: Point) -> Point:
        return 100 * (point[0] - left) / (right - left), 100 * (high - point[1]) / (high - low)

    return Chart(
        title,
        across,
        tuple(Tick(place((value, low))[0], label) for value, label in x_ticks),
        tuple(Tick(place((left, value))[1], number(value, step)) for value in up_ticks),
        tuple(_drawn(one, place) for one in series),
        said,
    )


def round_ticks(low: float, high: float) -> tuple[float, ...]:
    """Round numbers about evenly from below `low` to above `high`, two at least.

    >>> round_ticks(0.12, 0.9)
    (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    >>> round_ticks(3, 3)
    (2.6, 2.8, 3.0, 3.2, 3.4)
    """
    if low == high:
        margin = abs(low) / 10 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(count * step, 12) for count in range(first, last + 1))


def number(value: float, step: float | None = None) -> str:
    """A number as an axis has it, with as many digits as the step between two of them needs.

    >>> number(1500), number(0.25), number(0.5, 0.25), number(2e-7)
    ('1,500', '0.25', '0.50', '2e-07')
    """
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}"
    if step is None:
        return f"{value:,.6g}" if abs(value) < 1000 else f"{value:,.0f}"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if round(step, digits) != round(step, digits + 2):
        digits += 1
    return f"{value:,.{digits}f}"


def _averaged(series: Series) -> Series:
    """A series of so many points alone that a reader can tell them apart: means of neighbours."""
    count = math.ceil(len(series.points) / _MOST_POINTS)
    if count == 1:
        return series
    groups = [series.points[start : start + count] for start in range(0, len(series.points), count)]
    means = tuple((sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups)
    return Series(series.name, means, (), series.joined, series.marked, series.dashed, series.color)


def _with_spread(series: Series) -> Iterator[tuple[Point, float]]:
    return zip(series.points, series.spread or (0.0,) * len(series.points), strict=True)


def _drawn(series: Series, place: Callable[[Point], Point]) -> Drawn:
    points = [place(point) for point in series.points]
    ends = [[place((x, y + sign * spread)) for sign in (-1, 1)] for (x, y), spread in _with_spread(series) if spread]
    line = "M" + " L".join(map(_pair, points)) if series.joined else ""
    dots = " ".join(f"M{_pair(point)} h0" for point in points) if series.marked or len(points) == 1 else ""
    whiskers = " ".join(f"M{_pair(low)} L{_pair(high)}" for low, high in ends)
    return Drawn(series.name, line, dots, whiskers, series.dashed, series.color % COLORS)


def _pair(point: Point) -> str:
    return f"{point[0]:.2f} {point[1]:.2f}"
