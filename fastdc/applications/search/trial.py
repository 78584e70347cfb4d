"""One network of a search: trained and tested on each proxy, and on the whole set; every outcome is written when it is there."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdc.condensed import CondensedDataset
from fastdc.data import ImageData
from fastdc.devices import resolve_device
from fastdc.engines import Sgd, make_engine, resolve_engine
from fastdc.errors import DataError, UsageError
from fastdc.evaluate import evaluate
from fastdc.models.network import NetworkFamily
from fastdc.schedule import paper_training
from fastdc.seeding import derive_seed
from fastdc.specs import plain_name
from fastdc.storage import write_atomically
from fastdc.training import accuracy, train_by_batch, whole_batches

EARLY_STOPPING, WHOLE_SET = "early_stopping", "whole_set"
_BATCH = paper_training(1)[0].batch


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


def early_steps(images: int, epochs: int) -> int:
    """How many steps of SGD a training on so few images takes: what early stopping may take on the whole set.

    >>> early_steps(100, 100), early_steps(500, 100)
    (100, 200)
    """
    return epochs * math.ceil(images / _BATCH)


class Laboratory:
    """Does trials, in a folder for each network, and reads what was done there.

    Args:
        folder: of all networks.
        train: the whole training set.
        test: the test set.
        sets: the image sets of those proxies that have one.
        epochs: of training on a proxy.
        whole_set_epochs: of training on the whole set.
        stopped_after: steps of SGD on the whole set for early stopping.
        seed: of weights and orders.
        engine: as `fastdc.condense` takes it.
        device: likewise.
    """

    def __init__(
        self,
        folder: Path,
        train: ImageData,
        test: ImageData,
        sets: Mapping[str, CondensedDataset],
        *,
        epochs: int,
        whole_set_epochs: int,
        stopped_after: int,
        seed: int,
        engine: str,
        device: str,
    ) -> None:
        self.folder, self.train, self.test, self.sets = folder, train, test, sets
        self.epochs, self.whole_set_epochs, self.stopped_after = epochs, whole_set_epochs, stopped_after
        self.seed, self.engine, self.device = seed, engine, device

    def path(self, trial: Trial) -> Path:
        """The folder of a network."""
        return self.folder / plain_name(trial.model)

    def is_done(self, trial: Trial) -> bool:
        """Whether nothing is left to do."""
        return self._skip_file(trial).exists() or all(self._file(trial, subject).exists() for subject in trial.subjects)

    def skipped(self, trial: Trial) -> str | None:
        """Why the network cannot be trained; None where it can."""
        return str(_read(file)["reason"]) if (file := self._skip_file(trial)).exists() else None

    def outcome(self, trial: Trial, subject: str) -> Outcome | None:
        """What is written; None where it is still to be done.

        Raises:
            DataError: a file that cannot be read.
        """
        file = self._file(trial, subject)
        if not file.exists():
            return None
        content = _read(file)
        return Outcome(float(content["accuracy"]), float(content["seconds"]))

    def do(self, trial: Trial) -> None:
        """Train and test the network on what is still to be done; where the images do not fit it, write why."""
        data = self.train
        try:
            family = NetworkFamily(trial.model, data.channels, data.num_classes, data.image_size, resolve_device(self.device))
            resolve_engine(self.engine, family.fresh(0))
        except UsageError as error:
            _write(self._skip_file(trial), {"model": trial.model, "reason": str(error)})
            return
        for subject in trial.subjects:
            if self._file(trial, subject).exists():
                continue
            started = time.monotonic()
            found = self._accuracy(trial.model, family, subject)
            content = {"model": trial.model, "accuracy": found, "seconds": time.monotonic() - started}
            _write(self._file(trial, subject), content)

    def _accuracy(self, model: str, family: NetworkFamily, subject: str) -> float:
        if subject in self.sets:
            protocol: dict[str, Any] = {"epochs": self.epochs, "seed": self.seed, "engine": self.engine, "device": self.device}
            return evaluate(self.sets[subject], self.test, model=model, networks=1, **protocol, progress=False).mean
        module = family.fresh(derive_seed(self.seed, "search network"))
        engine = make_engine(resolve_engine(self.engine, module), module)
        theta = engine.layout.flatten(module)
        count, fetch = len(self.train), whole_batches(self.train, theta)
        for number, (stretch, steps) in enumerate(self._stretches(subject)):
            trained = train_by_batch(engine, family, theta, count, fetch, [stretch], derive_seed(self.seed, number), subject)
            for _ in itertools.islice(trained, steps):
                pass
        return accuracy(engine, theta, self.test)

    def _stretches(self, subject: str) -> list[tuple[Sgd, int]]:
        """The stretches of a training on the whole set, each long enough for the steps to be taken of it."""
        each = math.ceil(len(self.train) / _BATCH)  # steps of an epoch
        if subject == WHOLE_SET:
            return [(stretch, stretch.epochs * each) for stretch in paper_training(self.whole_set_epochs)]
        later = self.stopped_after // 2
        pairs = zip(paper_training(2), (self.stopped_after - later, later), strict=True)
        return [(dataclasses.replace(stretch, epochs=math.ceil(steps / each)), steps) for stretch, steps in pairs]

    def _file(self, trial: Trial, subject: str) -> Path:
        return self.path(trial) / f"{plain_name(subject)}.json"

    def _skip_file(self, trial: Trial) -> Path:
        return self.path(trial) / "skipped.json"


def _write(file: Path, content: Mapping[str, Any]) -> None:
    write_atomically(file, (json.dumps(content, indent=2) + "\n").encode())


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
        if "reason" not in content:
            float(content["accuracy"]), float(content["seconds"])
        return dict(content)
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{file} cannot be read; it is damaged or of another program: remove it to have it made anew.") from None
