"""The paper's own figures, from paper.json: table, dataset, row, column -> test accuracy in percent, with its deviation if stated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files

Figures = Mapping[str, Mapping[str, tuple[float, ...]]]


def paper_figures(table: str, dataset: str) -> Figures:
    """The paper's figures of one table on one dataset: row -> column -> (mean,) or (mean, deviation), percent; where none, empty.

    >>> paper_figures("coresets", "fashion-mnist")["1"]["DC"]
    (70.5, 0.6)
    """
    content = json.loads((files("fastdc.experiments.tables") / "paper.json").read_text())
    rows = content.get(table, {}).get(dataset, {})
    return {row: {column: tuple(numbers) for column, numbers in columns.items()} for row, columns in rows.items()}
