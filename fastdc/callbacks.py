"""Callbacks: functions that are told, by typed events, what a run does. TensorBoard is one of them."""

from __future__ import annotations

from pathlib import Path

from fastdc.errors import UsageError
from fastdc.loop.events import Callback, CheckpointWritten, Ended, Evaluated, Event, IterationDone, Started
from fastdc.runs.files import write_error

__all__ = ["Callback", "CheckpointWritten", "Ended", "Evaluated", "Event", "IterationDone", "Started", "TensorBoard"]


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
