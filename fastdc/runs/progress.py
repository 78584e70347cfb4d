"""The progress of long work: a bar on a terminal and in a notebook, and a line now and then in a log."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

_EVERY = 30.0  # seconds at least between two lines of a log


def progress_bar(total: int, description: str, unit: str, *, shown: bool, done: int = 0) -> Any:
    """What tells on stderr of work on `total` units, `done` of which are behind; nothing unless `shown`."""
    if shown and not sys.stderr.isatty() and not in_notebook():
        return _Lines(total, description, unit, done)
    if shown and in_notebook():
        from tqdm.auto import tqdm as bar  # a widget where there are widgets
    else:
        bar = tqdm
    options: dict[str, Any] = {"total": total, "desc": description, "unit": unit, "initial": done, "disable": not shown}
    return bar(**options, file=sys.stderr, dynamic_ncols=True)


class _Lines:
    """Says how far the work is where nobody sees a bar; short work says nothing."""

    def __init__(self, total: int, description: str, unit: str, done: int) -> None:
        self.total, self.description, self.unit, self.done, self.before = total, description, unit, done, done
        self.values = ""
        self.began = self.said = time.monotonic()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        if self.said > self.began and self.done < self.total:
            self._say(time.monotonic())

    def update(self, count: int = 1) -> None:
        """So many more units are behind."""
        self.done += count
        now = time.monotonic()
        if now - self.said >= _EVERY or (self.said > self.began and self.done == self.total):
            self._say(now)

    def set_postfix(self, refresh: bool = True, **values: str) -> None:
        """What is said with them."""
        self.values = "".join(f", {name} {value}" for name, value in values.items())

    def write(self, text: str, file: Any) -> None:
        """A line between those of the work, as a bar writes it above itself."""
        print(text, file=file, flush=True)

    def _say(self, now: float) -> None:
        self.said, each = now, (now - self.began) / max(1, self.done - self.before)
        left = tqdm.format_interval(each * (self.total - self.done))
        passed = tqdm.format_interval(now - self.began)
        print(
            f"{self.description}: {self.done} of {self.total} {self.unit}s{self.values}; {passed} passed, about {left} left",
            file=sys.stderr,
            flush=True,
        )


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook, which shows widgets and moves its cursor, though its stderr is no terminal."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive is not None and hasattr(interactive, "get_ipython") else None
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})
