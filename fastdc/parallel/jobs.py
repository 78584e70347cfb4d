"""Jobs shared by any number of threads and processes: each is claimed by one, by a lock that ends with its process."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from filelock import FileLock, Timeout

from fastdc.errors import FastdcError
from fastdc.runs.files import write_error

_PATIENCE = 0.5  # seconds between two looks at jobs that others have claimed


J = TypeVar("J", bound=Hashable)
_J_contra = TypeVar("_J_contra", bound=Hashable, contravariant=True)


class Workplace(Protocol[_J_contra]):
    """Where jobs of one kind leave what they have done."""

    def path(self, job: _J_contra) -> Path:
        """The folder of a job; any number may look at it, one at a time works in it."""
        ...

    def is_done(self, job: _J_contra) -> bool:
        """Whether nothing is left to do."""
        ...


def do_all(jobs: Sequence[J], place: Workplace[J], do: Callable[[J], None], say: Callable[[str], None]) -> dict[J, str]:
    """Do every job that nobody has done or claimed, wait for those that others have claimed, and take over what they leave.

    A job that fails does not stop the others.

    Args:
        jobs: in the order in which to try them.
        place: knows their folders.
        do: does one; what is done of it already it leaves as it is.
        say: is called once with a line, if this process has to wait.

    Returns:
        What failed here, with its reason.

    Raises:
        RunError: a folder that cannot be written.
    """
    failures: dict[J, str] = {}
    open_jobs, waited = list(jobs), False
    while open_jobs:
        claimed = [job for job in open_jobs if not _attempt(job, place, do, failures)]
        if claimed and not waited:
            say(f"waiting for {len(claimed)} job(s) that other processes have claimed")
            waited = True
        if claimed:
            time.sleep(_PATIENCE)
        open_jobs = claimed
    return failures


def _attempt(job: J, place: Workplace[J], do: Callable[[J], None], failures: dict[J, str]) -> bool:
    """Do one job unless it is done; False where another process has claimed it."""
    if place.is_done(job):
        return True
    folder = place.path(job)
    lock = FileLock(folder / ".claim", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        return False
    except OSError as error:
        raise write_error(folder, error) from None
    try:
        do(job)
    except FastdcError as error:
        failures[job] = str(error)
    finally:
        lock.release()
    return True
