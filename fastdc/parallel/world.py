"""Several processes that work on one run, by torch.distributed: who does what, what reaches all, and what ends them when one is lost.

A launcher such as torchrun starts them and says who they are. Every one calls the same functions in the same order. What passes between
them goes by one operation, the broadcast of a tensor.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fastdc.errors import FastdcError, RunError, UsageError
from fastdc.runs.content import in_a_line

SILENT = 20.0  # seconds without a sign of life after which a process counts as lost,
LEFT = 4.0  # or fewer, where a connection to one is closed
_LOOK = 1e-4  # seconds between two looks at what a GPU does
_BEAT = 1.0  # seconds between two signs of life
_LATE = 600.0  # seconds after which a process that has not come yet counts as lost
_LONGEST = timedelta(days=1)  # that processes which live are waited for
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what a launcher sets

Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")


class World:
    """The processes of one run; one alone is a world too, in which nothing is sent.

    Args:
        rank: of this process, 0 to size - 1.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.sent = 0
        """Bytes that this process has sent or received."""
        self._tasks, self._working = itertools.count(1), threading.Lock()
        self._worker: int | None = None  # the thread that works on it
        self._life: _Life | None = None
        self._group: Any = None
        if size > 1:
            self._life = _Life(rank, size)
            self._life.wait_for_all()
            self._group = dist.new_group(backend="cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_LONGEST)

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, count: int, rank: int | None = None) -> range:
        """The part of `count` things in a row that a process has; None: this one."""
        rank = self.rank if rank is None else rank
        return range(count * rank // self.size, count * (rank + 1) // self.size)

    def spread(self, rows: Tensor, counts: Sequence[int] | None = None) -> None:
        """Put what each process has of its own things in place at all others.

        Args:
            rows: of all things in a row, changed in place.
            counts: rows of each thing; None: one.
        """
        if self.size > 1:
            parts = self._parts(counts if counts is not None else [1] * len(rows))
            self._broadcast([(rows[part], rank) for rank, part in enumerate(parts)])

    def joined(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of all things, of which each process gives those of its own; `counts` as `spread` has them."""
        if self.size == 1:
            return rows
        whole = self.placed(rows, counts)
        self.spread(whole, counts)
        return whole

    def placed(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Room for the rows of all things, with those of this process's own in place."""
        whole = rows.new_empty(sum(counts), *rows.shape[1:])
        whole[self._parts(counts)[self.rank]] = rows
        return whole

    def joined_at_first(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of all things, as `joined` gives them, at the first process; at the others their own, and no more is held there than
        what another one gives."""
        if self.leads:
            return self.joined(rows, counts)
        for rank, part in enumerate(self._parts(counts)):
            self._broadcast([(rows if rank == self.rank else rows.new_empty(part.stop - part.start, *rows.shape[1:]), rank)])
        return rows

    def deal(self, whole: Tensor, rows: Tensor, counts: Sequence[int]) -> None:
        """Put what the first process has of all things into the rows of each, which are those of its own; `counts` as `spread` has them.

        Args:
            whole: all of them, at the first process; whatever it is at others.
            rows: changed in place.
            counts: rows of each thing.
        """
        first, *others = self._parts(counts)
        if self.leads:
            rows.copy_(whole[first])
        for rank, part in enumerate(others, 1):
            mine = whole[part] if self.leads else rows if rank == self.rank else None
            self._broadcast([(mine if mine is not None else rows.new_empty(part.stop - part.start, *rows.shape[1:]), 0)])

    def _parts(self, counts: Sequence[int]) -> list[slice]:
        """Where the rows of the things of each process lie."""
        ends = [0, *itertools.accumulate(counts)]
        shares = [self.share(len(counts), rank) for rank in range(self.size)]
        return [slice(ends[share.start], ends[share.stop]) for share in shares]

    def summed(self, rows: Tensor) -> Tensor:
        """The sum of the rows of all processes, one or more of each [n, ...], added up one by one in the order of the processes."""
        total = rows[0].clone()
        for rank in range(self.size):
            if rank == self.rank:
                for row in rows[1:] if rank == 0 else rows:
                    total += row
            if self.size > 1:
                self._broadcast([(total, rank)])
        return total

    def gathered(self, value: Value) -> list[Value]:
        """What each process gives, by rank."""
        return [value] if self.size == 1 else [self._sent_by(rank, value) for rank in range(self.size)]

    def first(self, make: Callable[[], Value]) -> Value:
        """What the first process makes, at all of them; an error of its is raised by all."""
        made = self.led(make)
        return made if self.size == 1 else self._sent_by(0, made)  # type: ignore[return-value]

    def led(self, make: Callable[[], Value]) -> Value | None:
        """What the first process makes, for itself; None at the others. An error of its is raised by all."""
        if self.size == 1:
            return make()
        made, error = None, None
        if self.leads:
            try:
                made = make()
            except FastdcError as raised:
                error = raised
        if (found := self._sent_by(0, error)) is not None:
            raise found
        return made

    def from_first(self, tensors: Sequence[Tensor]) -> None:
        """Put the content of the first process's tensors into those of all."""
        if self.size > 1:
            self._broadcast([(tensor, 0) for tensor in tensors])

    def check_same(self, facts: dict[str, Any]) -> None:
        """Raise a UsageError at every process where one has other facts than the first."""
        all_facts = self.gathered(facts)
        for rank, found in enumerate(all_facts):
            differing = [name for name in facts if found.get(name) != all_facts[0].get(name)]
            if differing:
                here = {name: [in_a_line(repr(given.get(name)), 80) for given in (found, all_facts[0])] for name in differing}
                text = ", ".join(f"{name} ({there}, not {first})" for name, (there, first) in here.items())
                raise UsageError(f"process {rank} differs from process 0 in {text}; start all with the same code, data and options.")

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """While this context is open, all work on one thing; whoever leaves it by an error tells the others, who then end as well. Within
        another one it does nothing."""
        if self._life is None or self._worker == threading.get_ident():
            yield
            return
        if not self._working.acquire(blocking=False):
            raise UsageError("two threads share a run with other processes at once; make one call after the other.")
        self._worker = threading.get_ident()
        self._life.begin(next(self._tasks))
        try:
            yield
        except BaseException as error:
            self._life.leave(f"{error}" if isinstance(error, FastdcError) else f"{type(error).__name__}: {error}")
            raise
        finally:
            self._worker = None
            self._working.release()

    def end(self) -> None:
        """Leave the others for good."""
        if self._life is not None:
            self._life.end()

    def _sent_by(self, rank: int, value: Value) -> Value:
        content = bytearray(pickle.dumps(value)) if rank == self.rank else bytearray()
        length = torch.tensor([len(content)], device="cpu")
        self._broadcast([(length, rank)])
        raw = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(int(length), dtype=torch.uint8, device="cpu")
        self._broadcast([(raw, rank)])
        result: Value = pickle.loads(raw.numpy().tobytes())
        return result

    def _broadcast(self, parts: Sequence[tuple[Tensor, int]]) -> None:
        """Send each tensor from the process of that rank to all."""
        assert self._life is not None
        try:
            works = []
            for tensor, rank in parts:
                if tensor.numel():
                    self.sent += tensor.nbytes
                    works.append((dist.broadcast(tensor, rank, group=self._group, async_op=True), tensor.device.type == "cpu"))
            for work, on_cpu in works:
                self._wait(work, on_cpu)
        except RuntimeError as error:
            if isinstance(error, FastdcError):
                raise
            raise self._life.lost(LEFT, str(error)) from None

    def _wait(self, work: Any, on_cpu: bool) -> None:
        """Wait as long as all processes show that they live."""
        assert self._life is not None
        while not work.is_completed():
            try:
                if on_cpu:
                    work.wait(timedelta(seconds=_BEAT))
                else:
                    time.sleep(_LOOK)  # nccl ends what is waited for in vain
            except RuntimeError:
                if work.is_completed():
                    raise
            self._life.check(SILENT)
        work.wait()


class _Life:
    """Signs of life of all processes, in the store by which they met; and why one has left.

    A thread of its own talks to the store, which may not answer: others look at what it has heard.
    """

    def __init__(self, rank: int, size: int) -> None:
        self._rank, self._size = rank, size
        self._store = dist.distributed_c10d._get_default_store()
        self._signs: dict[int, tuple[bytes, float]] = {}  # the last sign of each other process, and when it was new
        self._left: dict[int, str] = {}  # why others have left the task
        self._task = 0
        self._leaving, self._told = "", threading.Event()
        self._heard = time.monotonic()  # when the store has answered last
        self._over, self._thread = threading.Event(), threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        atexit.register(self.end)

    def wait_for_all(self) -> None:
        """Wait until each process has given a sign.

        Raises:
            RunError: one has not, for a long time.
        """
        end = time.monotonic() + _LATE
        while len(self._signs) < self._size - 1:
            if time.monotonic() > end:
                missing = [rank for rank in range(self._size) if rank not in (self._rank, *self._signs)]
                raise RunError(
                    f"process {missing[0]} has not called fastdc for {_LATE:.0f} s; all processes of a group make the same calls. For a "
                    "call of one of them there is fastdc.parallel.world.apart."
                )
            time.sleep(_BEAT / 10)

    def end(self) -> None:
        """Talk to the store no more, which may end."""
        self._over.set()
        self._thread.join(3 * _BEAT)

    def begin(self, task: int) -> None:
        """Another task; who has left those before it does not count."""
        self._task, self._left = task, {}

    def leave(self, why: str) -> None:
        """Tell the others that this process leaves the task; a store that does not answer is not waited for."""
        self._leaving = why
        self._told.clear()
        self._told.wait(3 * _BEAT)

    def check(self, silent: float) -> None:
        """Raise a RunError where a process has left the task, or has given no sign for so many seconds."""
        for rank, why in sorted(self._left.items()):
            raise RunError(f"process {rank} has left: {in_a_line(why, 500)}")
        now = time.monotonic()
        if now - self._heard > silent:
            raise RunError(
                f"where the processes meet nobody has answered for {now - self._heard:.0f} s; the same command again continues from the "
                "last checkpoint."
            )
        for rank, (_, when) in sorted(self._signs.items()):
            if now - when > silent:
                raise RunError(
                    f"process {rank} has given no sign of life for {now - when:.0f} s: it has ended, is stopped or cannot be reached; the "
                    "same command again continues from the last checkpoint."
                )

    def lost(self, silent: float, why: str) -> RunError:
        """The error for a connection that was closed; says which process has ended, where that is found."""
        end = time.monotonic() + 3 * silent
        while time.monotonic() < end:
            try:
                self.check(silent)
            except RunError as error:
                return error
            time.sleep(_BEAT / 4)
        return RunError(f"the connection to another process has failed ({in_a_line(why)}); the same command again continues.")

    def _beat(self) -> None:
        for count in itertools.count():
            if self._over.wait(_BEAT):
                return
            with contextlib.suppress(RuntimeError):  # the store has ended
                self._store.set(_alive(self._rank), str(count))
                if self._leaving:
                    self._store.set(_left(self._task, self._rank), self._leaving)
                    self._leaving = ""
                    self._told.set()
                for rank in range(self._size):
                    if rank != self._rank:
                        self._listen(rank)
                self._heard = time.monotonic()

    def _listen(self, rank: int) -> None:
        if self._store.check([key := _left(self._task, rank)]):
            self._left[rank] = self._store.get(key).decode()
        if self._store.check([key := _alive(rank)]):
            sign = self._store.get(key)
            if rank not in self._signs or self._signs[rank][0] != sign:
                self._signs[rank] = sign, time.monotonic()


def _alive(rank: int) -> str:
    """The key of a process's signs of life."""
    return f"fastdc, alive {rank}"


def _through(group: int, rank: int) -> str:
    """The key of a process that has nothing more to do in a group."""
    return f"fastdc, through {group} {rank}"


def _left(task: int, rank: int) -> str:
    """The key of why a process has left a task."""
    return f"fastdc, left {task} {rank}"


ALONE = World()
"""This process, where no other works with it."""
_worlds: dict[Any, World] = {}  # by process group
_groups = itertools.count()  # that were launched one after another
_apart = threading.local()


def world() -> World:
    """The processes that work together: those of an initialised process group of torch.distributed; else this one alone."""
    if getattr(_apart, "is_so", False) or not (dist.is_available() and dist.is_initialized()):
        return ALONE
    group = dist.group.WORLD
    if group not in _worlds:
        _worlds[group] = World(dist.get_rank(), dist.get_world_size())
    return _worlds[group]


def shared(call: Callable[Arguments, Value]) -> Callable[Arguments, Value]:
    """A call that all processes make together."""

    @functools.wraps(call)
    def inner(*arguments: Arguments.args, **options: Arguments.kwargs) -> Value:
        with world().together():
            return call(*arguments, **options)

    return inner


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """While this context is open, this thread works for itself alone."""
    before, _apart.is_so = getattr(_apart, "is_so", False), True
    try:
        yield
    finally:
        _apart.is_so = before


def leads_by_launcher() -> bool:
    """Whether this is the first of the processes that a launcher has started, or was started by none."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def launched() -> Iterator[None]:
    """Join the process group that a launcher has described, as torchrun does, for as long as this context is open; else do nothing."""
    if not all(name in os.environ for name in _LAUNCHED) or dist.is_initialized():
        yield
        return
    on_gpus, number = torch.cuda.is_available(), int(os.environ.get("LOCAL_RANK", "0"))
    if on_gpus and number >= torch.cuda.device_count():
        raise UsageError(f"process {number} of this machine has no GPU: torch sees {torch.cuda.device_count()}; start one for each.")
    if on_gpus:
        torch.cuda.set_device(number)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo")
    number_of_group = next(_groups)
    try:
        yield
    except BaseException:
        _part(number_of_group, wait=False)
        raise
    else:
        _part(number_of_group, wait=True)
    finally:
        world().end()
        dist.destroy_process_group()


def _part(group: int, wait: bool) -> None:
    """Say that this process is through; and wait until all are, or a while: what was sent to one of them is lost with a connection that is
    closed before it was read."""
    store, end = dist.distributed_c10d._get_default_store(), time.monotonic() + SILENT
    keys = [_through(group, rank) for rank in range(dist.get_world_size())]
    with contextlib.suppress(RuntimeError):  # the store has ended, with the first process, which has seen all others here
        store.set(keys[dist.get_rank()], "")
        while wait and not store.check(keys) and time.monotonic() < end:
            time.sleep(_BEAT / 20)
