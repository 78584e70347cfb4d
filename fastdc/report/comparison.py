"""Runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastdc.loop.thumbnails import thumbnail
from fastdc.report.charts import PLAIN, Chart
from fastdc.report.loaded import Loaded, load_run
from fastdc.report.pictures import Picture, picture
from fastdc.report.run import accuracy_bars, figures, loss_chart
from fastdc.report.values import Bars, Cell, Grid, GridRow, Row, said, settings


@dataclass(frozen=True)
class Compared:
    """One run of several."""

    name: str
    title: str
    picture: Picture | None
    figures: tuple[Row, ...]


@dataclass(frozen=True)
class Comparison:
    """All that the page of several runs shows."""

    title: str
    summary: str
    runs: tuple[Compared, ...]
    accuracies: Bars | None
    loss: Chart | None
    differing: Grid | None
    same: tuple[Row, ...]
    notes: tuple[str, ...]


def comparison(paths: Sequence[Path]) -> Comparison:
    """What is shown of the runs in these folders."""
    runs = [load_run(path) for path in paths]
    keys = dict.fromkeys(key for run in runs for key in run.config)
    differing = [key for key in keys if len({said(run.config.get(key)) for run in runs}) > 1]
    same = [key for key in keys if key not in differing]
    tested = [
        (f"{run.name}: {name}", found, "", place % PLAIN if name == "condensed" else PLAIN)
        for place, run in enumerate(runs)
        for name, found in run.results.items()
    ]
    return Comparison(
        title=f"{len(runs)} runs",
        summary=", ".join(run.name for run in runs),
        runs=tuple(map(_compared, runs)),
        accuracies=accuracy_bars(tested),
        loss=loss_chart(runs),
        differing=_grid(runs, differing) if differing else None,
        same=settings(runs[0].config, same),
        notes=tuple(f"{run.name}: {note}" for run in runs for note in run.notes),
    )


def _compared(run: Loaded) -> Compared:
    alt = f"The first images of {run.name}, class after class"
    shown = picture(thumbnail(run.condensed), alt) if run.condensed is not None else None
    return Compared(run.name, run.title, shown, figures(run))


def _grid(runs: Sequence[Loaded], keys: Sequence[str]) -> Grid:
    rows = (GridRow(key.replace("_", " "), tuple(Cell(said(run.config.get(key, ""))) for run in runs)) for key in keys)
    return Grid("The options that differ", ("option", *(run.name for run in runs)), tuple(rows))
