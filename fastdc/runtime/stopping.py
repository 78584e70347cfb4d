"""Ending long work before its end: it stands at a `stop_point` every second or more often, and so does the compiled code."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

_thread = threading.local()


def stop_point() -> None:
    """Raise what ends the work of this thread, where something does."""
    for check in _checks():
        check()


@contextlib.contextmanager
def checked_at_stop_points(check: Callable[[], None]) -> Iterator[None]:
    """While this context is open, every `stop_point` of this thread calls `check`, which may raise."""
    _checks().append(check)
    try:
        yield
    finally:
        _checks().remove(check)


def check_at_stop_points(check: Callable[[], None]) -> None:
    """Let every `stop_point` of this thread call `check`, for as long as the thread lives."""
    _checks().append(check)


def _checks() -> list[Callable[[], None]]:
    if not hasattr(_thread, "checks"):
        _thread.checks = []
    checks: list[Callable[[], None]] = _thread.checks
    return checks
