"""The progress bar of long work: on stderr, with loss and time left; silent when stderr is no terminal."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(total: int, description: str, unit: str, *, shown: bool, done: int = 0) -> Any:
    """A tqdm bar over `total` units, `done` of which are behind; it shows nothing unless `shown` and stderr is a terminal."""
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        initial=done,
        disable=not (shown and sys.stderr.isatty()),
        file=sys.stderr,
        dynamic_ncols=True,
    )
