"""A job: one image set with the models that are tested on it; made, tested and kept in a folder of its own."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from fastdc._evaluate import evaluate
from fastdc.condensed import CondensedDataset
from fastdc.data import ImageData
from fastdc.engines import make_engine, resolve_engine
from fastdc.errors import UsageError
from fastdc.experiments.files import read_outcome, write_outcome
from fastdc.experiments.image_sets import ImageSetOptions, is_coreset, make_image_set
from fastdc.experiments.tables.cells import WHOLE_SET, Definition, ImageSet
from fastdc.experiments.tables.scale import Scale
from fastdc.models.network import NetworkFamily
from fastdc.options.specs import distinct_name
from fastdc.parallel.devices import resolve_device
from fastdc.runs.content import finite_numbers
from fastdc.runtime.isolation import isolated
from fastdc.training.by_batch import accuracy
from fastdc.training.evaluation import Evaluation
from fastdc.training.whole_set import TrainedNetwork, WholeSetOptions, train_on_whole_set


@dataclass(frozen=True)
class Job:
    """One image set, and the models to train on it."""

    image_set: ImageSet
    seed: int
    models: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.image_set.name}-seed{self.seed}"


@dataclass(frozen=True)
class Skipped:
    """Why a model was not tested on an image set: the data does not fit it, or the model that the images are made with."""

    reason: str


Outcome = Evaluation | Skipped


def jobs_of(definition: Definition, seeds: Iterable[int]) -> list[Job]:
    """The jobs of a table, each image set once, seed by seed."""
    models: dict[ImageSet, dict[str, None]] = {}
    for cell in definition.cells:
        models.setdefault(cell.image_set, {})[cell.model] = None
    return [Job(image_set, seed, tuple(tested)) for seed in seeds for image_set, tested in models.items()]


class TableRunner:
    """Does jobs, in folders below `out`, and reads what was done there.

    Args:
        out: the folder of the table.
        train: the training set.
        test: the test set.
        scale: how much to spend.
        protocol: by which image sets are tested, all of them.
        budget: the time for each image set of a method, in the place of the scale's iterations.
        engine: as `fastdc.condense` takes it.
        device: likewise.
        progress: say on stderr how far the work is.
    """

    def __init__(
        self,
        out: Path,
        train: ImageData,
        test: ImageData,
        scale: Scale,
        protocol: str,
        budget: str | None,
        engine: str,
        device: str,
        progress: bool,
    ) -> None:
        self.train, self.test, self.scale, self.protocol, self.budget = train, test, scale, protocol, budget
        self.compute: dict[str, Any] = {"engine": engine, "device": device, "progress": progress}
        self._cells = out / "cells"
        self._networks = out / "networks"  # trained on the whole set

    def path(self, job: Job) -> Path:
        """The folder of a job."""
        return self._cells / job.name

    def outcome(self, job: Job, model: str) -> Outcome | None:
        """What is written of one model's test; None where it is still to be done.

        Raises:
            DataError: a file that cannot be read.
        """
        file = self._file(job, model)
        return read_outcome(file, _as_outcome) if file.exists() else None

    def is_done(self, job: Job) -> bool:
        """Whether all models of a job are tested."""
        return all(self.outcome(job, model) is not None for model in job.models)

    def do(self, job: Job, tell: Callable[[Job, str, Outcome], None]) -> None:
        """Make the image set, test each model on it that is not tested yet, and write the outcomes as they come.

        Raises:
            FastdcError: something that can be mended, after which the same call goes on.
        """
        reason = self._unsupported_reason(job.image_set.model)
        images: CondensedDataset | TrainedNetwork | None = None
        for model in job.models:
            if self.outcome(job, model) is not None:
                continue
            refusal = reason or self._unsupported_reason(model)
            if refusal is None:
                images = self._made(job) if images is None else images
                outcome: Outcome = self._tested(images, model, job.seed)
            else:
                outcome = Skipped(refusal)
            content: dict[str, Any] = _as_content(outcome)
            write_outcome(self._file(job, model), {"model": model, **content})
            tell(job, model, outcome)

    def _file(self, job: Job, model: str) -> Path:
        return self.path(job) / f"evaluation-{distinct_name(model)}.json"

    def _unsupported_reason(self, model: str) -> str | None:
        """Why a model cannot serve these images; None where it can."""
        data = self.train
        try:
            family = NetworkFamily(model, data.channels, data.num_classes, data.image_size, resolve_device(self.compute["device"]))
            resolve_engine(self.compute["engine"], family.fresh(0))
        except UsageError as error:
            return str(error)
        return None

    def _made(self, job: Job) -> CondensedDataset | TrainedNetwork:
        image_set, scale, folder = job.image_set, self.scale, self.path(job)
        if image_set.source == WHOLE_SET:
            network = WholeSetOptions(
                model=image_set.model, epochs=scale.whole_set_epochs, seed=job.seed, cache=self._networks, **self.compute
            )
            with self._training_alone(job):
                return train_on_whole_set(self.train, network)
        options = ImageSetOptions(
            ipc=image_set.ipc,
            model=image_set.model,
            distance=image_set.distance,
            lr_images=image_set.lr_images,
            iterations=scale.iterations,
            batch_real=scale.batch_real,
            scale=scale.recipes,
            budget=self.budget,
            whole_set_epochs=scale.whole_set_epochs,
            **self.compute,
        )
        with self._training_alone(job) if is_coreset(image_set.source) else contextlib.nullcontext():
            return make_image_set(image_set.source, self.train, options, job.seed, folder, self._networks)

    def _training_alone(self, job: Job) -> FileLock:
        """Held while a network is trained on the whole set or taken from the cache: who waits for it finds the network there."""
        self._networks.mkdir(parents=True, exist_ok=True)
        return FileLock(self._networks / f"{distinct_name(job.image_set.model)}-seed{job.seed}.lock")

    def _tested(self, images: CondensedDataset | TrainedNetwork, model: str, seed: int) -> Evaluation:
        if isinstance(images, TrainedNetwork):
            return Evaluation((self._accuracy(images),))
        how: dict[str, Any] = {"protocol": self.protocol, "networks": self.scale.networks, "epochs": self.scale.epochs}
        return evaluate(images, self.test, model=model, seed=seed, **how, **self.compute)

    def _accuracy(self, network: TrainedNetwork) -> float:
        """The share of test images that a network trained on the whole set classifies rightly."""
        engine = make_engine(resolve_engine(self.compute["engine"], network.module), network.module)
        with isolated():
            return accuracy(engine, engine.layout.flatten(network.module), self.test)


def _as_content(outcome: Outcome) -> dict[str, Any]:
    """What is written of an outcome; a table has no place for what was taken for what."""
    if isinstance(outcome, Skipped):
        return {"skipped": outcome.reason}
    found = dataclasses.asdict(outcome)
    del found["confusion"]
    return {**found, "mean": outcome.mean, "std": outcome.std}


def _as_outcome(content: Any) -> Outcome:
    if "skipped" in content:
        return Skipped(str(content["skipped"]))
    return Evaluation(finite_numbers(content, "accuracies", most=1.0), content.get("protocol"), content.get("epochs"))
