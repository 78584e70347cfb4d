"""The report of continual learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fastdc.report.charts import Chart, Series, chart
from fastdc.report.experiment import ExperimentReport, image_sets, optional, read_command, read_number, read_settings, shaded
from fastdc.report.folder import Folder, Record
from fastdc.report.values import Cell, Grid, mean_and_deviation, said

_ALL = "all"  # what table.csv calls the average over the stages so far

Kind = tuple[str, str]  # a memory, and whether outputs are kept by distillation
Found = Mapping[tuple[Kind, str, str], tuple[float, float, float | None]]
"""By kind, stage learned and stage tested: mean, deviation, the paper's figure."""


def continual_report(path: Path) -> ExperimentReport:
    """The report of the continual learning in a folder."""
    folder = Folder(path)
    config, rows = read_settings(folder, "stages", "seed")
    found: Found = folder.rows("table.csv", _read) or {}
    forgotten = folder.rows("table.csv", _forgotten) or {} if found else {}
    kinds, stages = list(dict.fromkeys(kind for kind, *_ in found)), list(dict.fromkeys(after for _, after, _ in found))
    seeds = sorted(path.glob("runs/*/memory*/condensed.safetensors"))
    first = f"seed{config['seed']}" if config else ""
    return ExperimentReport(
        kind="Continual learning",
        title=said(config["stages"]) if config else path.name,
        summary="One network learns one stage after another, and keeps a few images per class of those before.",
        charts=_charts(found, kinds, stages),
        grids=(_averages(found, forgotten, kinds, stages), _by_stage(found, kinds, stages)) if found else (),
        details=(),
        sets=image_sets(folder, [file for file in seeds if file.parent.parent.name.endswith(first)]),
        settings=rows,
        command=read_command(folder),
        notes=tuple(folder.notes),
    )


def _kind(record: Record) -> Kind:
    return record["memory"], record["distillation"]


def _read(records: Sequence[Record]) -> Found:
    def figures(record: Record) -> tuple[float, float, float | None]:
        return read_number(record, "mean"), read_number(record, "std"), optional(record, "paper")

    return {(_kind(record), record["after"], record["stage"]): figures(record) for record in records}


def _forgotten(records: Sequence[Record]) -> Mapping[Kind, float]:
    """What is forgotten in the end."""
    return {_kind(record): value for record in records if (value := optional(record, "forgotten")) is not None}


def _name(kind: Kind) -> str:
    return kind[0] + (", distilled" if kind[1] == "yes" else "")


def _averages(found: Found, forgotten: Mapping[Kind, float], kinds: Sequence[Kind], stages: Sequence[str]) -> Grid:
    placed = [[found.get((kind, stage, _ALL)) for stage in stages] for kind in kinds]
    cells: list[list[Cell | None]] = [[None if one is None else _cell(*one) for one in row] for row in placed]
    shades = [[None if one is None else one[0] for one in row] for row in placed]
    for kind, cell_row, shade_row in zip(kinds, cells, shades, strict=True):
        cell_row.append(Cell(f"{forgotten[kind]:.1f}") if kind in forgotten else None)
        shade_row.append(None)
    head = ("memory", *(f"after {number}: {stage}" for number, stage in enumerate(stages, 1)), "forgotten")
    caption = "Average accuracy over the stages so far, %: mean and standard deviation over seeds"
    return Grid(caption, head, shaded(cells, shades, [*map(_name, kinds)]))


def _by_stage(found: Found, kinds: Sequence[Kind], stages: Sequence[str]) -> Grid:
    placed = [[found.get((kind, stages[-1], stage)) for stage in stages] for kind in kinds]
    cells = [[None if one is None else _cell(*one) for one in row] for row in placed]
    shades = [[None if one is None else one[0] for one in row] for row in placed]
    return Grid("Accuracy on each stage after the last, %", ("memory", *stages), shaded(cells, shades, [*map(_name, kinds)]))


def _cell(mean: float, std: float, paper: float | None) -> Cell:
    return Cell(mean_and_deviation(mean, std), "" if paper is None else f"paper {paper:.1f}")


def _charts(found: Found, kinds: Sequence[Kind], stages: Sequence[str]) -> tuple[Chart, ...]:
    """The average accuracy after each stage, a line for each kind; none where none is known."""
    memories = list(dict.fromkeys(memory for memory, _ in kinds))
    series, texts = [], []
    for kind in kinds:
        ours = [(float(number), *one) for number, stage in enumerate(stages, 1) if (one := found.get((kind, stage, _ALL))) is not None]
        if not ours:
            continue
        points, spread = tuple((x, mean) for x, mean, *_ in ours), tuple(std for _, _, std, _ in ours)
        series.append(Series(_name(kind), points, spread, dashed=kind[1] != "yes", color=memories.index(kind[0])))
        texts.append(f"{_name(kind)} from {points[0][1]:.1f} to {points[-1][1]:.1f}")
    text = f"Line chart of the average accuracy in percent after each of {len(stages)} stages: {'; '.join(texts)}."
    numbers = [str(number) for number in range(1, len(stages) + 1)]
    return (chart("Average accuracy over the stages so far, %", "stages learned", series, text, numbers),) if series else ()
