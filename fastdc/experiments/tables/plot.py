"""The paper's figure 3 for one dataset: accuracy by images per class, absolute and relative; drawn where matplotlib is installed."""

from __future__ import annotations

from fastdc.experiments.plots import as_png, new_figure
from fastdc.experiments.tables.report import FilledTable
from fastdc.training.evaluation import Evaluation


def plot_by_ipc(table: FilledTable) -> bytes:
    """A PNG with two panels, rows of the table (images per class) across: ours with its deviation, and the paper's where it says."""
    figure = new_figure(9, 4)
    absolute, relative = figure.subplots(1, 2)
    definition = table.definition
    for column in definition.columns:
        cells = [cell for cell in definition.cells if cell.column == column]
        ours = [(int(cell.row), result) for cell in cells if isinstance(result := table.outcomes[cell], Evaluation)]
        across = [ipc for ipc, _ in ours]
        absolute.errorbar(across, [100 * e.mean for _, e in ours], [100 * e.std for _, e in ours], marker="o", capsize=3, label=column)
        paper = [(int(cell.row), table.paper[cell.row][column][0]) for cell in cells if column in table.paper.get(cell.row, {})]
        if paper:
            absolute.plot(*zip(*paper, strict=True), linestyle="--", marker="x", label=f"{column}, paper")
        if column != definition.relative_to:
            shares = [(int(cell.row), share) for cell in cells if (share := table.relative(cell)) is not None]
            relative.plot([ipc for ipc, _ in shares], [100 * share for _, share in shares], marker="o", label=column)
    absolute.set(xlabel=definition.corner, ylabel="test accuracy, %")
    relative.set(xlabel=definition.corner, ylabel=f"share of the {definition.relative_to}'s accuracy, %")
    for axes in (absolute, relative):
        axes.grid(alpha=0.3)
        axes.legend()
    return as_png(figure)
