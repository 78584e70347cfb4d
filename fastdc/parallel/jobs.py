"""Jobs shared by any number of threads and processes: each is done by one of them, which holds its lock; the lock ends with its process."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from filelock import FileLock, Timeout

from fastdc.errors import FastdcError, RunError
from fastdc.parallel.out_of_memory import is_out_of_memory, out_of_memory_sentence
from fastdc.parallel.world import apart
from fastdc.runs.files import remove_left_over, write_error

_POLL_SECONDS = 0.5  # between two looks at jobs that others have taken
_LOCK = ".claim"  # as version 0.1 calls it, which may work in the same folder

J = TypeVar("J", bound=Hashable)
_J_contra = TypeVar("_J_contra", bound=Hashable, contravariant=True)


class JobRunner(Protocol[_J_contra]):
    """Does jobs of one kind, each in a folder of its own, and reads what was done there."""

    def path(self, job: _J_contra) -> Path:
        """The folder of a job; any number may look at it, one at a time works in it."""
        ...

    def is_done(self, job: _J_contra) -> bool:
        """Whether nothing is left to do."""
        ...


def do_all(
    jobs: Sequence[J],
    runner: JobRunner[J],
    do: Callable[[J], None],
    say: Callable[[str], None],
    failures: dict[J, str] | None = None,
) -> dict[J, str]:
    """Do every job that nobody has done or taken, wait for those that others have taken, and do what they leave undone.

    A job that fails, or for which memory runs out, does not stop the others; a fault of the program does.

    Args:
        jobs: in the order in which to try them.
        runner: knows their folders.
        do: does one; what is done of it already it leaves as it is.
        say: is called with a line for each job that fails, and once if this process has to wait.
        failures: of threads that share the work one for all, so that none tries again what failed in another; None: one of this call.

    Returns:
        What failed here, with its reason.

    Raises:
        RunError: a folder that cannot be written.
    """
    failures = {} if failures is None else failures
    open_jobs, waited = list(jobs), False
    while open_jobs:
        taken = [job for job in open_jobs if not _attempt(job, runner, do, say, failures)]
        if taken and not waited:
            say(f"waiting for {len(taken)} job(s) that other processes have taken")
            waited = True
        if taken:
            time.sleep(_POLL_SECONDS)
        open_jobs = taken
    return failures


def raise_failures(failures: Mapping[str, str], count: int, what: str) -> None:
    """Raise a RunError that names the first of some failures, by name with their reasons, where there are any.

    >>> raise_failures({}, 3, "networks")
    >>> raise_failures({"mlp": "a weight is not finite."}, 3, "networks")
    Traceback (most recent call last):
    fastdc.errors.RunError: 1 of 3 networks failed, mlp first: a weight is not finite. The same call or command tries them again.
    """
    if failures:
        name, reason = next(iter(failures.items()))
        raise RunError(f"{len(failures)} of {count} {what} failed, {name} first: {reason} The same call or command tries them again.")


def _attempt(job: J, runner: JobRunner[J], do: Callable[[J], None], say: Callable[[str], None], failures: dict[J, str]) -> bool:
    """Do one job unless it is done or has failed; False where another thread or process has taken it."""
    if runner.is_done(job):
        return True
    folder = runner.path(job)
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        return False
    except OSError as error:
        raise write_error(folder, error) from None
    try:
        if job not in failures and not runner.is_done(job):  # as whoever let go of the lock a moment ago may have left it
            remove_left_over(folder, below=True)
            with apart():
                do(job)
    except Exception as error:
        if (reason := _reason(error)) is None:
            raise
        failures[job] = reason
        say(f"{folder.name} failed: {reason}")
    finally:
        lock.release()
    return True


def _reason(error: Exception) -> str | None:
    """Why a job failed, in a sentence; None for a fault of the program."""
    if isinstance(error, FastdcError):
        return str(error)
    return out_of_memory_sentence(error) if is_out_of_memory(error) else None
