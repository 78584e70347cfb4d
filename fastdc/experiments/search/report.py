"""A finished search: Markdown and CSV as the paper's table 4, the ranked list as JSON, and a scatter plot."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

from fastdc.experiments.files import write_results
from fastdc.experiments.plots import as_png, can_plot, new_figure
from fastdc.experiments.search.result import ProxyResult, SearchResult

_FIELDS = ("proxy", "best_network", "best_accuracy", "correlation_top", "correlation_known", "minutes", "minutes_making", "images")


def write(out: Path, result: SearchResult, caption: str, command: str | None = None) -> str:
    """Write all that is reported into the folder `out`; returns the page.

    Raises:
        RunError: the folder cannot be written.
    """
    plot = "search.png" if can_plot() else None
    page = markdown(result, caption, plot)
    files: dict[str, str | bytes] = {"table.md": page, "table.csv": as_csv(result), "ranking.json": ranking(result)}
    files |= {plot: plot_against_truth(result)} if plot is not None else {}
    write_results(out, files, command)
    return page


def markdown(result: SearchResult, caption: str, plot: str | None) -> str:
    """The page: a column for each proxy and one for the whole set, and the networks left out."""
    head = ["", *(proxy.name for proxy in result.proxies), "whole set"]
    best = max(result.truth.values())
    known = len(result.truth)
    rows = [
        ["best network, %", *(f"{100 * result.best(proxy)[1]:.1f}" for proxy in result.proxies), f"{100 * best:.1f}"],
        [f"rank correlation, top {result.top}", *(_number(result.correlation(proxy, top=True)) for proxy in result.proxies), "1.00"],
        [f"rank correlation, all {known} known", *(_number(result.correlation(proxy, top=False)) for proxy in result.proxies), "1.00"],
        ["minutes, networks", *(f"{proxy.seconds / 60:.1f}" for proxy in result.proxies), f"{result.truth_seconds / 60:.1f} ({known})"],
        ["minutes, proxy", *(f"{proxy.making / 60:.1f}" for proxy in result.proxies), ""],
        ["images stored", *(str(proxy.images) for proxy in result.proxies), str(result.images)],
    ]
    lines = ["# Architecture search on proxies", "", _row(head), "|---" * len(head) + "|", *map(_row, rows), ""]
    count = len(result.proxies[0].accuracies)
    lines += [
        f"{count} networks. Best network: the accuracy, trained on the whole set, of the one that the proxy ranks first; of the whole set, "
        f"the best of the {known} that were trained on it. Minutes of one thread each, summed over networks. {caption}"
    ]
    if result.skipped:
        lines += ["", f"{len(result.skipped)} network(s) were left out:", ""]
        lines += [f"- {model}: {reason}" for model, reason in result.skipped.items()]
    if plot is not None:
        lines += ["", f"![accuracy on the proxies and on the whole set]({plot})"]
    return "\n".join(lines) + "\n"


def as_csv(result: SearchResult) -> str:
    """One line for each proxy, and one for the whole set; accuracies in percent."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_FIELDS)
    for proxy in result.proxies:
        model, found = result.best(proxy)
        correlations = (_number(result.correlation(proxy, top=top), digits=4) for top in (True, False))
        minutes = (f"{seconds / 60:.2f}" for seconds in (proxy.seconds, proxy.making))
        writer.writerow((proxy.name, model, f"{100 * found:.2f}", *correlations, *minutes, proxy.images))
    best = max(result.truth, key=lambda model: result.truth[model])
    writer.writerow(
        ("whole set", best, f"{100 * result.truth[best]:.2f}", "1", "1", f"{result.truth_seconds / 60:.2f}", "0", result.images)
    )
    return buffer.getvalue()


def ranking(result: SearchResult) -> str:
    """JSON: for each proxy the networks from the best on, with their accuracy on it and, where known, on the whole set."""

    def entry(proxy: ProxyResult, model: str) -> dict[str, float | str | None]:
        return {"model": model, "accuracy": proxy.accuracies[model], "whole_set": result.truth.get(model)}

    content = {proxy.name: [entry(proxy, model) for model in proxy.ranking] for proxy in result.proxies}
    return json.dumps({**content, "skipped": dict(result.skipped)}, indent=2) + "\n"


def plot_against_truth(result: SearchResult) -> bytes:
    """A PNG: accuracy on each proxy against accuracy on the whole set, a panel for each; needs matplotlib."""
    figure = new_figure(3.2 * len(result.proxies), 3.4)
    panels = figure.subplots(1, len(result.proxies), squeeze=False)[0]
    for axes, proxy in zip(panels, result.proxies, strict=True):
        for top, label in ((True, f"its top {result.top}"), (False, "others")):
            first = set(proxy.ranking[: result.top])
            models = [model for model in result.truth if (model in first) == top]
            axes.scatter(
                [100 * proxy.accuracies[model] for model in models], [100 * result.truth[model] for model in models], s=12, label=label
            )
        axes.set(title=f"{proxy.name}: {_number(result.correlation(proxy, top=False))}", xlabel="on the proxy, %")
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="on the whole set, %")
    panels[0].legend()
    return as_png(figure)


def _number(value: float, digits: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _row(fields: Sequence[str]) -> str:
    return f"| {' | '.join(fields)} |"
