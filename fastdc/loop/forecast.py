"""What a run says of its time at its start, where that is long."""

from __future__ import annotations

from collections.abc import Callable

from fastdc.options.checks import as_duration

_LONG = 600.0  # seconds that a run takes of which it is said
_KNOWN = 5.0  # seconds of steps, after the first one, from which it is known


class Forecast:
    """Says once how long a run takes, by its own first steps.

    Args:
        steps: that it has before it.
    """

    def __init__(self, steps: int) -> None:
        self._left, self._ready, self._said = steps, 0.0, False
        self._taken = -1  # since the first one, which makes ready

    def line(self, now: float, ahead: Callable[[], float]) -> str | None:
        """What to say after a step that ended at `now`, in seconds; None where there is nothing to say, or nothing yet.

        Args:
            now: of any clock.
            ahead: gives the seconds that come beside the steps; asked at most once.
        """
        if self._said:
            return None
        self._taken, self._left = self._taken + 1, self._left - 1
        if self._taken == 0:
            self._ready = now
        if self._taken == 0 or now - self._ready < _KNOWN:
            return None
        self._said = True
        left = self._left * (now - self._ready) / self._taken + ahead()
        return f"this run takes about {as_duration(left)} more" if left > _LONG else None
