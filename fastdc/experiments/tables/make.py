"""From the name of a table to its files: table.md, table.csv and, where the paper has a plot, table.png."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fastdc.condensed import CondensedDataset
from fastdc.coresets.choice import check_ipc
from fastdc.data import load_dataset
from fastdc.engines import check_engine
from fastdc.errors import UsageError, unknown_name
from fastdc.experiments.files import write_results
from fastdc.experiments.image_sets import check_source, with_common_numbers
from fastdc.experiments.plots import can_plot
from fastdc.experiments.processes import print_line, run_shared
from fastdc.experiments.scales import with_width
from fastdc.experiments.tables.cells import Definition, ImageSet
from fastdc.experiments.tables.definitions import TABLES, Setting
from fastdc.experiments.tables.job import Job, Outcome, Skipped, TableRunner, jobs_of
from fastdc.experiments.tables.paper import paper_figures
from fastdc.experiments.tables.plot import plot_by_ipc
from fastdc.experiments.tables.report import FilledTable
from fastdc.experiments.tables.scale import Scale
from fastdc.models import as_factory
from fastdc.options.checks import check_count, check_duration
from fastdc.options.specs import split_spec
from fastdc.parallel.devices import resolve_device
from fastdc.parallel.jobs import do_all, raise_failures
from fastdc.recipe import RECIPES
from fastdc.runs.folder import shared_folder
from fastdc.runtime.public import public
from fastdc.runtime.seeding import check_seed
from fastdc.runtime.versions import versions
from fastdc.training.evaluation import Evaluation
from fastdc.training.operations import chosen_operations
from fastdc.training.protocols import PROTOCOLS


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Which table to make, of what, how and where."""

    table: str
    """A name of `TABLES`."""
    dataset: str
    """As `fastdc.load_dataset` takes it."""
    out: Path
    """The folder of the table; several processes may share it."""
    scale: Scale
    """How much to spend."""
    scale_name: str = "own"
    """What the caption calls the scale."""
    data_root: str | None = None
    """Where datasets are kept."""
    image_size: int | tuple[int, int] | None = None
    """As `fastdc.load_dataset` takes it."""
    classes: tuple[str, ...] | None = None
    """Likewise."""
    model: str = "convnet"
    """The ConvNet to use, or to vary."""
    ipc: tuple[int, ...] | None = None
    """Images per class; None: the table's own."""
    protocol: str = "dc"
    """By which image sets are tested, whatever they were learned by; as `fastdc.evaluate` takes it, but for "auto"."""
    columns: tuple[str, ...] | None = None
    """Coresets and methods to compare; None: the table's own."""
    budget: str | None = None
    """The time for each image set of a method, in the place of the scale's iterations."""
    seed: int = 0
    """Of the first image set; the others count on."""
    engine: str = "auto"
    """As `fastdc.condense` takes it."""
    device: str = "auto"
    """Likewise."""
    progress: bool = True
    """Say on stderr how far the work is."""
    command: str | None = None
    """That the report says to repeat it by."""

    def check(self) -> None:
        """Raise a UsageError where an option cannot be used, data aside."""
        if self.table not in TABLES:
            raise unknown_name("table", self.table, TABLES)
        for ipc in self.ipc or ():
            check_count("ipc", ipc)
        if self.ipc is not None and (not self.ipc or len(set(self.ipc)) < len(self.ipc)):
            raise UsageError(f"ipc is {self.ipc}; expected one number or more, each once.")
        if self.columns is not None and not TABLES[self.table].columns:
            tables = ", ".join(name for name, kind in TABLES.items() if kind.columns)
            raise UsageError(f"columns are given, but table {self.table!r} has its own; leave them out, or make one of {tables}.")
        if self.columns is not None and (not self.columns or len(set(self.columns)) < len(self.columns)):
            raise UsageError(f"columns is {self.columns}; expected one name or more, each once.")
        for source in self.columns or ():
            check_source("column", source)
        if self.budget is not None:
            check_duration("budget", self.budget)
        if split_spec(self.model)[0] != "convnet":
            raise UsageError(f"model is {self.model!r}; expected the ConvNet that the tables use and vary, such as 'convnet:width=32'.")
        as_factory(self.model)
        PROTOCOLS.options(self.protocol)
        check_seed(self.seed)
        check_engine(self.engine)
        resolve_device(self.device)


@public
def make_table(config: TableConfig, workers: int = 1) -> FilledTable:
    """Do what is still to be done of a table, together with whoever else does it, and write its files.

    Args:
        config: which table; another call with the same one continues it.
        workers: processes to do it with, this one among them.

    Raises:
        UsageError: an option that cannot be used, or the folder holds another table.
        DataError: a dataset or a file that cannot be used.
        RunError: the folder cannot be written, or some of the cells failed: the files are written without these.
    """
    config.check()
    check_count("workers", workers)
    maker = _TableMaker(config)
    failures = run_shared(maker, partial(_TableMaker, config), workers, config.device)
    table = maker.write(failures)
    raise_failures({job.name: reason for job, reason in failures.items()}, len(maker.jobs), "image sets")
    return table


