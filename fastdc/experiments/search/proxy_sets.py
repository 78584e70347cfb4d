"""The proxy sets of a search: each made once, in a folder of its own, with the seconds that it took."""

from __future__ import annotations

import time
from pathlib import Path

from fastdc.condensed import CondensedDataset
from fastdc.data import ImageData
from fastdc.experiments.files import read_outcome, write_outcome
from fastdc.experiments.image_sets import ImageSetOptions, make_image_set
from fastdc.options.specs import distinct_name
from fastdc.runs.content import finite_number, plain_types, reading
from fastdc.runs.files import read_whole
from fastdc.training.whole_set import seconds_of_kept


class ProxySetRunner:
    """Makes proxy sets, in folders below `folder`, and reads what was made there.

    Args:
        folder: of all of them.
        train: the whole training set.
        options: how they are made.
        seed: decides what is random.
    """

    def __init__(self, folder: Path, train: ImageData, options: ImageSetOptions, seed: int) -> None:
        self._folder, self._train, self._options, self._seed = folder, train, options, seed

    def path(self, name: str) -> Path:
        """The folder of a proxy."""
        return self._folder / distinct_name(name)

    def is_done(self, name: str) -> bool:
        """Whether its images are made."""
        return self._made(name).exists()

    def do(self, name: str) -> None:
        """Make its images, or go on making them."""
        folder, started = self.path(name), time.monotonic()
        networks = folder / "networks"
        before = seconds_of_kept(networks)  # of a call that was killed after its training
        make_image_set(name, self._train, self._options, self._seed, folder, networks)
        seconds = before + time.monotonic() - started
        metrics = folder / "metrics.jsonl"
        if metrics.exists():  # not of a coreset, nor of a method without a step
            seconds = max(seconds, _logged_seconds(metrics))  # more than one call may have made them
        write_outcome(self._made(name), {"proxy": name, "seconds": seconds})

    def images(self, name: str) -> CondensedDataset:
        """The images of a proxy that is done.

        Raises:
            DataError: a file that cannot be read.
        """
        return CondensedDataset.load(self.path(name) / "condensed.safetensors")

    def seconds(self, name: str) -> float:
        """What it took to make them.

        Raises:
            DataError: a file that cannot be read.
        """
        return read_outcome(self._made(name), lambda content: finite_number(content, "seconds"))

    def _made(self, name: str) -> Path:
        return self.path(name) / "made.json"


def _logged_seconds(metrics: Path) -> float:
    """Of all iterations that a run has logged."""
    with reading(metrics, "the metrics of a run"):
        records = [plain_types(line) for line in read_whole(metrics).splitlines()]
        return sum(finite_number(record, "seconds") for record in records if record["event"] == "iteration")
