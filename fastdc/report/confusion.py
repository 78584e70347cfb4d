"""What networks take test images for, as a matrix, or as lists where classes are many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastdc.report.values import Cell, Grid, GridRow

_LARGEST = 20  # classes of a matrix that is shown
_LISTED = 12  # classes and pairs of classes
_UNTESTED, _UNKNOWN = "no test images", "-"


@dataclass(frozen=True)
class Confusion:
    """The parts of a page that show it."""

    matrix: Grid | None
    """None where classes are too many."""
    worst: Grid | None
    """The classes that are known least, of those with test images, in its place."""
    pairs: Grid | None
    """What is confused most; None where nothing is."""


def confusion(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Confusion:
    """What is shown of counts, a row for each class and a column for what it was taken for."""
    totals = [sum(row) for row in counts]
    shares = [[count / max(1, total) for count in row] for row, total in zip(counts, totals, strict=True)]
    classes = range(len(names))
    small = len(names) <= _LARGEST
    wrong = sorted(((i, j) for i in classes for j in classes if i != j and counts[i][j]), key=lambda pair: -shares[pair[0]][pair[1]])
    pairs = [
        GridRow(names[i], (Cell(names[j]), Cell(f"{100 * shares[i][j]:.1f} %"), Cell(f"{counts[i][j]:,}"))) for i, j in wrong[:_LISTED]
    ]
    return Confusion(
        _matrix(shares, totals, names) if small else None,
        None if small else _worst([(names[i], shares[i][i]) for i in classes if totals[i]], len(names)),
        Grid(
            "Pairs of classes, by the share of the first that is taken for the second",
            ("class", "taken for", "share", "count"),
            tuple(pairs),
        )
        if pairs
        else None,
    )


def _matrix(shares: Sequence[Sequence[float]], totals: Sequence[int], names: Sequence[str]) -> Grid:
    rows = (
        GridRow(name, tuple(Cell(_whole(share) if total else _UNKNOWN, share=share) for share in row))
        for name, total, row in zip(names, totals, shares, strict=True)
    )
    caption = "Of 100 test images of the class at the left, so many are taken for the class above"
    left_out = "" if all(totals) else f"; a row of {_UNKNOWN} is that of a class which has {_UNTESTED}"
    return Grid(caption + left_out, ("class", *names), tuple(rows))


def _whole(share: float) -> str:
    """A share as a whole number of percent; nothing for none.

    >>> _whole(0.0), _whole(0.009), _whole(0.456)
    ('', '<1', '46')
    """
    return "" if not share else f"{100 * share:.0f}" if share >= 0.01 else "<1"


def _worst(right: Sequence[tuple[str, float]], classes: int) -> Grid:
    """The table of some of the classes that were tested, given as their names and shares, of so many in all."""
    rows = tuple(GridRow(name, (Cell(f"{100 * share:.1f} %"),)) for name, share in sorted(right, key=lambda pair: pair[1])[:_LISTED])
    untested = classes - len(right)
    left_out = f"; {untested} more {'have' if untested > 1 else 'has'} {_UNTESTED}" if untested else ""
    return Grid(f"The classes that are known least, of {len(right)}{left_out}", ("class", "known rightly"), rows)