class _TableMaker:
    """A table that is being made: its definition for the dataset, its jobs, its folder."""

    def __init__(self, config: TableConfig) -> None:
        self.config = config
        kind = TABLES[config.table]
        self.train, test = load_dataset(config.dataset, config.data_root, image_size=config.image_size, classes=config.classes)
        self.ipcs, self.columns = config.ipc or kind.ipcs, config.columns or kind.columns
        self.protocol = PROTOCOLS.in_full(chosen_operations(config.protocol, PROTOCOLS, test.name))
        check_ipc(self.train, max(self.ipcs))
        model = with_width(config.model, config.scale.width)
        self.definition: Definition = kind.define(Setting(model, self.train.channels, self.ipcs, self.columns, config.scale.recipes))
        sources = [cell.image_set.source for cell in self.definition.cells]
        self.scale = with_common_numbers(config.scale, sources, config.scale.recipes)
        self.jobs = jobs_of(self.definition, range(config.seed, config.seed + self.scale.sets))
        self.runner = TableRunner(
            config.out, self.train, test, self.scale, self.protocol, config.budget, config.engine, config.device, config.progress
        )
        content = {
            "table": config.table,
            "dataset": self.train.name,
            "model": config.model,
            "ipc": list(self.ipcs),
            "columns": list(self.columns),
            "protocol": self.protocol,
            "budget": config.budget,
            "seed": config.seed,
            "engine": config.engine,
            **dataclasses.asdict(self.scale),
        }
        with shared_folder(config.out) as run:
            both = f"{self.train.fingerprint} {test.fingerprint}"
            run.record_config(content, {"fingerprint": both, **versions()}, formerly=self.train.fingerprint)

    def run(self, say: Callable[[str], None]) -> dict[Job, str]:
        """Do all jobs, with a line on stdout about each model that was tested; returns what failed, with its reason."""
        return do_all(self.jobs, self.runner, lambda job: self.runner.do(job, self._tell), say)

    def _tell(self, job: Job, model: str, outcome: Outcome) -> None:
        states = [self.runner.outcome(job, model) is not None for job in self.jobs for model in job.models]
        result = outcome if isinstance(outcome, Evaluation) else f"left out: {outcome.reason}"
        print_line(f"[{sum(states)}/{len(states)}] {job.name}, tested with {model}: {result}")

    def write(self, failures: Mapping[Job, str]) -> FilledTable:
        """Write the table's files from what is done."""
        config = self.config
        plots = self.definition.relative_to is not None
        budget = f"; {config.budget} for each image set of a method" if config.budget is not None else ""
        how = f"scale {config.scale_name}: {self.scale}{budget}; protocol {self.protocol}; seed {config.seed}"
        caption = f"{self.train.said()}, {how}, fastdc {versions()['fastdc']}."
        caption += "".join(f" {text}." for text in self._storage())
        if plots and not can_plot():
            caption += " With matplotlib installed (pip install 'fastdc-torch[plot]'), the same command draws the plot."
        outcomes = {cell: self._outcome(cell.image_set, cell.model, failures) for cell in self.definition.cells}
        figures = paper_figures(self.definition.figures, self.train.said())  # those of the dataset as it is
        plot = "table.png" if plots and can_plot() else None
        table = FilledTable(self.definition, outcomes, figures, caption, self._pictures(), plot)
        files: dict[str, str | bytes] = {plot: plot_by_ipc(table)} if plot is not None else {}
        write_results(config.out, files | {"table.csv": table.csv(), "table.md": table.markdown()}, config.command)
        return table

    def _outcome(self, image_set: ImageSet, model: str, failures: Mapping[Job, str]) -> Outcome:
        """All networks of all seeds of an image set, or the first reason why there are none."""
        accuracies: list[float] = []
        for job in (job for job in self.jobs if job.image_set == image_set):
            outcome = self.runner.outcome(job, model)
            if outcome is None:
                return Skipped(f"failed: {failures[job]}")
            if isinstance(outcome, Skipped):
                return outcome
            accuracies += outcome.accuracies
            protocol, epochs = outcome.protocol, outcome.epochs  # the same of all
        return Evaluation(tuple(accuracies), protocol, epochs)

    def _storage(self) -> list[str]:
        """Of each image set that stores fewer images than it trains as: how many of either."""
        texts = []
        for job in self._of_methods():
            file = self.runner.path(job) / "condensed.safetensors"
            condensed = CondensedDataset.load(file) if file.exists() else None
            if condensed is not None and len(condensed) != len(condensed.stored):
                what = f"{job.image_set.source} with {job.image_set.ipc} per class"
                texts.append(f"{what} trains as {len(condensed)} images in the storage of {len(condensed.stored)} ({condensed.formation})")
        return texts

    def _of_methods(self) -> list[Job]:
        """The image sets of methods, those of the first seed."""
        return [job for job in self.jobs if job.seed == self.config.seed and split_spec(job.image_set.source)[0] in RECIPES]

    def _pictures(self) -> dict[str, str]:
        """The pictures of the learned images of the first seed."""
        files = {job.image_set.name: self.runner.path(job) / "condensed.png" for job in self._of_methods()}
        return {name: file.relative_to(self.config.out).as_posix() for name, file in files.items() if file.exists()}
