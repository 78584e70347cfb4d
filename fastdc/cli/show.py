"""The command `show`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from fastdc.cli.arguments import Common
from fastdc.cli.shared import condensed_file, read_condensed


@dataclass(frozen=True, kw_only=True)
class Show(Common):
    """Write the picture of a condensed dataset: a row per class."""

    condensed: tyro.conf.Positional[str]
    """A condensed dataset, the folder of a run, or a .pt file of the paper's authors (with --dataset)."""
    out: str | None = None
    """The PNG file to write; None: beside the condensed dataset."""
    dataset: str | None = None
    """For a .pt file: the dataset that it was condensed from, which says how it is normalised."""
    data_root: str | None = None
    """Where datasets are kept and downloaded to; None: ~/.cache/fastdc/data."""

    def run(self) -> None:
        """Write the picture, print what it shows."""
        condensed, _ = read_condensed(self.condensed, self.dataset, self.data_root, needs_dataset=False)
        out = Path(self.out) if self.out is not None else condensed_file(self.condensed).with_suffix(".png")
        condensed.save_grid(out)
        print(condensed)
        print(f"written to {out}")
