"""The verb `estimate`: what a condensation takes on this machine, from a few measured steps."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastdc._condense import Prepared, condense, prepare
from fastdc.condensed import CondensedDataset
from fastdc.loop.events import IterationDone
from fastdc.loop.loop import Condensation
from fastdc.loop.plan import TRIAL_SHARE, iterations_within, make_ready, seconds_of_iteration
from fastdc.loop.thumbnails import kept_at, thumbnail
from fastdc.options.checks import as_duration, seconds_of
from fastdc.parallel.devices import name_of, peak_memory, reset_peak_memory, resolve_device
from fastdc.parallel.world import shared, world
from fastdc.report.pictures import gallery
from fastdc.runtime.public import public

_PAGE = 20_000  # bytes of a report beside its pictures
_MEASURED = 5.0  # seconds of steps by which an iteration is known, or as many as it takes


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run takes on this machine. `str(estimate)` says it in three lines."""

    seconds: float
    """From the call to the images, those of `preparation` and of all iterations."""
    memory: int
    """Bytes at the peak: on the CPU of this process, images, torch and Python included; on a GPU those that torch holds there."""
    disk: int
    """Bytes of the folder `out` when the run has ended."""
    preparation: float
    """Seconds outside of the iterations: reading data, training networks that are trained once, what first steps make ready, a plan for
    a budget, the result."""
    iteration: float
    """Seconds of an iteration."""
    iterations: int
    """How many there are; for a budget as many as would be planned."""
    engine: str
    """Which computes."""
    precision: str
    """By which products are rounded."""
    machine: str
    """The device on which the steps were measured, by its name."""
    threads: int
    """Of the CPU, that torch had."""
    processes: int
    """That worked together."""

    def __str__(self) -> str:
        shared = f", {self.processes} processes" if self.processes > 1 else ""
        return (
            f"about {as_duration(self.seconds)}: {self.iterations:,} iterations of {as_duration(self.iteration)}, and "
            f"{as_duration(self.preparation)} beside them\n"
            f"{_as_bytes(self.memory)} of memory, {_as_bytes(self.disk)} on disk\n"
            f"measured with the engine {self.engine} in {self.precision} on {self.machine}, {self.threads} threads{shared}"
        )


@public
@shared
def estimate(data: Any, ipc: int | Sequence[int], **options: Any) -> Estimate:
    """The seconds, the memory and the disk that `condense` takes with the same arguments, from a few measured steps on this machine.

    The run is made ready, a few of its steps are taken and thrown away, and nothing is written. The seconds are

        preparation + iterations * iteration

    An iteration is its first step, its last one and those between, each measured; of networks that a pool trains once, and that are not
    kept yet, a few steps of training are. It takes as long as reading the data, then a few seconds, or four steps where they are longer.
    A run that `out` holds already is estimated as if it began anew. The evaluation that follows in the command `fastdc condense` is not
    counted.

    Args:
        data: as `condense` takes it.
        ipc: as `condense` takes it.
        options: any others that `condense` takes, by the same names.

    Returns:
        What the run takes, and of what that is made up. Of several processes each gets what the first one finds.

    Raises:
        TypeError: an option that `condense` does not have.
        UsageError: an argument that `condense` would refuse, or a run that cannot fit into memory.
        DataError: data that cannot be used.

    Example:
        >>> found = estimate("digits", ipc=1, model="convnet:width=8", iterations=100, batch_real=16)
        >>> found.iterations, found.seconds > 100 * found.iteration
        (100, True)
    """
    began = time.monotonic()
    given = inspect.signature(condense).bind(data, ipc, **options)
    given.apply_defaults()
    arguments = {**given.arguments, "progress": False}
    device = resolve_device(arguments["device"])
    reset_peak_memory(device)
    found = _measured(prepare(**arguments), began, arguments["budget"])
    return world().first(lambda: found)


estimate.__signature__ = inspect.signature(condense).replace(return_annotation="Estimate")  # type: ignore[attr-defined]


def _measured(prepared: Prepared, began: float, budget: str | None) -> Estimate:
    """What the run takes, by a trial of it, in a call that began at `began`."""
    trial = prepared.condensation()
    built = time.monotonic() - began
    networks = trial.pool.seconds_ahead()
    trial.pool.stand_in()
    iterations, iteration, ready = trial.recipe.iterations, 0.0, 0.0
    if iterations:
        started = time.monotonic()
        steps = make_ready(trial)
        ready = time.monotonic() - started
        iteration = seconds_of_iteration(trial, _MEASURED)
        ready = max(0.0, ready - steps * iteration / trial.steps)  # those steps are a part of the first iterations
    started = time.monotonic()
    disk = _bytes_of_folder(trial, trial.condensed(prepared.protocol), iterations)
    preparation = built + networks + ready + time.monotonic() - started
    if prepared.planned:
        assert budget is not None
        preparation += built + ready + TRIAL_SHARE * seconds_of(budget)
        iterations = iterations_within(seconds_of(budget) - preparation, iteration, trial.steps)
    return Estimate(
        seconds=preparation + iterations * iteration,
        memory=peak_memory(trial.family.device),
        disk=disk,
        preparation=preparation,
        iteration=iteration,
        iterations=iterations,
        engine=prepared.config.engine,
        precision=prepared.config.precision,
        machine=name_of(trial.family.device),
        threads=torch.get_num_threads(),
        processes=trial.world.size,
    )


def _bytes_of_folder(trial: Condensation, condensed: CondensedDataset, iterations: int) -> int:
    """Of a run that has ended: what it has learned, in the checkpoint with its moments and in the result with its labels; what is said
    with both, and in the configuration; a line for each iteration; the picture; thumbnails, in files and in the report with the images."""
    state, picture = trial.state, io.BytesIO()
    condensed.grid().save(picture, format="PNG")
    tensors = [condensed.stored] * (2 + len(state.moments)) + [trial.description.labels] * 2
    tensors += [*state.learned.values(), *condensed.fitted.values()]
    thumbnails = len(kept_at(iterations)) * len(thumbnail(condensed))
    pages = _PAGE + sum(len(picture.source) for shown in gallery(condensed).classes for picture in shown.pictures) + thumbnails * 4 // 3
    line = {"event": "iteration", **dataclasses.asdict(IterationDone(iterations, 1 / 3, 1 / 3, 1 << 32))}
    said = 3 * len(json.dumps(condensed.provenance)) + iterations * (len(json.dumps(line)) + 1)
    return sum(tensor.nbytes for tensor in tensors) + said + picture.tell() + thumbnails + pages


def _as_bytes(count: float) -> str:
    """A number of bytes, for a reader."""
    unit, size = next((unit, size) for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("bytes", 1)) if count >= size or size == 1)
    return f"{count / size:.3g} {unit}"
