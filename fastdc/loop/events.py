"""What a run tells those who listen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fastdc.condensed import CondensedDataset
from fastdc.loop.config import CondenseConfig
from fastdc.training.evaluation import Evaluation


@dataclass(frozen=True)
class Started:
    """A run begins, or goes on: `iteration` iterations lie behind it."""

    config: CondenseConfig
    iteration: int


@dataclass(frozen=True)
class IterationDone:
    """One random network was learned with."""

    iteration: int
    """From 1 on."""
    loss: float
    """What the method makes small, for dc the distance summed over classes; averaged over the matching steps of the iteration."""
    seconds: float
    """What the iteration took, as far as this process computed it."""


@dataclass(frozen=True)
class CheckpointWritten:
    """The run can be continued from `path`."""

    path: Path
    iteration: int


@dataclass(frozen=True)
class Evaluated:
    """Networks were trained and tested on the images called `subject` ("condensed", "random")."""

    subject: str
    evaluation: Evaluation


@dataclass(frozen=True)
class Ended:
    """The run is complete."""

    condensed: CondensedDataset


Event = Started | IterationDone | CheckpointWritten | Evaluated | Ended


class Callback(Protocol):
    """Anything that can be called with an event; what it raises ends the run, with the last checkpoint in place.

    Example:
        >>> def show(event: Event) -> None:
        ...     if isinstance(event, IterationDone):
        ...         print(event.iteration, event.loss)
    """

    def __call__(self, event: Event, /) -> None:
        """Take note of one event."""
