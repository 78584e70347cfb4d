"""The command `report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from fastdc.cli.arguments import Common
from fastdc.errors import UsageError
from fastdc.report import write_comparison, write_report


@dataclass(frozen=True, kw_only=True)
class Report(Common):
    """Write the report of a run: one HTML file with images, curves, accuracies, and how to repeat it. Of several runs, side by side."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """The folder of a run of condense, table, continual or search; or several of condense."""
    out: str | None = None
    """The HTML file to write. The default is report.html in the folder of the run; several runs need a name."""

    def run(self) -> None:
        """Write the report, say where."""
        paths = [Path(run).expanduser() for run in self.runs]
        if not paths:
            raise UsageError("no run is named; expected the folder of one, or of several.")
        out = Path(self.out).expanduser() if self.out is not None else None
        if len(paths) == 1:
            out = write_report(paths[0], out)
        elif out is None:
            raise UsageError(f"{len(paths)} runs are named; name the file that shows them side by side, such as --out compare.html.")
        else:
            write_comparison(paths, out)
        print(f"written to {out}")
