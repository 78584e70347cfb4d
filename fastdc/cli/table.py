"""The command `fastdc table`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from fastdc.cli.arguments import DatasetOptions, ExperimentOptions
from fastdc.cli.shared import command_line
from fastdc.experiments.scales import scale_from
from fastdc.experiments.tables.make import TableConfig, make_table
from fastdc.experiments.tables.scale import SCALES
from fastdc.options.specs import plain_name


@dataclass(frozen=True, kw_only=True)
class Table(ExperimentOptions, DatasetOptions):
    """Make a table of the paper, or one of its ablations, on any dataset. The paper's own figures stand beside the new ones.

    The same command again continues an interrupted one. Several processes that are given the same folder share the work: start the
    command several times, on one machine or on several, by a scheduler, by torchrun or with --workers. Each image set is made by one
    process.
    """

    table: tyro.conf.Positional[str]
    """The table to make: coresets (Table 1), cross-architecture (Table 2), dd (Table 3) or ipc (Figure 3); or the ablation of one
    part: activation, pooling, norm, width, depth or distance."""
    dataset: str = "digits"
    """The dataset."""
    out: str | None = None
    """The folder for the table. The default is runs/table-TABLE-DATASET-SCALE."""
    ipc: tuple[int, ...] | None = None
    """One or more numbers of images per class. The default is what the paper's table has."""
    columns: tuple[str, ...] | None = None
    """What to compare in the tables coresets and ipc: coresets, and methods, such as random herding dc idc auto. The default is what the
    paper's table has, and untrained."""
    budget: str | None = None
    """The time for each image set of a method, such as 90s or 10min, in place of --iterations."""
    iterations: int | None = None
    """The number of random networks on which each image set is learned. The default is the scale's, for paper that of each method's
    recipe."""
    batch_real: int | None = None
    """The number of real images of each class in a matching step. The default is the scale's, for paper that of each method's recipe."""
    protocol: str = "dc"
    """How to train the networks that test an image set, with options, as in dsa:operations=color+crop. It is the same for all image
    sets of a table."""
    sets: int | None = None
    """How many image sets to make for each cell, with different seeds. The default is the scale's."""
    networks: int | None = None
    """How many networks to train and test on each image set. The default is the scale's."""
    epochs: int | None = None
    """For how many epochs to train each of these networks. The default is the scale's."""
    whole_set_epochs: int | None = None
    """For how many epochs to train a network on the whole set, which coresets choose by and which gives the whole set's accuracy. The
    default is the scale's."""
    model: str = "convnet"
    """The ConvNet that the table uses or varies, such as convnet:width=64. Without a width it has the scale's."""
    seed: int = 0
    """The seed of the first image set. The others have the seeds after it."""

    def run(self) -> None:
        """Make the table, print it."""
        scale, name = scale_from(SCALES, self.scale, self)
        out = Path(self.out if self.out is not None else f"runs/{plain_name(f'table-{self.table}-{self.dataset}-{self.scale}')}")
        config = TableConfig(
            table=self.table,
            dataset=self.dataset,
            out=out.expanduser(),
            scale=scale,
            scale_name=name,
            data_root=self.data_root,
            image_size=self.image_size,
            classes=self.classes,
            model=self.model,
            ipc=self.ipc,
            columns=self.columns,
            budget=self.budget,
            protocol=self.protocol,
            seed=self.seed,
            engine=self.engine,
            device=self.device,
            progress=not self.quiet,
            command=command_line("table", self),
        )
        table = make_table(config, self.workers)
        print(f"{table.markdown_table()}\nwritten to {out}")
