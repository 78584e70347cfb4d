"""The command `fastdc continual`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastdc.cli.arguments import ExperimentOptions
from fastdc.cli.shared import command_line
from fastdc.data import load_dataset
from fastdc.errors import UsageError, unknown_name
from fastdc.experiments.continual.report import write
from fastdc.experiments.continual.runner import ContinualConfig, ContinualRunner
from fastdc.experiments.continual.scale import SCALES
from fastdc.experiments.continual.stages import split_classes
from fastdc.experiments.image_sets import with_common_numbers
from fastdc.experiments.processes import run_shared
from fastdc.experiments.scales import scale_from, with_width
from fastdc.options.checks import check_count
from fastdc.options.specs import plain_name
from fastdc.runtime.versions import versions

_DISTILL = {"both": (True, False), "yes": (True,), "no": (False,)}


@dataclass(frozen=True, kw_only=True)
class Continual(ExperimentOptions):
    """Learn datasets one after another with one network, which keeps a few images per class of those before: the paper's figure 4.

    The same command again continues an interrupted one after the last stage that was learned. The paper's stages are --stages svhn
    mnist usps. To learn two new classes at a time, split one dataset: --stages fashion-mnist --split 5.
    """

    stages: tuple[str, ...] = ("digits", "fashion-mnist")
    """The datasets to learn, in this order, by the names that fastdc condense knows. They have the same number of classes. With
    --split, name one dataset."""
    split: int | None = None
    """Split the classes of the one dataset into this number of stages. By default each stage has all classes."""
    memory: tuple[str, ...] = ("dc", "herding", "random")
    """How to make the images that are kept of a stage: by a coreset, or by a method such as dc. Several kinds of memory are
    compared."""
    ipc: int = 10
    """The number of images per class that are kept of each stage."""
    distill: str = "both"
    """Whether the network keeps its old outputs by distillation, and is tuned on balanced images after each stage: yes, no, or both to
    compare."""
    out: str | None = None
    """The folder for the results. The default is runs/continual-STAGES-ipcN-SCALE."""
    image_size: int | None = None
    """The height and width, in pixels, to which all images are brought. The default is the size of the largest."""
    iterations: int | None = None
    """The number of random networks on which a method learns a memory. The default is the scale's, for paper that of each method's
    recipe."""
    budget: str | None = None
    """The time for each memory of a method, such as 90s or 10min, in place of --iterations."""
    batch_real: int | None = None
    """The number of real images of each class in a step of a method. The default is the scale's, for paper that of each method's
    recipe."""
    epochs: int | None = None
    """For how many epochs to train the network on each stage. The default is the scale's."""
    fine_tuning_epochs: int | None = None
    """For how many epochs to tune the network on balanced images, with distillation. The default is the scale's."""
    whole_set_epochs: int | None = None
    """For how many epochs to train the network by which a coreset chooses. The default is the scale's."""
    seeds: int | None = None
    """How often to repeat everything, each time with the next seed. The default is the scale's."""
    model: str = "convnet"
    """The network that learns the stages. A ConvNet without a width has the scale's."""
    seed: int = 0
    """The first seed."""

    def run(self) -> None:
        """Learn, print the table."""
        if self.distill not in _DISTILL:
            raise unknown_name("distill", self.distill, _DISTILL)
        check_count("workers", self.workers)
        check_count("image_size", self.image_size, optional=True)
        scale, name = scale_from(SCALES, self.scale, self)
        scale = with_common_numbers(scale, self.memory)
        sizes = dataclasses.asdict(scale)
        config = ContinualConfig(
            memories=self.memory,
            distill=_DISTILL[self.distill],
            ipc=self.ipc,
            scenario="class" if self.split is not None else "task",
            image_size=(self.image_size, self.image_size) if self.image_size is not None else None,
            model=with_width(self.model, sizes.pop("width")),
            budget=self.budget,
            seed=self.seed,
            engine=self.engine,
            device=self.device,
            progress=not self.quiet,
            **sizes,
        )
        parts = ["continual", *self.stages, *([f"split{self.split}"] if self.split is not None else []), f"ipc{self.ipc}", self.scale]
        out = Path(self.out if self.out is not None else f"runs/{plain_name('-'.join(parts))}").expanduser()
        open_runner = partial(_open_runner, config, self.stages, self.split, self.data_root, out)
        results = run_shared(open_runner(), open_runner, self.workers, self.device)
        budget = f"; {self.budget} for each memory of a method" if self.budget is not None else ""
        caption = f"Scale {name}: {scale}{budget}; model {config.model}, ipc {self.ipc}, seed {self.seed}, fastdc {versions()['fastdc']}."
        page = write(out, results, caption, command_line("continual", self))
        print(f"{page}\nwritten to {out}")


def _open_runner(config: ContinualConfig, stages: tuple[str, ...], split: int | None, data_root: str | None, out: Path) -> ContinualRunner:
    pairs: list[Any] = [load_dataset(name, data_root) for name in stages]
    if split is not None:
        if len(pairs) != 1:
            raise UsageError(f"--split {split} with {len(pairs)} datasets; expected one, whose classes are split.")
        train, test = pairs[0]
        pairs = [*split_classes(train, test, split)]
    return ContinualRunner(pairs, config, out)
