"""The signals that ask a run to stop."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from fastdc.errors import Interrupted
from fastdc.runtime.stopping import checked_at_stop_points

GRACE = 0.25  # seconds that work may go on after a signal


class StopRequest:
    """Whether SIGINT or SIGTERM has arrived; a second one acts at once, as it would without fastdc.

    Args:
        ends_work: whether work that goes on after it is ended, a moment later.
    """

    def __init__(self, ends_work: bool = True) -> None:
        self.signum: int | None = None
        self._ends_work = ends_work
        self._end = math.inf

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take note of the two signals instead of dying of them, unless they are ignored; possible in the main thread only.

        Whoever has not looked at `signum` before the time of grace is over is ended at the next `stop_point`.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}

        def note(signum: int, frame: FrameType | None) -> None:
            self.signum, self._end = signum, time.monotonic() + GRACE
            for number, handler in before.items():
                signal.signal(number, handler)

        for number in before:
            signal.signal(number, note)
        try:
            with checked_at_stop_points(self._check):
                yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _check(self) -> None:
        if self._ends_work and self.signum is not None and time.monotonic() > self._end:
            raise Interrupted("stopped; the same call again continues from the last checkpoint.", self.signum)
