"""Rows of JSON, written at once."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import commit

from gpu.settings import GPU


class Results:
    """The rows of one stage."""

    def __init__(self, stage: str, folder: Path, until: float) -> None:
        self.stage, self.folder, self.until = stage, folder, until
        self.failed = False
        self.machine = {"card": torch.cuda.get_device_name() if GPU else "cpu", "torch": torch.__version__, "cuda": torch.version.cuda}
        self.machine |= {"triton": version_of("triton"), "commit": commit()}

    def left(self) -> float:
        """Seconds of this stage's time that are left."""
        return self.until - time.time()

    def row(self, what: str, **figures: Any) -> None:
        figures = {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in figures.items()}
        with (self.folder / "results.jsonl").open("a") as file:
            file.write(json.dumps({"stage": self.stage, "what": what, **self.machine, **figures}) + "\n")
        shown = {key: value for key, value in figures.items() if key != "top_kernels"}
        print(f"{self.stage}: {what}: " + ", ".join(f"{key} {value}" for key, value in shown.items()), flush=True)

    def attempt(self, what: str, job: Callable[[], dict[str, Any]], needs: float = 3, **labels: Any) -> dict[str, Any]:
        """A row of what `job` gives, or of why it gives nothing."""
        if self.left() < needs:
            self.row(what, **labels, skipped=f"{self.left():.0f} s are left")
            return {}
        try:
            figures = job()
        except Exception as error:
            self.failed = True
            traceback.print_exc(limit=-3)
            self.row(what, **labels, error=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
            if GPU:
                torch.cuda.empty_cache()
            return {}
        self.row(what, **labels, **figures)
        return figures


def version_of(package: str) -> str | None:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
