"""What a run tells those who listen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from fastdc.condensed import CondensedDataset
from fastdc.loop.config import CondenseConfig
from fastdc.training.evaluation import Evaluation


@dataclass(frozen=True)
class Started:
    """A run begins, or goes on: `iteration` iterations lie behind it."""

    config: CondenseConfig
    iteration: int
    folder: Path | None = None
    """Where the run is kept, if anywhere."""


@dataclass(frozen=True)
class IterationDone:
    """One random network was learned with."""

    iteration: int
    """From 1 on."""
    loss: float
    """What the method makes small, for dc the distance summed over classes; averaged over the matching steps of the iteration."""
    seconds: float
    """What the iteration took, as far as this process computed it."""
    peak_memory: int
    """The most bytes at once since this process began: on a GPU those that torch held, else those of the process in memory."""


@dataclass(frozen=True)
class CheckpointWritten:
    """The run can be continued from `path`."""

    path: Path
    iteration: int


@dataclass(frozen=True)
class Snapshot:
    """The images after so many iterations; for callbacks alone that want it."""

    iteration: int
    condensed: CondensedDataset


@dataclass(frozen=True)
class Evaluated:
    """Networks were trained and tested on the images called `subject` ("condensed", "random")."""

    subject: str
    evaluation: Evaluation
    iteration: int | None = None
    """After how many iterations the images were as they were tested; None: at the end."""


@dataclass(frozen=True)
class Ended:
    """The run is complete."""

    condensed: CondensedDataset


Event = Started | IterationDone | CheckpointWritten | Snapshot | Evaluated | Ended


class Callback(Protocol):
    """Anything that can be called with an event; what it raises ends the run, with the last checkpoint in place.

    Where it returns an `Evaluated`, all callbacks of the run are told of that.

    Example:
        >>> def show(event: Event) -> None:
        ...     if isinstance(event, IterationDone):
        ...         print(event.iteration, event.loss)
    """

    def __call__(self, event: Event, /) -> Evaluated | None:
        """Take note of one event."""


@runtime_checkable
class SnapshotCallback(Callback, Protocol):
    """A callback that is told the images themselves, as `Snapshot`."""

    def wants_snapshot(self, iteration: int) -> bool:
        """Whether to be told the images after so many iterations; asked where the run starts or goes on, and after each iteration."""
