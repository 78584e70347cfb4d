"""An experiment shared by several processes: each of them opens it, and together they do its jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from fastdc.parallel.workers import Helpers

Result = TypeVar("Result")
_Result_co = TypeVar("_Result_co", covariant=True)


class Experiment(Protocol[_Result_co]):
    """Jobs in a folder, and what they come to."""

    def run(self, say: Callable[[str], None]) -> _Result_co:
        """Do what is still to be done, together with whoever else does it, and collect; `say` is called with lines about it."""
        ...


def run_shared(experiment: Experiment[Result], reopen: Callable[[], Experiment[Any]], workers: int, device: str) -> Result:
    """Run an experiment, with lines on stdout, while `workers - 1` other processes take part in it.

    Args:
        experiment: whose result is returned.
        reopen: opens the same experiment in another process, to which it is sent.
        workers: processes in all, this one among them.
        device: as `fastdc.condense` takes it.
    """
    with Helpers(_take_part, reopen, workers, device):
        return experiment.run(print_line)


def _take_part(reopen: Callable[[], Experiment[Any]]) -> None:
    """What fails here, the first process tries as well, and reports."""
    reopen().run(lambda _: None)


def print_line(line: str) -> None:
    """Print a line that is seen at once, also through a pipe."""
    print(line, flush=True)
