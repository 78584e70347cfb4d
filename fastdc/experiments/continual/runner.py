"""Continual learning from beginning to end, resumable stage by stage, and shared by processes seed by seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fastdc.condensed import CondensedDataset
from fastdc.coresets.choice import check_ipc
from fastdc.engines import check_engine, make_engine, resolve_engine
from fastdc.errors import UsageError
from fastdc.experiments.continual.learner import LearningOptions, learn_stage
from fastdc.experiments.continual.report import write
from fastdc.experiments.continual.result import ContinualResult
from fastdc.experiments.continual.stages import Stage, as_stages
from fastdc.experiments.image_sets import ImageSetOptions, check_source, is_coreset, make_image_set, with_common_numbers
from fastdc.models.network import NetworkFamily
from fastdc.options.checks import check_count, check_duration
from fastdc.options.specs import distinct_name
from fastdc.parallel.devices import resolve_device
from fastdc.parallel.jobs import do_all, raise_failures
from fastdc.runs.content import finite, finite_numbers, reading
from fastdc.runs.files import load_tensors, save_tensors
from fastdc.runs.folder import kept_or_temporary, shared_folder
from fastdc.runtime.isolation import isolated
from fastdc.runtime.public import public
from fastdc.runtime.seeding import check_seed
from fastdc.runtime.versions import versions
from fastdc.training.by_batch import accuracy

KIND = "network after a stage"


@dataclass(frozen=True, kw_only=True)
class ContinualConfig:
    """What decides the result, stages aside."""

    memories: tuple[str, ...]
    distill: tuple[bool, ...]
    ipc: int = 10
    scenario: str = "task"
    image_size: tuple[int, int] | None = None
    model: str = "convnet"
    epochs: int = 20
    fine_tuning_epochs: int = 20
    iterations: int | None = None
    budget: str | None = None
    batch_real: int | None = None
    whole_set_epochs: int = 20
    seeds: int = 1
    seed: int = 0
    engine: str = "auto"
    device: str = "auto"
    progress: bool = True

    def check(self) -> None:
        """Raise a UsageError where an option cannot be used, stages aside."""
        if not self.memories or not self.distill:
            raise UsageError("there is no memory to compare; expected the name of a coreset or a method.")
        for name in self.memories:
            check_source("memory", name)
        if len(set(self.memories)) < len(self.memories):
            raise UsageError(f"memory is {' '.join(self.memories)}; expected each once.")
        if any(not isinstance(flag, bool) for flag in self.distill):
            raise UsageError(f"distill is {self.distill[0]!r}; expected True or False.")
        for name in ("ipc", "epochs", "fine_tuning_epochs", "whole_set_epochs", "seeds"):
            check_count(name, getattr(self, name))
        for name in ("iterations", "batch_real"):
            check_count(name, getattr(self, name), optional=True)
        if self.budget is not None:
            check_duration("budget", self.budget)
        size = self.image_size
        if size is not None and (not isinstance(size, tuple) or len(size) != 2):
            raise UsageError(f"image_size is {size!r}; expected (height, width) in pixels, or None.")
        for side in size or ():
            check_count("image_size", side)
        check_seed(self.seed)
        check_engine(self.engine)
        resolve_device(self.device)


@public
def continual_learning(
    stages: Sequence[Any],
    memory: str = "dc",
    ipc: int = 10,
    distill: bool = True,
    *,
    scenario: str = "task",
    image_size: tuple[int, int] | None = None,
    model: str = "convnet",
    epochs: int = 20,
    fine_tuning_epochs: int = 20,
    iterations: int | None = None,
    budget: str | None = None,
    batch_real: int | None = None,
    whole_set_epochs: int = 20,
    seeds: int = 1,
    seed: int = 0,
    engine: str = "auto",
    device: str = "auto",
    out: str | Path | None = None,
    progress: bool = True,
) -> ContinualResult:
    """Learn datasets one after another with one network, which keeps a few images per class of those before.

    After each stage but the last a memory of its training set is made and kept; later stages train on their own data and on all memories.
    (Zhao et al., ICLR 2021, section 4.3; the scheme with distillation is that of Castro et al., ECCV 2018: see
    `fastdc.experiments.continual.learner`.)

    Args:
        stages: two or more: names of datasets, or pairs (train, test) of what `fastdc.condense` takes. They are brought to one form:
            RGB if one of them is, one size, and normalised by mean and standard deviation of the first.
        memory: how it is made: "random", "herding", "k_center", "forgetting", or a method such as "dc".
        ipc: images per class of each stage.
        distill: keep the outputs of the network before each stage by a distillation term, and tune it on balanced images afterwards.
        scenario: "task", the classes of all stages are the same; or "class", each stage brings new ones, and the last layer grows
            (`split_classes` makes such stages of one dataset).
        image_size: height and width to bring images to; None: those of the largest.
        model: the network, and what memories are learned with or chosen by.
        epochs: of training on each stage, by the SGD of `fastdc.evaluate`.
        fine_tuning_epochs: of tuning on balanced images, at a tenth of the learning rate.
        iterations: of a method that learns the memory; None: those of its recipe.
        budget: the time for each memory of a method, such as "15min", in the place of `iterations`.
        batch_real: real images of each class in a step of it; None: those of its recipe.
        whole_set_epochs: of training the network on a stage by which a coreset chooses.
        seeds: how many times, with seeds one above the other.
        seed: the first.
        engine: as `fastdc.condense` takes it.
        device: likewise.
        out: a folder for memories, networks, table.md, table.csv and report.html; another call with the same arguments continues there.
            None: nothing is kept.
        progress: say on stderr how far the work is, where it takes long.

    Returns:
        Accuracies after each stage on all test sets so far, of every seed.

    Raises:
        UsageError: an argument that cannot be used, or `out` holds something else.
        DataError: data that cannot be used, or stages whose classes differ where they must not.
        RunError: `out` cannot be written, or something is not finite.

    Example:
        >>> from fastdc import load_dataset
        >>> from fastdc.experiments import split_classes
        >>> stages = split_classes(*load_dataset("digits"), 5)
        >>> result = continual_learning(stages[:2], "random", scenario="class", model="mlp:width=16", epochs=1, fine_tuning_epochs=1)
        >>> [len(accuracies) for accuracies in result.accuracies[0]]
        [1, 2]
    """
    config = ContinualConfig(
        memories=(memory,),
        distill=(distill,),
        ipc=ipc,
        scenario=scenario,
        image_size=image_size,
        model=model,
        epochs=epochs,
        fine_tuning_epochs=fine_tuning_epochs,
        iterations=iterations,
        budget=budget,
        batch_real=batch_real,
        whole_set_epochs=whole_set_epochs,
        seeds=seeds,
        seed=seed,
        engine=engine,
        device=device,
        progress=progress,
    )
    with kept_or_temporary(out) as folder:
        (result,) = ContinualRunner(stages, config, folder).run(lambda _: None)
        if out is not None:
            write(folder, [result], f"Model {model}, ipc {ipc}, seed {seed}, fastdc {versions()['fastdc']}.")
    return result


@dataclass(frozen=True)
class Run:
    """One job: one kind of memory and one seed, with and without distillation as asked for."""

    memory: str
    seed: int


class ContinualRunner:
    """Does the runs of a configuration, in the folder `out`, and reads what was done there.

    Raises:
        UsageError: an option that cannot be used, or `out` holds something else.
        DataError: stages that cannot be used.
        RunError: `out` cannot be written.
    """

    def __init__(self, stages: Sequence[Any], config: ContinualConfig, out: Path) -> None:
        config.check()
        config = with_common_numbers(config, config.memories)
        self.config, self.out = config, out
        self.stages = as_stages(stages, config.scenario, config.image_size)
        for stage in self.stages:
            check_ipc(stage.train, config.ipc)
        self.runs = [Run(memory, config.seed + number) for number in range(config.seeds) for memory in config.memories]
        first = self.stages[0].train
        network = NetworkFamily(config.model, first.channels, first.num_classes, first.image_size, resolve_device(config.device)).fresh(0)
        resolve_engine(config.engine, network)
        content = {key: value for key, value in dataclasses.asdict(config).items() if key != "progress"}
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in content.items()}
        fingerprint = " ".join(data.fingerprint for stage in self.stages for data in (stage.train, stage.test))
        with shared_folder(out) as run:
            run.record_config({"stages": [stage.train.name for stage in self.stages], **plain}, {"fingerprint": fingerprint, **versions()})

    @property
    def names(self) -> tuple[str, ...]:
        """Of the stages, each its own."""
        return tuple(stage.name for stage in self.stages)

    def run(self, say: Callable[[str], None]) -> list[ContinualResult]:
        """Do what is still to be done, together with whoever else does it, and collect.

        Raises:
            RunError: some runs failed.
        """
        failures = do_all(self.runs, self, lambda run: self.do(run, say), say)
        names = {f"{run.memory} with seed {run.seed}": reason for run, reason in failures.items()}
        raise_failures(names, len(self.runs), "runs")
        return [self._collected(memory, distill) for memory in self.config.memories for distill in self.config.distill]

    def path(self, run: Run) -> Path:
        """The folder of a run."""
        return self.out / "runs" / f"{distinct_name(run.memory)}-seed{run.seed}"

    def is_done(self, run: Run) -> bool:
        """Whether all stages of a run are learned."""
        return all(self._file(run, distill, len(self.stages) - 1).exists() for distill in self.config.distill)

    def do(self, run: Run, say: Callable[[str], None]) -> None:
        """Learn what is not learned yet of a run, stage by stage."""
        with isolated():
            for distill in self.config.distill:
                older: nn.Module | None = None
                for number in range(len(self.stages)):
                    file = self._file(run, distill, number)
                    if file.exists():
                        older = None
                        continue
                    if number + 1 < len(self.stages):
                        self.memory(run, number)  # before the network, whose file says that the stage is done
                    if number and older is None:
                        older = self._read_network(run, distill, number - 1)
                    older = self._learned(run, distill, number, older)
                    accuracies = self._accuracies(older, number)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    save_tensors(file, KIND, older.state_dict(), {"accuracies": accuracies})
                    mean = sum(accuracies) / len(accuracies)
                    distillation = "with distillation" if distill else "without distillation"
                    say(
                        f"{run.memory} {distillation}, seed {run.seed}, after stage {number + 1} of {len(self.stages)} "
                        f"({self.names[number]}): {100 * mean:.1f}%"
                    )

    def memory(self, run: Run, number: int) -> CondensedDataset:
        """What is kept of stage `number`; to be made by one process at a time."""
        config = self.config
        options = ImageSetOptions(
            ipc=config.ipc,
            model=config.model,
            iterations=config.iterations,
            budget=config.budget,
            batch_real=config.batch_real,
            whole_set_epochs=config.whole_set_epochs,
            engine=config.engine,
            device=config.device,
            progress=config.progress,
        )
        folder, networks = self._memory_folder(run, number), self.path(run) / "networks"
        return make_image_set(run.memory, self.stages[number].train, options, run.seed, folder, networks)

    def _memory_folder(self, run: Run, number: int) -> Path:
        return self.path(run) / f"memory{number + 1}"

    def _learned(self, run: Run, distill: bool, number: int, older: nn.Module | None) -> nn.Module:
        values = {field.name: getattr(self.config, field.name) for field in dataclasses.fields(LearningOptions)}
        learning = LearningOptions(**{**values, "distill": distill, "seed": run.seed})
        return learn_stage(learning, self.stages, number, older, [self.memory(run, before) for before in range(number)])

    def _accuracies(self, module: nn.Module, number: int) -> list[float]:
        """On the test sets of all stages up to `number`."""
        engine = make_engine(resolve_engine(self.config.engine, module), module)
        theta = engine.layout.flatten(module)
        return [accuracy(engine, theta, stage.tested) for stage in self.stages[: number + 1]]

    def _read_network(self, run: Run, distill: bool, number: int) -> nn.Module:
        stage: Stage = self.stages[number]
        data, device = stage.train, resolve_device(self.config.device)
        module = NetworkFamily(self.config.model, data.channels, stage.seen, data.image_size, device).fresh(0)
        file = self._file(run, distill, number)
        with reading(file, f"a {KIND}"):
            module.load_state_dict({name: finite(value, name) for name, value in load_tensors(file, KIND)[0].items()})
        return module

    def _read_accuracies(self, run: Run, distill: bool, number: int) -> tuple[float, ...]:
        """On the test sets of all stages up to `number`."""
        file = self._file(run, distill, number)
        with reading(file, f"a {KIND}"):
            return finite_numbers(load_tensors(file, KIND)[1], "accuracies", most=1.0, count=number + 1)

    def _file(self, run: Run, distill: bool, number: int) -> Path:
        return self.path(run) / ("distilled" if distill else "plain") / f"stage{number + 1}.safetensors"

    def _collected(self, memory: str, distill: bool) -> ContinualResult:
        runs = [run for run in self.runs if run.memory == memory]
        accuracies = tuple(tuple(self._read_accuracies(run, distill, number) for number in range(len(self.stages))) for run in runs)
        files = (self._memory_folder(runs[0], number) / "condensed.safetensors" for number in range(len(self.stages) - 1))
        kept = [CondensedDataset.load(file).stored for file in files]
        images, numbers = sum(map(len, kept)), sum(stored.numel() for stored in kept)
        return ContinualResult(memory, distill, self.names, accuracies, images, numbers if is_coreset(memory) else 4 * numbers)
