"""From a folder to its page: what kind of run it holds, and the file that is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdc.errors import DataError, MissingFileError, UsageError
from fastdc.report.comparison import comparison
from fastdc.report.continual import continual_report
from fastdc.report.render import render, write_page
from fastdc.report.run import run_report
from fastdc.report.search import search_report
from fastdc.report.table import table_report
from fastdc.runs.content import reading
from fastdc.runs.folder import beside_a_run

NAME = "report.html"


@dataclass(frozen=True)
class _Kind:
    """One kind of run."""

    marks: tuple[str, ...]
    """Files and folders, any of which a folder of this kind has, and none of another that comes after it."""
    template: str
    report: Callable[[Path], Any]


_RUN = _Kind(("condensed.safetensors", "metrics.jsonl", "checkpoint.safetensors"), "run.html", run_report)
_KINDS = (
    _RUN,
    _Kind(("cells",), "experiment.html", table_report),
    _Kind(("ranking.json", "proxies"), "experiment.html", search_report),
    _Kind(("runs",), "experiment.html", continual_report),
)


def write_report(path: Path, out: Path | None = None) -> Path:
    """Write the report of a run; returns the file.

    Args:
        path: the folder of a run, of a table, of continual learning or of a search.
        out: the file; None: report.html in the folder.

    Raises:
        MissingFileError: no such folder.
        DataError: it holds no run.
        RunError: the file cannot be written.
    """
    kind, file = _kind_of(path), path / NAME if out is None else out
    with reading(path, "the folder of a run"):
        text = render(kind.template, kind.report(path))
    write_page(file, text)
    return file


def write_comparison(paths: Sequence[Path], out: Path) -> None:
    """Write the report of several condensations, side by side.

    Raises:
        UsageError: a folder holds another kind of run.
        MissingFileError: no such folder.
        DataError: a folder holds no run.
        RunError: the file cannot be written.
    """
    for path in paths:
        if _kind_of(path) is not _RUN:
            raise UsageError(f"{path} holds no condensed dataset, and only these are set side by side; name it alone for its own report.")
    write_page(out, render("comparison.html", comparison(paths)))


def accompany(path: Path) -> None:
    """Write the report of a run that has come to its end; where that fails, a warning says so, and the result stands."""
    with beside_a_run(path / NAME):
        write_report(path)


def _kind_of(path: Path) -> _Kind:
    if not path.is_dir():
        raise MissingFileError(f"{path} is no folder; expected that of a run, which holds its config.json.")
    kind = next((kind for kind in _KINDS if any((path / mark).exists() for mark in kind.marks)), None)
    if kind is None or not any((path / name).exists() for name in ("config.json", *_RUN.marks)):
        raise DataError(f"{path} holds no run; expected the folder that condense, table, continual or search was given as out.")
    return kind
