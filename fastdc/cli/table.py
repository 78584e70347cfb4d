"""The command `fastdc table`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from fastdc.cli.arguments import Common
from fastdc.experiments.scales import changed
from fastdc.experiments.tables.make import TableConfig, make_table
from fastdc.experiments.tables.scale import SCALES
from fastdc.options.specs import plain_name


@dataclass(frozen=True, kw_only=True)
class Table(Common):
    """Make a table of the paper, or one of its ablations, on any dataset; the paper's own figures stand beside.

    The same command again continues it. Started several times, on one machine or several that share the folder, by a
    scheduler, torchrun or --workers, it is shared out: each image set is made by one process.
    """

    table: tyro.conf.Positional[str]
    """coresets (Table 1), cross-architecture (2), dd (3), ipc (Figure 3); activation, pooling, norm, width, depth or distance."""
    dataset: str = "digits"
    """digits, mnist, fashion-mnist, svhn, cifar10, cifar100, usps, folder:PATH or npz:PATH."""
    data_root: str | None = None
    """Where datasets are kept and downloaded to; None: ~/.cache/fastdc/data."""
    out: str | None = None
    """Folder of the table; None: runs/table-TABLE-DATASET-SCALE."""
    ipc: tuple[int, ...] | None = None
    """Images per class; None: what the paper's table has."""
    scale: str = "laptop"
    """How much of the paper's protocol to spend: tiny, laptop or paper; the options below change a part of it."""
    iterations: int | None = None
    """Random networks to match on, for each image set; None: the scale's, as for the next five."""
    batch_real: int | None = None
    """Real images of each class in a matching step."""
    sets: int | None = None
    """Image sets of each kind."""
    networks: int | None = None
    """Networks trained and tested on each image set."""
    epochs: int | None = None
    """Epochs of training each of them."""
    whole_set_epochs: int | None = None
    """Epochs of training on the whole set, for coresets and the whole set's accuracy."""
    model: str = "convnet"
    """The ConvNet to use and to vary, such as convnet:width=64; without a width it has the scale's."""
    seed: int = 0
    """Of the first image set; the others have the next ones."""
    engine: str = "auto"
    """Who computes gradients: auto, native, torch or reference."""
    device: str = "auto"
    """Where: auto, cpu, cuda or cuda:N."""
    workers: int = 1
    """Processes to share the work; each takes a part of the threads."""

    def run(self) -> None:
        """Make the table, print it."""
        scale, name = changed(SCALES, self.scale, self)
        out = Path(self.out if self.out is not None else f"runs/{plain_name(f'table-{self.table}-{self.dataset}-{self.scale}')}")
        config = TableConfig(
            table=self.table,
            dataset=self.dataset,
            out=out.expanduser(),
            scale=scale,
            scale_name=name,
            data_root=self.data_root,
            model=self.model,
            ipc=self.ipc,
            seed=self.seed,
            engine=self.engine,
            device=self.device,
            progress=not self.quiet,
        )
        table = make_table(config, self.workers)
        print(f"{table.markdown_table()}\nwritten to {out}")
