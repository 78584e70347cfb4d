"""Callbacks: functions that are told, by typed events, what a run does. TensorBoard is one of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fastdc.errors import UsageError
from fastdc.storage import write_error

if TYPE_CHECKING:
    from fastdc.condensed import CondensedDataset
    from fastdc.config import CondenseConfig
    from fastdc.evaluate import Evaluation


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


class TensorBoard:
    """Writes loss, images and accuracies where TensorBoard finds them; needs the package tensorboard.

    Args:
        folder: where the event files go.

    Raises:
        UsageError: tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError("tensorboard is not installed; pip install 'fastdc-torch[tensorboard]' brings it.") from None
        self._folder, self._open = Path(folder), SummaryWriter
        self._writer: SummaryWriter | None = None

    def __call__(self, event: Event, /) -> None:
        """Write one event; raises a RunError where the folder cannot be written."""
        import numpy as np

        if self._writer is None:  # a run that is refused writes nothing
            try:
                self._writer = self._open(str(self._folder))
            except OSError as error:
                raise write_error(self._folder, error) from None
        match event:
            case IterationDone():
                self._writer.add_scalar("loss", event.loss, event.iteration)
            case Evaluated():
                for i, accuracy in enumerate(event.evaluation.accuracies):
                    self._writer.add_scalar(f"accuracy/{event.subject}", accuracy, i)
            case Ended():
                self._writer.add_image("condensed", np.asarray(event.condensed.grid()), dataformats="HWC")
        self._writer.flush()
