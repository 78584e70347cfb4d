"""One network of a search: trained and tested on each proxy, and on the whole set; every outcome is written when it is there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdc._evaluate import evaluate
from fastdc.condensed import CondensedDataset
from fastdc.data import ImageData
from fastdc.engines import make_engine
from fastdc.engines.gather_normalise import near
from fastdc.experiments.files import read_outcome, write_outcome
from fastdc.experiments.search.training_plans import early_stopping_plan, whole_set_plan
from fastdc.models.network import NetworkFamily
from fastdc.options.specs import distinct_name
from fastdc.parallel.devices import resolve_device
from fastdc.runs.content import finite_number
from fastdc.runtime.seeding import derive_seed
from fastdc.runtime.stopping import stop_point
from fastdc.training.by_batch import accuracy, check_finite, train_by_batch, whole_batches

EARLY_STOPPING, WHOLE_SET = "early_stopping", "whole_set"


@dataclass(frozen=True)
class Outcome:
    """Of one network on one proxy, or on the whole set."""

    accuracy: float
    """A fraction of 1."""
    seconds: float
    """Of training and testing."""


@dataclass(frozen=True)
class Trial:
    """A network, and what it is to be trained on."""

    model: str
    subjects: tuple[str, ...]
    """Names of proxies, or "whole_set"."""


@dataclass(frozen=True, kw_only=True)
class TrialOptions:
    """How the networks of a search are trained."""

    epochs: int
    """Of training on a proxy."""
    protocol: str
    """Of that training, as `fastdc.evaluate` takes it."""
    whole_set_epochs: int
    """Of training on the whole set."""
    stopped_after: int
    """Steps of SGD on the whole set for early stopping."""
    seed: int
    """Of weights and orders."""
    engine: str
    """As `fastdc.condense` takes it."""
    device: str
    """Likewise."""


class TrialRunner:
    """Does trials, in a folder for each network, and reads what was done there.

    Args:
        folder: of all networks.
        train: the whole training set.
        test: the test set.
        sets: the image sets of those proxies that have one.
        options: how the networks are trained.
    """

    def __init__(
        self, folder: Path, train: ImageData, test: ImageData, sets: Mapping[str, CondensedDataset], options: TrialOptions
    ) -> None:
        self.folder, self.train, self.test, self.sets, self.options = folder, train, test, sets, options

    def path(self, trial: Trial) -> Path:
        """The folder of a network."""
        return self.folder / distinct_name(trial.model)

    def is_done(self, trial: Trial) -> bool:
        """Whether nothing is left to do."""
        stop_point()
        return all(self._file(trial, subject).exists() for subject in trial.subjects)

    def outcome(self, trial: Trial, subject: str) -> Outcome | None:
        """What is written; None where it is still to be done.

        Raises:
            DataError: a file that cannot be read.
        """
        file = self._file(trial, subject)
        return read_outcome(file, _as_outcome) if file.exists() else None

    def do(self, trial: Trial) -> None:
        """Train and test the network on what is still to be done, and write each accuracy as it comes."""
        for subject in trial.subjects:
            stop_point()
            if self._file(trial, subject).exists():
                continue
            started = time.monotonic()
            found = self._accuracy(trial.model, subject)
            content = {"model": trial.model, "accuracy": found, "seconds": time.monotonic() - started}
            write_outcome(self._file(trial, subject), content)

    def _accuracy(self, model: str, subject: str) -> float:
        options = self.options
        if subject in self.sets:
            how: dict[str, Any] = {name: getattr(options, name) for name in ("protocol", "epochs", "seed", "engine", "device")}
            return evaluate(self.sets[subject], self.test, model=model, networks=1, **how, progress=False).mean
        data = self.train
        family = NetworkFamily(model, data.channels, data.num_classes, data.image_size, resolve_device(options.device))
        module = family.fresh(derive_seed(options.seed, "search network"))
        engine = make_engine(options.engine, module)
        theta = engine.layout.flatten(module)
        early = early_stopping_plan(len(data), options.stopped_after, options.seed)
        plan = early if subject == EARLY_STOPPING else whole_set_plan(len(data), options.whole_set_epochs)
        data = near(data, theta.device)
        for number, (positions, phases) in enumerate(plan):
            fetch, stream = whole_batches(data, theta, positions), f"{subject} {number}"
            for _ in train_by_batch(engine, family, theta, len(positions), fetch, phases, options.seed, stream):
                pass
        check_finite(theta, f"{model} on {subject}")
        return accuracy(engine, theta, self.test)

    def _file(self, trial: Trial, subject: str) -> Path:
        return self.path(trial) / f"{distinct_name(subject)}.json"


def _as_outcome(content: Any) -> Outcome:
    return Outcome(finite_number(content, "accuracy", most=1.0), finite_number(content, "seconds"))
