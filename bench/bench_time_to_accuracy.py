"""Accuracy over the time that a condensation takes: each method at several budgets, one protocol for all, and a plot.

    python bench/bench_time_to_accuracy.py --ipc 1 10 --budgets 30s 2min 8min

Every point is a run of its own that was given its budget and planned its steps for it, at the scale of a laptop; then networks of the
default width are trained on what it gave. Beside them, as lines: random real images, herding, and `untrained`, what a formation does by
itself. Points that the result file holds are not taken again; the plot is drawn of what is there. Run nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from record import RESULTS, ROOT, Row, write

import fastdc
from fastdc.experiments.plots import as_png, new_figure
from fastdc.options.checks import seconds_of
from fastdc.training import whole_set

METHODS = ("dc", "dsa", "dm", "idc", "dream", "accdd", "dance", "ncfm", "auto")
LINES = ("random", "herding", "untrained")
EVALUATION = ("model", "networks", "protocol", "epochs", "seed")  # the options that it takes
FILE, PLOT = RESULTS / "time_to_accuracy.json", ROOT / "docs" / "time_to_accuracy.png"
WHOLE_SET_EPOCHS = 5  # of the network by which herding chooses


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--budgets", nargs="+", default=["30s", "2min", "8min"])
    parser.add_argument("--networks", type=int, default=2, help="to train and test on each set")
    parser.add_argument("--model", default="convnet", help="of these networks")
    parser.add_argument("--protocol", default="dc", help="of their training")
    parser.add_argument("--epochs", type=int, default=300, help="of their training, whatever the protocol says")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--plot", type=Path, default=PLOT)
    return parser.parse_args()


def condensed_by(method: str, budget: str | None, ipc: int, train: fastdc.ImageData, seed: int) -> fastdc.CondensedDataset:
    """The set of a method, within its budget where it learns."""
    if method == "random":
        return fastdc.coresets.random(train, ipc, seed=seed)
    with tempfile.TemporaryDirectory() as folder:  # networks that an earlier run has kept would be a head start
        whole_set.DEFAULT_CACHE = Path(folder)
        if method == "herding":
            return fastdc.coresets.herding(train, ipc, epochs=WHOLE_SET_EPOCHS, model="convnet:width=32", seed=seed)
        return fastdc.condense(train, ipc, method=method, scale="laptop", budget=budget, seed=seed)


def point(method: str, budget: str | None, ipc: int, data: tuple[fastdc.ImageData, fastdc.ImageData], options: argparse.Namespace) -> Row:
    """One row: what was condensed, how long it took, what networks learn from it."""
    began = time.monotonic()
    condensed = condensed_by(method, budget, ipc, data[0], options.seed)
    seconds = time.monotonic() - began
    found = fastdc.evaluate(condensed, data[1], **{name: getattr(options, name) for name in EVALUATION})
    return {
        **key(method, budget, ipc, options),
        "seconds": seconds,
        "iterations": condensed.provenance.get("config", {}).get("iterations"),
        "stored": len(condensed.stored),
        "trains_as": len(condensed),
        "mean": 100 * found.mean,
        "std": 100 * found.std,
    }


def key(method: str, budget: str | None, ipc: int, options: argparse.Namespace) -> Row:
    """What tells a point from others."""
    return {"method": method, "ipc": ipc, "budget": budget, **{name: getattr(options, name) for name in ("dataset", *EVALUATION)}}


def drawn(rows: list[Row], ipcs: list[int]) -> bytes:
    """A panel for each number of images per class: accuracy over seconds, lines for what takes no time of its own; one legend."""
    figure, shown = new_figure(5.5 * len(ipcs) + 1.5, 4.5), {}
    for ipc, axes in zip(ipcs, figure.subplots(1, len(ipcs), squeeze=False)[0], strict=True):
        for number, method in enumerate(METHODS):
            points = sorted((row["seconds"], row["mean"], row["std"]) for row in rows if (row["method"], row["ipc"]) == (method, ipc))
            if points:
                across, mean, std = zip(*points, strict=True)
                own = {"linewidth": 3, "color": "black"} if method == "auto" else {"color": f"C{number}"}
                shown[method] = axes.errorbar(across, mean, std, marker="o", capsize=3, **own)
        for method, style in zip(LINES, ("--", "-.", ":"), strict=True):
            for row in (row for row in rows if (row["method"], row["ipc"]) == (method, ipc)):
                shown[method] = axes.axhline(row["mean"], linestyle=style, color="grey")
        axes.set(xscale="log", xlabel="seconds of condensing", ylabel="test accuracy, %", title=f"{ipc} per class")
        axes.xaxis.get_major_locator().set_params(subs=(1, 2, 5))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.grid(alpha=0.3)
    figure.legend(shown.values(), shown, fontsize="small", loc="outside right center")
    return as_png(figure)


def taken(options: argparse.Namespace, say: Callable[[str], None]) -> list[Row]:
    """All points that were asked for, each written as soon as it is there."""
    rows: list[Row] = json.loads(options.file.read_text())["rows"] if options.file.exists() else []
    data = fastdc.load_dataset(options.dataset)
    budgets = sorted(options.budgets, key=seconds_of)
    wanted = [*((method, budget) for budget in budgets for method in options.methods), *((method, None) for method in LINES)]
    for ipc in options.ipc:
        for method, budget in wanted:
            what = key(method, budget, ipc, options)
            if any(row.items() >= what.items() for row in rows):
                continue
            try:
                rows.append(point(method, budget, ipc, data, options))
            except fastdc.FastdcError as error:
                say(f"{method} at {ipc} per class within {budget}: {error}")
                continue
            write(options.file, shlex.join(["python", "bench/bench_time_to_accuracy.py", *sys.argv[1:]]), rows)
            say(", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in rows[-1].items()))
    return rows


def main() -> None:
    options = arguments()
    rows = taken(options, lambda text: print(text, flush=True))
    options.plot.write_bytes(drawn([row for row in rows if row["dataset"] == options.dataset], options.ipc))
    print(f"written to {options.file} and {options.plot}")


if __name__ == "__main__":
    main()
