"""What the reports of a table, of continual learning and of a search have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdc.condensed import CondensedDataset
from fastdc.loop.thumbnails import thumbnail
from fastdc.report.charts import Chart
from fastdc.report.folder import Folder, Record, text_of
from fastdc.report.pictures import picture
from fastdc.report.values import Captioned, Cell, Grid, GridRow, Row, settings
from fastdc.runs.content import finite_number

_MOST_SETS = 24  # whose pictures are shown


@dataclass(frozen=True)
class ExperimentReport:
    """All that the page of an experiment shows; a part that the folder does not hold is empty."""

    kind: str
    title: str
    summary: str
    charts: tuple[Chart, ...]
    grids: tuple[Grid, ...]
    details: tuple[Grid, ...]
    """Grids that are folded up."""
    sets: tuple[Captioned, ...]
    settings: tuple[Row, ...]
    command: str
    """That repeats it."""
    notes: tuple[str, ...]


def read_settings(folder: Folder, *needed: str) -> tuple[Mapping[str, Any], tuple[Row, ...]]:
    """The options of an experiment, as config.json has them, these among them; and all with the versions, as a page shows them."""

    def read(content: Any) -> Mapping[str, Any]:
        return {**content, "config": {name: content["config"][name] for name in (*needed, *content["config"])}}

    content = folder.json("config.json", read)
    if content is None:
        return {}, ()
    config = content["config"]
    return config, (*settings(config, tuple(config)), *settings(content, ("fastdc", "torch")))


def read_command(folder: Folder) -> str:
    """The command that repeats an experiment; nothing where its folder does not say it."""
    if not (folder.path / "command.txt").exists():  # of a call in Python, or of an earlier version
        return ""
    return folder.part("command.txt", "a command of fastdc", text_of) or ""


def image_sets(folder: Folder, files: Sequence[Path]) -> tuple[Captioned, ...]:
    """Pictures of image sets, each called as its folder."""
    found = []
    for file in files[:_MOST_SETS]:
        name = file.parent.relative_to(folder.path).as_posix()
        content = folder.part(str(file.relative_to(folder.path)), "a condensed dataset", _thumbnail)
        if content is not None:
            short = name.partition("/")[2] or name
            found.append(Captioned(short, picture(content, f"The first images of {short}, class after class")))
    if len(files) > _MOST_SETS:
        folder.notes.append(f"Of {len(files)} image sets the pictures of {_MOST_SETS} are shown.")
    return tuple(found)


def _thumbnail(file: Path) -> bytes:
    return thumbnail(CondensedDataset.load(file))


def optional(record: Record, name: str) -> float | None:
    """A number of a line of a CSV file; None where the field is empty."""
    return read_number(record, name) if record[name] else None


def read_number(record: Record, name: str) -> float:
    """A number of a line of a CSV file; a ValueError where it is none."""
    return finite_number({name: float(record[name])}, name, least=-1e300)


def shaded(values: Sequence[Sequence[Cell | None]], shades: Sequence[Sequence[float | None]], names: Sequence[str]) -> tuple[GridRow, ...]:
    """The rows of a grid, whose cells are shaded from its least number to its largest."""
    known = [shade for row in shades for shade in row if shade is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)

    def with_shade(cell: Cell | None, shade: float | None) -> Cell:
        if cell is None:
            return Cell("")
        return cell if shade is None or low == high else Cell(cell.text, cell.note, (shade - low) / (high - low))

    return tuple(GridRow(name, tuple(map(with_shade, *row))) for name, *row in zip(names, values, shades, strict=True))
