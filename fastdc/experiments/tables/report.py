"""A finished table as Markdown and CSV, the paper's own figures beside ours."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass

from fastdc.experiments.tables.cells import Cell, Definition
from fastdc.experiments.tables.job import Outcome
from fastdc.experiments.tables.paper import Figures
from fastdc.training.evaluation import Evaluation

_FIELDS = ("row", "column", "mean", "std", "networks", "relative", "paper_mean", "paper_std", "reason")


@dataclass(frozen=True)
class FilledTable:
    """A table with what was found for its cells; accuracies are printed as percent."""

    definition: Definition
    outcomes: Mapping[Cell, Outcome]
    """Of each cell: all networks of all its image sets, or why there are none."""
    paper: Figures
    """The paper's own figures for this dataset."""
    caption: str
    """What it was made of: dataset and scale."""
    pictures: Mapping[str, str]
    """Condensed images: what they are -> the file, relative to the table's folder."""
    plot: str | None = None
    """The file of a plot."""

    def markdown(self) -> str:
        """The page: title, table, the plot and the pictures."""
        parts = [f"# {self.definition.title}", self.markdown_table()]
        if self.plot is not None:
            parts.append(f"![{self.definition.title}]({self.plot})\n")
        if self.pictures:
            parts.append("## Condensed images\n")
            parts += [f"{name}\n\n![{name}]({file})\n" for name, file in self.pictures.items()]
        return "\n".join(parts)

    def markdown_table(self) -> str:
        """The table, its caption, and the reasons of cells left out."""
        definition, reasons = self.definition, dict[str, int]()
        columns = [*definition.columns, *(f"{name} / {definition.relative_to}, %" for name in self._compared())]
        lines = ["", f"| {' | '.join([definition.corner, *columns])} |", "|---" * (len(columns) + 1) + "|"]
        cells = {(cell.row, cell.column): cell for cell in definition.cells}
        for row in definition.rows:
            fields = [self._field(cells[row, column], reasons) for column in definition.columns]
            fields += [_percent(self.relative(cells[row, column])) for column in self._compared()]
            lines.append(f"| {' | '.join([row, *fields])} |")
        lines += ["", self.caption]
        if reasons:
            skipped = sum(not isinstance(outcome, Evaluation) for outcome in self.outcomes.values())
            lines += ["", f"{skipped} of {len(definition.cells)} cells were left out:", ""]
            lines += [f"{number}. {reason}" for reason, number in reasons.items()]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """One line for each cell, accuracies in percent."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_FIELDS)
        for cell in self.definition.cells:
            outcome, paper = self.outcomes[cell], self._paper(cell)
            ours = (
                [_percent(outcome.mean, 2), _percent(outcome.std, 2), len(outcome.accuracies)]
                if isinstance(outcome, Evaluation)
                else [""] * 3
            )
            stated = [*paper, "", ""][:2]
            reason = "" if isinstance(outcome, Evaluation) else outcome.reason
            writer.writerow([cell.row, cell.column, *ours, _percent(self.relative(cell), 2), *stated, reason])
        return text.getvalue()

    def relative(self, cell: Cell) -> float | None:
        """The mean accuracy of a cell as a share of that of the column to compare with, in its row."""
        if self.definition.relative_to is None:
            return None
        whole = next(other for other in self.definition.cells if (other.row, other.column) == (cell.row, self.definition.relative_to))
        ours, other = self.outcomes[cell], self.outcomes[whole]
        if not isinstance(ours, Evaluation) or not isinstance(other, Evaluation) or not other.mean:
            return None
        return ours.mean / other.mean

    def _compared(self) -> list[str]:
        relative_to = self.definition.relative_to
        return [name for name in self.definition.columns if name != relative_to] if relative_to is not None else []

    def _paper(self, cell: Cell) -> tuple[float, ...]:
        return self.paper.get(cell.row, {}).get(cell.column, ())

    def _field(self, cell: Cell, reasons: dict[str, int]) -> str:
        outcome, paper = self.outcomes[cell], self._paper(cell)
        if isinstance(outcome, Evaluation):
            text = f"{_percent(outcome.mean)} +- {_percent(outcome.std)}"
        else:
            text = f"left out [{reasons.setdefault(outcome.reason, len(reasons) + 1)}]"
        return f"{text} (paper {' +- '.join(f'{number:.1f}' for number in paper)})" if paper else text


def _percent(share: float | None, digits: int = 1) -> str:
    return "" if share is None else f"{100 * share:.{digits}f}"
