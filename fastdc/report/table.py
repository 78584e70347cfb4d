"""The report of a table of the paper, or of an ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastdc.report.charts import Chart, Series, chart
from fastdc.report.experiment import ExperimentReport, image_sets, optional, read_command, read_number, read_settings, shaded
from fastdc.report.folder import Folder, Record, text_of
from fastdc.report.values import Cell, Grid, mean_and_deviation, said


@dataclass(frozen=True)
class _Field:
    """What a table has in a row and a column; accuracies in percent."""

    row: str
    column: str
    mean: float | None
    std: float
    relative: float | None
    paper: float | None
    paper_std: float | None
    reason: str


def table_report(path: Path) -> ExperimentReport:
    """The report of the table in a folder."""
    folder = Folder(path)
    config, rows = read_settings(folder, "dataset", "protocol")
    fields = folder.rows("table.csv", lambda records: [_field(record) for record in records]) or []
    title = folder.part("table.md", "a page of fastdc", _heading) or f"Table {path.name}"
    by_place = {(field.row, field.column): field for field in fields}
    names = list(dict.fromkeys(field.row for field in fields)), list(dict.fromkeys(field.column for field in fields))
    reasons = list(dict.fromkeys(field.reason for field in fields if field.reason))
    return ExperimentReport(
        kind="A table",
        title=title,
        summary=f"{said(config['dataset'])}, tested by protocol {said(config['protocol'])}." if config else "",
        charts=_by_row(fields, *names),
        grids=(_grid(by_place, *names),) if fields else (),
        details=(),
        sets=image_sets(folder, sorted((path / "cells").glob("*/condensed.safetensors"))),
        settings=rows,
        command=read_command(folder),
        notes=(*(f"Left out: {reason}" for reason in reasons), *folder.notes),
    )


def _heading(file: Path) -> str:
    return text_of(file).splitlines()[0].removeprefix("# ")


def _field(record: Record) -> _Field:
    mean, relative, paper, paper_std = (optional(record, name) for name in ("mean", "relative", "paper_mean", "paper_std"))
    std = read_number(record, "std") if mean is not None else 0.0
    return _Field(record["row"], record["column"], mean, std, relative, paper, paper_std, record["reason"])


def _grid(fields: Mapping[tuple[str, str], _Field], rows: Sequence[str], columns: Sequence[str]) -> Grid:
    placed = [[fields.get((row, column)) for column in columns] for row in rows]
    cells = [[None if field is None else _cell(field) for field in row] for row in placed]
    means = [[None if field is None else field.mean for field in row] for row in placed]
    caption = "Test accuracy, %: mean and standard deviation over networks; below it what the paper states, where it does"
    return Grid(caption, ("", *columns), shaded(cells, means, rows))


def _cell(field: _Field) -> Cell:
    text = "left out" if field.mean is None else mean_and_deviation(field.mean, field.std)
    deviation = "" if field.paper_std is None else f" ± {field.paper_std:.1f}"
    stated = "" if field.paper is None else f"paper {field.paper:.1f}{deviation}"
    share = "" if field.relative is None else f"{field.relative:.0f} % of the whole set"
    return Cell(text, ", ".join(filter(None, (stated, share))))


def _by_row(fields: Sequence[_Field], rows: Sequence[str], columns: Sequence[str]) -> tuple[Chart, ...]:
    """Accuracy by images per class, a line for each column, where the rows are numbers."""
    if len(rows) < 2 or not all(row.isdecimal() for row in rows):
        return ()
    place = {row: float(number) for number, row in enumerate(rows, 1)}
    series, texts = [], []
    for color, column in enumerate(columns):
        own = [field for field in fields if field.column == column]
        ours = tuple((place[field.row], field.mean) for field in own if field.mean is not None)
        paper = tuple((place[field.row], field.paper) for field in own if field.paper is not None)
        if ours:
            series.append(Series(column, ours, tuple(field.std for field in own if field.mean is not None), color=color))
            texts.append(f"{column} from {ours[0][1]:.1f} to {ours[-1][1]:.1f}")
        if paper:
            series.append(Series(f"{column}, paper", paper, dashed=True, color=color))
    text = f"Line chart of the test accuracy in percent by images per class, {rows[0]} to {rows[-1]}: {'; '.join(texts)}."
    return (chart("Test accuracy, %", "images per class", series, text, rows),) if series else ()
