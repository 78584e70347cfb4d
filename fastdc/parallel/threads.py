"""Threads of this process, side by side, each of which computes by itself."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor

import torch

_MOST_THREADS = 64
_thread = threading.local()


@contextlib.contextmanager
def one_thread_each(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `count` threads with one torch thread each; the number of torch's threads, which that changes for all, is put back.

    At the end of the context, which an interruption brings too, they are waited for: work in them ends at its next `stop_point`.
    """
    before, over = torch.get_num_threads(), threading.Event()

    def begin() -> None:
        torch.set_num_threads(1)
        _thread.over = over

    pool = ThreadPoolExecutor(count, initializer=begin)
    try:
        yield pool
    finally:
        over.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def compute_threads() -> int:
    """How many threads compiled code is to take: torch's, but not more than a machine can be expected to start."""
    return min(torch.get_num_threads(), max(_MOST_THREADS, os.cpu_count() or 1))


def stop_point() -> None:
    """Raise CancelledError in a thread of `one_thread_each` whose context is over; long work calls it every second or more often."""
    over = getattr(_thread, "over", None)
    if over is not None and over.is_set():
        raise CancelledError
