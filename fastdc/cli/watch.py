"""What `fastdc show --watch` does: follow a run by its files."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from fastdc.errors import Interrupted, UsageError
from fastdc.loop.checkpoint import load_images
from fastdc.runs.folder import RunFolder, in_use

_PAUSE = 0.5  # seconds between two looks at the checkpoint


def watch(folder: Path, picture: Path) -> None:
    """Write the picture of a run anew whenever its checkpoint changes, and print a line each time, until no process works on it.

    Raises:
        UsageError: `folder` is a file.
        DataError: a checkpoint that cannot be read.
        Interrupted: Ctrl-C or SIGTERM.
    """
    if folder.is_file():
        raise UsageError(f"{folder} is a file; --watch follows the folder of a run.")
    run = RunFolder(folder)
    try:
        _wait_for(run.checkpoint)
        _follow(run, picture)
    except KeyboardInterrupt as stop:
        signum = stop.signum if isinstance(stop, Interrupted) else signal.SIGINT
        raise Interrupted(f"{folder} is no longer watched; a run there goes on.", signum) from None


def _wait_for(checkpoint: Path) -> None:
    """Wait for a run to begin."""
    if not checkpoint.exists():
        print(f"{checkpoint} is not there yet; waiting for the run to begin", flush=True)
    while not checkpoint.exists():
        time.sleep(_PAUSE)


def _follow(run: RunFolder, picture: Path) -> None:
    seen, running = 0, True
    while running:
        running = in_use(run.path)  # looked at first: what is written before the end is seen
        changed = run.checkpoint.stat().st_mtime_ns
        if changed != seen:
            seen = changed
            condensed, iteration = load_images(run.checkpoint)
            condensed.save_grid(picture)
            total, loss = run.recorded("iterations"), run.loss(iteration)
            print(f"iteration {iteration} of {total}" + (f", loss {loss:.4g}" if loss is not None else ""), flush=True)
        elif running:
            time.sleep(_PAUSE)
    end = "the run has ended" if iteration == total else "no process works on the run; its command again continues it"
    print(f"{end}; its picture is {picture}")
