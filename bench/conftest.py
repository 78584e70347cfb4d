"""What every benchmark shares: its rows, and the file in bench/results/ that they go into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from record import RESULTS, Row, rounded, write

ROWS = pytest.StashKey[dict[Path, list[Row]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", type=Path, default=RESULTS, help="the folder that the benchmarks write their rows into, NAME.json each")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = {}


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Adds a row to the benchmark's result file: what was measured, the parameters of the benchmark, and the figures."""
    callspec = getattr(request.node, "callspec", None)
    parameters = dict(callspec.params) if callspec is not None else {}
    rows = request.config.stash[ROWS].setdefault(request.path, [])
    return lambda what, **figures: rows.append({"what": what, **parameters, **figures})


@pytest.fixture
def timed(benchmark: Any, record: Callable[..., None]) -> Any:
    """Times a function, after one call to warm up, and records the median of `rounds` calls."""

    def run(what: str, function: Any, rounds: int = 3, **figures: Any) -> None:
        benchmark.group = what
        benchmark.pedantic(function, rounds=rounds, warmup_rounds=1)
        record(what, seconds=benchmark.stats.stats.median, rounds=rounds, **figures)

    return run


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Print the rows and write the files, unless a part of the rows is missing: a benchmark failed, or only some of them were asked for."""
    partial = exitstatus or config.option.keyword or any("::" in argument for argument in config.args)
    for path, rows in config.stash[ROWS].items():
        for row in rows:
            terminalreporter.write_line(", ".join(f"{key} {rounded(value)}" for key, value in row.items()))
        file = config.option.results / f"{path.stem.removeprefix('bench_')}.json"
        if partial:
            terminalreporter.write_line(f"{file} stays as it is: a part of the rows is missing")
        else:
            write(file, f"pytest bench/{path.name}", rows)
            terminalreporter.write_line(f"written to {file}")
