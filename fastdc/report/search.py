"""The report of an architecture search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastdc.report.charts import Chart, Series, chart
from fastdc.report.experiment import ExperimentReport, image_sets, read_command, read_settings
from fastdc.report.folder import Folder, Record
from fastdc.report.values import Cell, Grid, GridRow, said
from fastdc.runs.content import finite_number

_LISTED = 10  # networks of each proxy's ranking

Ranking = Sequence[tuple[str, float, float | None]]
"""Networks from the best on, with the accuracy on the proxy and, where known, on the whole set; fractions of 1."""


def search_report(path: Path) -> ExperimentReport:
    """The report of the search in a folder."""
    folder = Folder(path)
    config, rows = read_settings(folder, "dataset", "top")
    grid = folder.rows("table.csv", _grid)
    rankings, skipped = folder.json("ranking.json", _read) or ({}, ())
    top = config["top"] if config and type(config["top"]) is int else _LISTED
    return ExperimentReport(
        kind="An architecture search",
        title=f"Search on proxies of {said(config['dataset'])}" if config else path.name,
        summary="Networks are ranked by training them on small proxies of a dataset; those ranked first are then trained on all of it.",
        charts=tuple(plot for name, ranking in rankings.items() if (plot := _scatter(name, ranking, top)) is not None),
        grids=(grid,) if grid is not None else (),
        details=tuple(_listed(name, ranking) for name, ranking in rankings.items()),
        sets=image_sets(folder, sorted(path.glob("proxies/*/condensed.safetensors"))),
        settings=rows,
        command=read_command(folder),
        notes=(*folder.notes, *(f"{model} was left out: {reason}" for model, reason in skipped)),
    )


def _grid(records: Sequence[Record]) -> Grid:
    names = ("best_accuracy", "correlation_top", "correlation_known", "minutes", "minutes_making", "images", "best_network")
    rows = (GridRow(record["proxy"].replace("_", " "), tuple(Cell(record[name]) for name in names)) for record in records)
    caption = (
        "Each proxy: the accuracy in percent, trained on the whole set, of the network that it ranks first; the rank correlation with the "
        "whole set, over its first networks and over all that are known; minutes of one thread"
    )
    head = ("proxy", "best, %", "rank, top", "rank, known", "min, networks", "min, proxy", "images", "its best network")
    return Grid(caption, head, tuple(rows))


def _read(content: Any) -> tuple[Mapping[str, Ranking], Sequence[tuple[str, str]]]:
    def entry(one: Mapping[str, Any]) -> tuple[str, float, float | None]:
        whole = finite_number(one, "whole_set", most=1.0) if one["whole_set"] is not None else None
        return str(one["model"]), finite_number(one, "accuracy", most=1.0), whole

    rankings = {str(name).replace("_", " "): [entry(one) for one in ranking] for name, ranking in content.items() if name != "skipped"}
    return rankings, [(str(model), said(reason)) for model, reason in content["skipped"].items()]


def _scatter(name: str, ranking: Ranking, top: int) -> Chart | None:
    """The accuracy on a proxy and on the whole set; None where none is known."""
    parts = ((f"its first {top}", ranking[:top], 1), ("others", ranking[top:], 0))
    series = []
    for label, part, color in parts:
        points = tuple((100 * accuracy, 100 * whole) for _, accuracy, whole in part if whole is not None)
        if points:
            series.append(Series(label, points, joined=False, color=color))
    count = sum(len(one.points) for one in series)
    text = f"Scatter plot of {count} networks: accuracy trained on {name} across, trained on the whole set upwards."
    return chart(f"{name}: accuracy on the whole set, %", "accuracy on the proxy, %", series, text) if series else None


def _listed(name: str, ranking: Ranking) -> Grid:
    rows = (
        GridRow(model, (Cell(f"{100 * accuracy:.1f}"), Cell("" if whole is None else f"{100 * whole:.1f}")))
        for model, accuracy, whole in ranking[:_LISTED]
    )
    return Grid(f"{name}: the networks that it ranks first, accuracy in %", ("network", "on the proxy", "on the whole set"), tuple(rows))
