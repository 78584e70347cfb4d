"""The jobs of a table shared by any number of processes: each is claimed by one, by a lock that ends with its process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from filelock import FileLock, Timeout

from fastdc.errors import FastdcError
from fastdc.storage import write_error
from fastdc.tables.job import Job, Outcome, Workshop

_PATIENCE = 0.5  # seconds between two looks at jobs that others have claimed


def do_all(
    jobs: Sequence[Job], workshop: Workshop, tell: Callable[[Job, str, Outcome], None], say: Callable[[str], None]
) -> dict[Job, str]:
    """Do every job that nobody has done or claimed, wait for those that others have claimed, and take over what they leave.

    A job that fails does not stop the others.

    Args:
        jobs: in the order in which to try them.
        workshop: does them.
        tell: is called with each outcome of this process.
        say: is called once with a line, if this process has to wait.

    Returns:
        What failed here, with its reason.

    Raises:
        RunError: a folder that cannot be written.
    """
    failures: dict[Job, str] = {}
    open_jobs, waited = list(jobs), False
    while open_jobs:
        claimed = [job for job in open_jobs if not _attempt(job, workshop, tell, failures)]
        if claimed and not waited:
            say(f"waiting for {len(claimed)} image set(s) that other processes have claimed")
            waited = True
        if claimed:
            time.sleep(_PATIENCE)
        open_jobs = claimed
    return failures


def _attempt(job: Job, workshop: Workshop, tell: Callable[[Job, str, Outcome], None], failures: dict[Job, str]) -> bool:
    """Do one job unless it is done; False where another process has claimed it."""
    if workshop.is_done(job):
        return True
    folder = workshop.path(job)
    lock = FileLock(folder / ".claim", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        return False
    except OSError as error:
        raise write_error(folder, error) from None
    try:
        workshop.do(job, tell)
    except FastdcError as error:
        failures[job] = str(error)
    finally:
        lock.release()
    return True
