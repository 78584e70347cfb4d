"""What a table is made of: image sets, cells that test them, and the table as rows and columns of cells."""

from __future__ import annotations

from dataclasses import dataclass

from fastdc.options.specs import distinct_name

WHOLE_SET = "whole_set"


@dataclass(frozen=True)
class ImageSet:
    """How a set of images is made, apart from its seed and the scale."""

    source: str
    """The name of a coreset, a method's spec, or "whole_set"."""
    model: str
    """The network that the images are learned with, or chosen by."""
    ipc: int
    """Images per class; 0 for the whole set."""
    distance: str | None = None
    """Of gradients, for methods; None: the method's own."""
    lr_images: float | None = None
    """Likewise the learning rate of the images."""

    @property
    def name(self) -> str:
        """What the folder of such a set is called, its seed aside.

        >>> ImageSet("dc", "convnet:width=8", 10, "mse").name
        'dc-convnet_width=8-ipc10-mse'
        """
        rate = None if self.lr_images is None else f"lr{self.lr_images:g}"
        parts = (self.source, self.model, f"ipc{self.ipc}" if self.ipc else None, self.distance, rate)
        return distinct_name("-".join(part for part in parts if part is not None))


@dataclass(frozen=True)
class Cell:
    """One field of a table: images made by `image_set`, tested by training `model` on them."""

    row: str
    column: str
    image_set: ImageSet
    model: str


@dataclass(frozen=True)
class Definition:
    """A table: what is above it, and its cells, row by row."""

    title: str
    corner: str
    """What the rows are: the heading of the first column."""
    cells: tuple[Cell, ...]
    figures: str
    """The key of the paper's own figures in paper.json."""
    relative_to: str | None = None
    """The column that the others are also given relative to."""

    @property
    def rows(self) -> tuple[str, ...]:
        """The names of the rows, in their order."""
        return tuple(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in their order."""
        return tuple(dict.fromkeys(cell.column for cell in self.cells))
