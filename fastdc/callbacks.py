"""Callbacks: functions that are told, by typed events, what a run does. TensorBoard is one of them, a curve of accuracy another."""

from __future__ import annotations

import dataclasses
import inspect
import weakref
from pathlib import Path
from typing import Any

from fastdc._evaluate import evaluate
from fastdc.errors import UsageError
from fastdc.loop.curve import read_curve, write_curve
from fastdc.loop.events import Callback, CheckpointWritten, Ended, Evaluated, Event, IterationDone, Snapshot, SnapshotCallback, Started
from fastdc.options.checks import check_count
from fastdc.runs.files import write_error
from fastdc.training.evaluation import Evaluation

__all__ = [
    "Callback",
    "CheckpointWritten",
    "Ended",
    "EvaluateEvery",
    "Evaluated",
    "Event",
    "IterationDone",
    "Snapshot",
    "SnapshotCallback",
    "Started",
    "TensorBoard",
    "read_curve",
]


class EvaluateEvery:
    """Evaluates the images after every so many iterations: a curve of accuracy, by which nothing is chosen.

    The run ends with the last images, in the same bits as without it. All callbacks of the run are told of each evaluation; in the
    folder of a run `curve.jsonl` has a line for each. A run that goes on has the points that lie behind it, and adds to them.

    Args:
        every: iterations from one evaluation to the next.
        test: the test set, as `fastdc.evaluate` takes it.
        options: those of `fastdc.evaluate`; it shows no progress unless it is told to.

    Raises:
        UsageError: `every` is no whole number of 1 or more.
        TypeError: an option that `fastdc.evaluate` does not have.

    Example:
        >>> from fastdc import condense
        >>> curve = EvaluateEvery(2, "digits", model="mlp:width=16", networks=2, epochs=2)
        >>> condensed = condense("digits", ipc=1, model="mlp:width=8", iterations=5, batch_real=16, callbacks=[curve])
        >>> [(iteration, 0 < evaluation.mean < 1) for iteration, evaluation in curve.points.items()]
        [(2, True), (4, True)]
    """

    def __init__(self, every: int, test: Any, **options: Any) -> None:
        check_count("every", every)
        inspect.signature(evaluate).bind(None, test, **options)
        self._every, self._test, self._options = every, test, {"progress": False, **options}
        self.points: dict[int, Evaluation] = {}
        """What was found, by iteration, but for the confusion."""
        self._file: Path | None = None

    def wants_snapshot(self, iteration: int) -> bool:
        """Whether an evaluation is due."""
        return iteration > 0 and iteration % self._every == 0 and iteration not in self.points

    def __call__(self, event: Event, /) -> Evaluated | None:
        """Evaluate a snapshot."""
        match event:
            case Started():
                self._file = None if event.folder is None else event.folder / "curve.jsonl"
                known = {} if self._file is None else read_curve(self._file)
                self.points = {iteration: found for iteration, found in known.items() if iteration <= event.iteration}
                if known != self.points:
                    self._write()
            case Snapshot():
                found = dataclasses.replace(evaluate(event.condensed, self._test, **self._options), confusion=None)
                self.points[event.iteration] = found
                self._write()
                return Evaluated("condensed", found, event.iteration)
        return None

    def _write(self) -> None:
        """The points as the file of the run."""
        if self._file is not None:
            write_curve(self._file, self.points)


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
        self._folder, self._open = Path(folder).expanduser(), SummaryWriter
        self._writer: SummaryWriter | None = None

    def __call__(self, event: Event, /) -> None:
        """Write one event; raises a RunError where the folder cannot be written."""
        import numpy as np

        if self._writer is None:  # a run that is refused writes nothing
            try:
                self._writer = self._open(str(self._folder))
            except OSError as error:
                raise write_error(self._folder, error) from None
            weakref.finalize(self, self._writer.close)  # its thread and its file end with this object
        match event:
            case IterationDone():
                self._writer.add_scalar("loss", event.loss, event.iteration)
            case Evaluated(iteration=None):
                for i, accuracy in enumerate(event.evaluation.accuracies):
                    self._writer.add_scalar(f"accuracy/{event.subject}", accuracy, i)
            case Evaluated():
                self._writer.add_scalar("accuracy/curve", event.evaluation.mean, event.iteration)
            case Ended():
                self._writer.add_image("condensed", np.asarray(event.condensed.grid()), dataformats="HWC")
        self._writer.flush()
