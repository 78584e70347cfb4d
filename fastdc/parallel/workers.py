"""Other processes that share the work of this one; each takes its part of the threads, and a GPU in turn."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from fastdc.errors import FastdcError
from fastdc.parallel.devices import resolve_device

_LOOK_SECONDS = 1.0  # between two looks of a helper at whose child it is
_GRACE = 1.0  # seconds in which a helper ends that is told to


class Helpers:
    """While this context is open, `workers - 1` processes run `work(argument)`, and this process has its part of the threads too.

    When it closes they are waited for, and after an error here ended; they end too when this process does, however it ends, and leave
    Ctrl-C to it. Their own errors end them alone: whoever started them finds what they leave undone.

    Args:
        work: a function of a module, which can be sent to a process.
        argument: what to call it with.
        workers: processes in all, this one among them.
        device: as `fastdc.condense` takes it; "cuda" without a number means a GPU of each process's own, as far as there are enough.
    """

    def __init__(self, work: Callable[[Any], None], argument: Any, workers: int, device: str) -> None:
        self._device, self._threads = device, torch.get_num_threads()
        self._share = max(1, self._threads // workers)
        context = multiprocessing.get_context("spawn")
        self._processes = [context.Process(target=_run, args=(work, argument, device, self._share, rank)) for rank in range(1, workers)]

    def __enter__(self) -> None:
        _use_gpu(self._device, int(os.environ.get("LOCAL_RANK", "0")))
        if self._processes:
            torch.set_num_threads(self._share)
        with _interrupts_ignored():  # which they inherit
            for process in self._processes:
                process.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for process in self._processes:
                process.terminate()
        for process in self._processes:
            process.join(None if kind is None else _GRACE)
            process.kill()  # nothing, where it has ended; what it writes appears whole or not at all
            process.join()
        if self._processes:
            torch.set_num_threads(self._threads)


def _run(work: Callable[[Any], None], argument: Any, device: str, threads: int, rank: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _use_gpu(device, rank)
    try:
        work(argument)
    except (KeyboardInterrupt, FastdcError):
        sys.exit(1)


def _end_with_parent() -> None:
    """End this process when the one that started it has ended. That closes a pipe, unless a child of its own holds it open."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    while parent.is_alive() and (os.name == "nt" or os.getppid() == parent.pid):
        parent.join(_LOOK_SECONDS)
    os._exit(1)


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _use_gpu(device: str, rank: int) -> None:
    if resolve_device(device) == torch.device("cuda"):
        torch.cuda.set_device(rank % torch.cuda.device_count())
