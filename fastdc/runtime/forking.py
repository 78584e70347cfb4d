"""What a forked child needs: threads die in a fork, and what they held or waited for stays as it was.

The child of a process that has used torch waits for ever for threads of OpenMP that it does not have, as soon as it computes in several
of them. Thus a child computes in one, unless it asks for more itself; and locks of fastdc are free there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import torch

_locks: list[FreshLock] = []


class FreshLock:
    """A lock of a module that is free in every forked child, whoever held it in the parent.

    Args:
        kind: threading.Lock, or threading.RLock.
    """

    def __init__(self, kind: Callable[[], Any] = threading.Lock) -> None:
        self._kind, self._lock = kind, kind()
        _locks.append(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Let go of the lock without the thread that holds it."""
        self._lock = self._kind()


def _begin_anew() -> None:
    torch.set_num_threads(1)
    for lock in _locks:
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
