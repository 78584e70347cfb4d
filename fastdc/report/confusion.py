"""What networks take test images for, as a matrix, or as lists where classes are many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastdc.report.values import Cell, Grid, GridRow

_LARGEST = 20  # classes of a matrix that is shown
_LISTED = 12  # classes and pairs of classes


@dataclass(frozen=True)
class Confusion:
    """The parts of a page that show it."""

    matrix: Grid | None
    """None where classes are too many."""
    worst: Grid | None
    """The classes that are known least, in its place."""
    pairs: Grid | None
    """What is confused most; None where nothing is."""


def confusion(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Confusion:
    """What is shown of counts, a row for each class and a column for what it was taken for."""
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    classes = range(len(names))
    small = len(names) <= _LARGEST
    wrong = sorted(((i, j) for i in classes for j in classes if i != j and counts[i][j]), key=lambda pair: -shares[pair[0]][pair[1]])
    pairs = [
        GridRow(names[i], (Cell(names[j]), Cell(f"{100 * shares[i][j]:.1f} %"), Cell(f"{counts[i][j]:,}"))) for i, j in wrong[:_LISTED]
    ]
    return Confusion(
        _matrix(shares, names) if small else None,
        None if small else _worst([shares[i][i] for i in classes], names),
        Grid(
            "Pairs of classes, by the share of the first that is taken for the second",
            ("class", "taken for", "share", "count"),
            tuple(pairs),
        )
        if pairs
        else None,
    )


def _matrix(shares: Sequence[Sequence[float]], names: Sequence[str]) -> Grid:
    rows = (GridRow(name, tuple(Cell(_whole(share), share=share) for share in row)) for name, row in zip(names, shares, strict=True))
    caption = "Of 100 test images of the class at the left, so many are taken for the class above"
    return Grid(caption, ("class", *names), tuple(rows))


def _whole(share: float) -> str:
    """A share as a whole number of percent; nothing for none.

    >>> _whole(0.0), _whole(0.009), _whole(0.456)
    ('', '<1', '46')
    """
    return "" if not share else f"{100 * share:.0f}" if share >= 0.01 else "<1"


def _worst(right: Sequence[float], names: Sequence[str]) -> Grid:
    order = sorted(range(len(names)), key=lambda i: right[i])[:_LISTED]
    rows = tuple(GridRow(names[i], (Cell(f"{100 * right[i]:.1f} %"),)) for i in order)
    return Grid(f"The classes that are known least, of {len(names)}", ("class", "known rightly"), rows)
