"""Several kinds of memory compared: Markdown, CSV, and the plot of the paper's figure 4."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from fastdc.experiments.continual.result import ContinualResult
from fastdc.experiments.continual.stages import AVERAGE
from fastdc.experiments.files import write_results
from fastdc.experiments.plots import as_png, can_plot, new_figure
from fastdc.training.evaluation import Evaluation

# Average accuracy in percent after stages 2 and 3 (Zhao et al., ICLR 2021, figure 4): memory, distillation.
_PAPER_STAGES = ("svhn", "mnist", "usps")
_PAPER = {("dc", True): (94.8, 95.2), ("herding", True): (94.3, 94.5), ("dc", False): (92.4, 93.0), ("herding", False): (90.8, 90.7)}
_FIELDS = ("memory", "distillation", "after", "stage", "mean", "std", "seeds", "paper", "forgotten")


def write(out: Path, results: Sequence[ContinualResult], caption: str, command: str | None = None) -> str:
    """Write all that is reported into the folder `out`; returns the page.

    Raises:
        RunError: the folder cannot be written.
    """
    plot = "continual.png" if can_plot() else None
    page = markdown(results, caption, plot)
    files: dict[str, str | bytes] = {"table.md": page, "table.csv": as_csv(results)}
    files |= {plot: plot_by_stage(results)} if plot is not None else {}
    write_results(out, files, command)
    return page


def markdown(results: Sequence[ContinualResult], caption: str, plot: str | None) -> str:
    """The page: a row for each kind of memory, the average accuracy after each stage, what was forgotten in the end, and what is kept."""
    names, last = results[0].stages, len(results[0].stages) - 1
    columns = [f"after {number + 1}: {name}" for number, name in enumerate(names)]
    head = ["memory", "distillation", *columns, "forgotten", "images kept", "KiB"]
    lines = ["# Continual learning: average accuracy over the stages so far", "", _row(head), "|---" * len(head) + "|"]
    for result in results:
        averages = [_percent(result.average(after)) + _beside(result, after) for after in range(last + 1)]
        kept = [str(result.images), f"{result.storage / 1024:.0f}"]
        lines.append(_row([result.memory, _yes(result.distill), *averages, _percent(result.forgetting(last)), *kept]))
    lines += ["", f"Percent, mean +- standard deviation over {len(results[0].accuracies)} seed(s). {caption}", ""]
    lines += ["## Accuracy on each stage after the last", "", _row(["memory", "distillation", *names]), "|---" * (len(names) + 2) + "|"]
    for result in results:
        each = [_percent(result.on_stage(last, stage)) for stage in range(last + 1)]
        lines.append(_row([result.memory, _yes(result.distill), *each]))
    if plot is not None:
        lines += ["", f"![average accuracy after each stage]({plot})"]
    return "\n".join(lines) + "\n"


def as_csv(results: Sequence[ContinualResult]) -> str:
    """One line for each kind of memory, stage learned and stage tested ("all": their average, and what was forgotten), in percent."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _FIELDS, lineterminator="\n")
    writer.writeheader()
    for result in results:
        for after, name in enumerate(result.stages):
            tested = {stage: result.on_stage(after, index) for index, stage in enumerate(result.stages[: after + 1])}
            for stage, found in {**tested, AVERAGE: result.average(after)}.items():
                paper = _paper(result, after) if stage == AVERAGE else None
                forgotten = f"{100 * result.forgetting(after).mean:.2f}" if stage == AVERAGE and after else ""
                figures = (f"{100 * found.mean:.2f}", f"{100 * found.std:.2f}", len(found.accuracies))
                values = (result.memory, _yes(result.distill), name, stage, *figures, "" if paper is None else paper, forgotten)
                writer.writerow(dict(zip(_FIELDS, values, strict=True)))
    return buffer.getvalue()


def plot_by_stage(results: Sequence[ContinualResult]) -> bytes:
    """A PNG: average accuracy after each stage, a line for each kind of memory, dashed without distillation; needs matplotlib."""
    figure = new_figure(8, 4)
    axes = figure.subplots()
    memories = list(dict.fromkeys(result.memory for result in results))
    for result in results:
        found = [result.average(after) for after in range(len(result.stages))]
        across, means, stds = range(1, len(found) + 1), [100 * e.mean for e in found], [100 * e.std for e in found]
        label, color = f"{result.memory}{' + distillation' if result.distill else ''}", f"C{memories.index(result.memory)}"
        axes.errorbar(across, means, stds, marker="o", capsize=3, label=label, color=color, linestyle="-" if result.distill else "--")
    names = results[0].stages
    axes.set_xticks(range(1, len(names) + 1), [f"{number}: {name}" for number, name in enumerate(names, 1)], rotation=20, ha="right")
    axes.set(xlabel="after stage", ylabel="average accuracy so far, %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    return as_png(figure)


def _paper(result: ContinualResult, after: int) -> float | None:
    """The paper's own figure for a row's average, where it has one."""
    figures = _PAPER.get((result.memory, result.distill)) if result.stages == _PAPER_STAGES else None
    return figures[after - 1] if figures is not None and after else None


def _beside(result: ContinualResult, after: int) -> str:
    paper = _paper(result, after)
    return "" if paper is None else f" (paper {paper})"


def _percent(found: Evaluation) -> str:
    return f"{100 * found.mean:.1f} +- {100 * found.std:.1f}"


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _row(fields: Sequence[str]) -> str:
    return f"| {' | '.join(fields)} |"
