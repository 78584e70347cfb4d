"""The command `show`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from fastdc.cli.arguments import Common
from fastdc.cli.shared import read_condensed
from fastdc.cli.watch import watch
from fastdc.condensed import own_file


@dataclass(frozen=True, kw_only=True)
class Show(Common):
    """Write a picture of a condensed dataset, with one row of images for each class."""

    condensed: tyro.conf.Positional[str]
    """The file of a condensed dataset, the folder of a run; or a file that another program wrote (.pt, .npz), or a folder of pictures by
    class, which need --dataset."""
    out: str | None = None
    """The PNG file to write. The default is a file beside the condensed dataset."""
    dataset: str | None = None
    """The dataset that a file of another program was condensed from. It says how the images are normalised."""
    formation: str = "plain"
    """How what another program stored becomes images, where it is not images, as tiles:factor=2 for IDC and its kin."""
    data_root: str | None = None
    """The folder where datasets are kept and downloaded to. The default is ~/.cache/fastdc/data."""
    watch: bool = False
    """Follow a run that goes on: write the picture anew whenever its checkpoint changes, until the run has ended."""

    def run(self) -> None:
        """Write the picture, print what it shows."""
        shown, out = Path(self.condensed).expanduser(), None if self.out is None else Path(self.out).expanduser()
        if self.watch:
            watch(shown, out or shown / "condensed.png")
            return
        condensed, _ = read_condensed(self.condensed, self.dataset, self.formation, self.data_root, needs_dataset=False)
        out = out or (own_file(shown) or shown).with_suffix(".png")
        condensed.save_grid(out)
        print(condensed)
        if condensed.clipped:
            share = f"{100 * condensed.clipped:.1f}% of the pixel values"
            print(f"{share} lie outside 0..1 and are cut off here: `fastdc evaluate --pictures` says what that costs")
        print(f"written to {out}")
