"""Several processes that share a run, as a launcher starts them; forked from one that has imported what they need, so that it takes no
time."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

import torch.distributed as dist

from fastdc.parallel import world

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["fastdc", "processes", "sklearn.datasets", "torch._dynamo"])


class Processes:
    """`size` processes that call `work(*arguments)` in one process group, and what each of them returns or raises."""

    def __init__(self, size: int, work: Callable[..., Any], *arguments: Any) -> None:
        port = free_port()
        _stores.append(dist.TCPStore("127.0.0.1", port, None, is_master=True, wait_for_workers=False))
        self.ends: list[Connection] = []
        self.processes: list[ForkServerProcess] = []
        for rank in range(size):
            end, other = _context.Pipe(duplex=False)
            process = _context.Process(target=_run, args=(other, rank, size, port, work, arguments))
            process.start()
            other.close()
            self.ends.append(end)
            self.processes.append(process)

    def results(self, timeout: float = 120) -> list[Any]:
        """By rank, as `result` gives them; then all are ended."""
        found = [self.result(rank, timeout) for rank in range(len(self.processes))]
        for process in self.processes:
            process.kill()
            process.join()
        return found

    def result(self, rank: int, timeout: float) -> Any:
        """What one of them returns; the text of what it raises; None where it has ended without a word."""
        try:
            return pickle.loads(self.ends[rank].recv_bytes()) if self.ends[rank].poll(timeout) else None
        except EOFError:
            return None

    def signal(self, rank: int, number: int) -> None:
        """Send a signal to one of them."""
        if (pid := self.processes[rank].pid) is not None and self.processes[rank].is_alive():
            os.kill(pid, number)


def together(size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `size` processes return, by rank; an error is raised."""
    found = Processes(size, work, *arguments).results()
    for result in found:
        assert not isinstance(result, str), result
    return found


def _run(end: Connection, rank: int, size: int, port: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    world.SILENT, world.LEFT, world._BEAT = 3.0, 1.5, 0.1  # seconds that tests can wait
    store = dist.TCPStore("127.0.0.1", port, size, is_master=False, timeout=timedelta(seconds=60))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    try:
        end.send_bytes(pickle.dumps(work(*arguments)))
    except BaseException as error:
        end.send_bytes(pickle.dumps(f"{type(error).__name__}: {error}"))
    end.close()
    os._exit(0)


_stores: list[dist.TCPStore] = []  # where the processes meet, of this process, which outlives them, as a launcher does


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
