"""The command `fastdc continual`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdc.cli.arguments import Common
from fastdc.data import load_dataset
from fastdc.errors import UsageError, unknown_name
from fastdc.experiments.continual.report import as_csv, markdown, plot_by_stage
from fastdc.experiments.continual.runner import ContinualConfig, ContinualRunner
from fastdc.experiments.continual.stages import split_classes
from fastdc.experiments.plots import can_plot
from fastdc.experiments.scales import changed, with_width
from fastdc.options.checks import check_count
from fastdc.options.specs import plain_name
from fastdc.parallel.workers import Helpers
from fastdc.runs.files import write_atomically
from fastdc.runs.folder import shared_folder
from fastdc.runtime.versions import versions

_DISTILL = {"both": (True, False), "yes": (True,), "no": (False,)}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The sizes that continual learning can be run with; all else is as in `continual_learning`."""

    iterations: int
    batch_real: int
    epochs: int
    fine_tuning_epochs: int
    whole_set_epochs: int
    seeds: int
    width: int | None


SCALES: Mapping[str, Scale] = {
    "tiny": Scale(iterations=1, batch_real=8, epochs=1, fine_tuning_epochs=1, whole_set_epochs=1, seeds=1, width=8),
    "laptop": Scale(iterations=30, batch_real=64, epochs=5, fine_tuning_epochs=30, whole_set_epochs=5, seeds=3, width=32),
    "paper": Scale(iterations=1000, batch_real=256, epochs=40, fine_tuning_epochs=30, whole_set_epochs=20, seeds=5, width=None),
}


@dataclass(frozen=True, kw_only=True)
class Continual(Common):
    """Learn datasets one after another with one network, which keeps a few images per class: the paper's figure 4.

    The same command again continues, stage by stage. --stages svhn mnist usps is the paper's; --stages fashion-mnist --split 5 learns
    two new classes at a time.
    """

    stages: tuple[str, ...] = ("digits", "fashion-mnist")
    """Datasets with the same number of classes, or with --split one; names as in fastdc condense."""
    split: int | None = None
    """Split the classes of the one dataset into so many stages; None: each stage has all classes."""
    memory: tuple[str, ...] = ("dc", "herding", "random")
    """How the images kept of a stage are made: random, herding, k_center, forgetting, or a method such as dc."""
    ipc: int = 10
    """Images per class of each stage."""
    distill: str = "both"
    """Keep old outputs by distillation and tune on balanced images: yes, no or both."""
    data_root: str | None = None
    """Where datasets are kept and downloaded to; None: ~/.cache/fastdc/data."""
    out: str | None = None
    """Folder of the results; None: runs/continual-STAGES-ipcN-SCALE."""
    image_size: int | None = None
    """Height and width to bring images to; None: those of the largest."""
    scale: str = "laptop"
    """How much to spend: tiny, laptop or paper; the options below change a part of it."""
    iterations: int | None = None
    """Of a method that learns a memory; None: the scale's, as for the next five."""
    batch_real: int | None = None
    """Real images of each class in a step of it."""
    epochs: int | None = None
    """Epochs of training on each stage."""
    fine_tuning_epochs: int | None = None
    """Epochs of tuning on balanced images, with distillation."""
    whole_set_epochs: int | None = None
    """Epochs of training the network by which a coreset chooses."""
    seeds: int | None = None
    """How often everything is done, with seeds one above the other."""
    model: str = "convnet"
    """The network; a ConvNet without a width has the scale's."""
    seed: int = 0
    """The first."""
    engine: str = "auto"
    """Who computes gradients: auto, native, torch or reference."""
    device: str = "auto"
    """Where: auto, cpu, cuda or cuda:N."""
    workers: int = 1
    """Processes to share the work; each takes a part of the threads."""

    def run(self) -> None:
        """Learn, print the table."""
        if self.distill not in _DISTILL:
            raise unknown_name("distill", self.distill, _DISTILL)
        check_count("workers", self.workers)
        check_count("image_size", self.image_size, optional=True)
        if len(set(self.memory)) < len(self.memory):
            raise UsageError(f"memory is {' '.join(self.memory)}; expected each once.")
        scale, name = changed(SCALES, self.scale, self)
        sizes = dataclasses.asdict(scale)
        width = sizes.pop("width")
        config = ContinualConfig(
            memories=self.memory,
            distill=_DISTILL[self.distill],
            ipc=self.ipc,
            scenario="class" if self.split is not None else "task",
            image_size=(self.image_size, self.image_size) if self.image_size is not None else None,
            model=with_width(self.model, width),
            seed=self.seed,
            engine=self.engine,
            device=self.device,
            progress=not self.quiet,
            **sizes,
        )
        parts = ["continual", *self.stages, *([f"split{self.split}"] if self.split is not None else []), f"ipc{self.ipc}", self.scale]
        out = Path(self.out if self.out is not None else f"runs/{plain_name('-'.join(parts))}").expanduser()
        work = _Work(config, self.stages, self.split, self.data_root, out)
        runner = work.runner()
        with Helpers(_help, work, self.workers, self.device):
            results = runner.results(_say)
        options = {key: value for key, value in sizes.items() if key != "seeds"}
        caption = f"Scale {name}: {', '.join(f'{key} {value}' for key, value in options.items())}; model {config.model}, ipc {self.ipc}, "
        caption += f"seed {self.seed}, fastdc {versions()['fastdc']}."
        plot = "continual.png" if can_plot() else None
        page = markdown(results, caption, plot)
        with shared_folder(out):
            if plot is not None:
                write_atomically(out / plot, plot_by_stage(results))
            write_atomically(out / "table.md", page.encode())
            write_atomically(out / "table.csv", as_csv(results).encode())
        print(f"{page}\nwritten to {out}")


@dataclass(frozen=True)
class _Work:
    """What every process needs to take its share."""

    config: ContinualConfig
    stages: Sequence[str]
    split: int | None
    data_root: str | None
    out: Path

    def runner(self) -> ContinualRunner:
        """The runner, its data loaded."""
        pairs: list[Any] = [load_dataset(name, self.data_root) for name in self.stages]
        if self.split is not None:
            if len(pairs) != 1:
                raise UsageError(f"--split {self.split} with {len(pairs)} datasets; expected one, whose classes are split.")
            train, test = pairs[0]
            pairs = [*split_classes(train, test, self.split)]
        return ContinualRunner(pairs, self.config, self.out)


def _help(work: _Work) -> None:
    work.runner().results(lambda _: None)


def _say(line: str) -> None:
    print(line, flush=True)
