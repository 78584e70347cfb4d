"""Threads of this process, side by side, each of which computes by itself."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from fastdc.runtime.stopping import check_at_stop_points, stop_point

_MOST_THREADS = max(64, os.cpu_count() or 1)  # counted once: it takes the system longer than a small kernel
_LOOK_SECONDS = 0.1  # between two stop points of a thread that waits for others

Result = TypeVar("Result")


@contextlib.contextmanager
def one_thread_each(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `count` threads with one torch thread each; the number of torch's threads, which that changes for all, is put back.

    At the end of the context, which an interruption brings too, they are waited for: work in them ends at its next `stop_point`, with
    CancelledError.
    """
    before, over = torch.get_num_threads(), threading.Event()

    def check() -> None:
        if over.is_set():
            raise CancelledError

    def begin() -> None:
        torch.set_num_threads(1)
        check_at_stop_points(check)

    pool = ThreadPoolExecutor(count, initializer=begin)
    try:
        yield pool
    finally:
        over.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def compute_threads() -> int:
    """How many threads compiled code is to take: torch's, but not more than a machine can be expected to start."""
    return min(torch.get_num_threads(), _MOST_THREADS)


def result_of(future: Future[Result]) -> Result:
    """What another thread finds; this one waits for it at stop points."""
    while not wait([future], timeout=_LOOK_SECONDS).done:
        stop_point()
    return future.result()
