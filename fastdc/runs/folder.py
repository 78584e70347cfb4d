"""The folder of a run: locked while it is used, told apart by its configuration, continued from its checkpoint."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fastdc.errors import DataError, RunError, UsageError
from fastdc.runs.content import in_a_line, plain_types
from fastdc.runs.files import append, cut, read_whole, remove_left_over, write_atomically, write_error

_CHECKPOINT_SHARE = 0.02  # of the run's time may go into writing checkpoints
_MOMENT = 0.2  # seconds that a lock is waited for, which `in_use` may hold for a moment


class RunFolder:
    """The folder `out`: config.json, metrics.jsonl, checkpoint.safetensors, condensed.safetensors, condensed.png, thumbnails/.

    Use `open_run`, which holds its lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.safetensors"
        self.result = path / "condensed.safetensors"
        self.picture = path / "condensed.png"
        self.thumbnails = path / "thumbnails"
        self._config = path / "config.json"
        self._metrics = path / "metrics.jsonl"
        self._next_write = 0.0

    def record_config(
        self, config: Mapping[str, Any], origin: Mapping[str, str], grows: str | None = None, formerly: str | None = None
    ) -> None:
        """Write config.json: the configuration, and its origin (versions, the data's fingerprint). Where there is one, compare it.

        A run of another version may be continued: only `config` and the fingerprint are compared.

        Args:
            config: all that decides the run's result, data aside.
            origin: versions, and the data's fingerprint.
            grows: the field that may be greater than it was; the run then goes on for longer, and the greater number is written.
            formerly: the fingerprint that an earlier version wrote of the same data; the present one then takes its place.

        Raises:
            UsageError: a run with another configuration is here; the text names the fields that differ.
            DataError: config.json cannot be read, or is missing beside a checkpoint.
        """
        was = formerly if self._written("fingerprint") == formerly else None
        self.check_config(config, origin if was is None else {**origin, "fingerprint": was}, grows)
        if was is not None or not self._config.exists() or (grows is not None and self.recorded(grows) < config[grows]):
            text = json.dumps({"config": dict(config), **origin}, indent=2)
            write_atomically(self._config, text.encode())

    def check_config(self, config: Mapping[str, Any], origin: Mapping[str, str], grows: str | None = None) -> None:
        """Raise as `record_config` does where another run is here; write nothing."""
        if not self._config.exists():
            if self.checkpoint.exists():
                raise DataError(f"{self.path} holds a checkpoint, but not the config.json that says of which run; use another folder.")
            return
        try:
            content = plain_types(read_whole(self._config))
            found = {**content["config"], "fingerprint": content["fingerprint"]}
            config, version = {**config, "fingerprint": origin["fingerprint"]}, content.get("fastdc")
            differing = [key for key in sorted({*found, *config}) if found.get(key) != config.get(key)]
            if grows is not None and grows in differing and type(found[grows]) is int and 0 <= found[grows] < config[grows]:
                differing.remove(grows)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise DataError(f"{self._config} cannot be read; it is damaged or of another program: use another folder.") from None
        if found.keys() != config.keys() and version != origin.get("fastdc"):
            raise UsageError(
                f"{self.path} holds a run of fastdc {in_a_line(version, 40)}, whose configuration has other fields; finish it with that "
                "version, or use another folder."
            )
        if differing:
            here = {key: (in_a_line(repr(found.get(key)), 80), in_a_line(repr(config.get(key)), 80)) for key in differing}
            names = {"fingerprint": "the images to learn from, their size or classes; fingerprint"}
            text = in_a_line(", ".join(f"{names.get(key, key)} ({there} there, {now} now)" for key, (there, now) in here.items()), 1000)
            raise UsageError(f"{self.path} holds a run that differs in {text}; use its arguments to continue it, or another folder.")

    def recorded(self, field: str) -> Any:
        """What config.json says of a field; None where there is no such file, or it cannot be read."""
        return self._written("config", field)

    def _written(self, *keys: str) -> Any:
        """What config.json holds under a key, or under one within the other."""
        try:
            found = plain_types(read_whole(self._config))
            for key in keys:
                found = found[key]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return found

    def restore(self, load: Callable[[Path], int]) -> None:
        """Let `load` read the checkpoint, where there is one; drop metrics that are newer than it.

        Args:
            load: reads a checkpoint, and returns the length of the metrics that belong to it.

        Raises:
            DataError: the checkpoint is damaged, or the metrics are shorter than it says.
        """
        cut(self._metrics, load(self.checkpoint) if self.checkpoint.exists() else 0)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl.

        Raises:
            RunError: the file cannot be written.
        """
        append(self._metrics, (json.dumps(record) + "\n").encode())

    def loss(self, iteration: int) -> float | None:
        """What metrics.jsonl says of an iteration; None where it does not."""
        if not self._metrics.exists():
            return None
        for line in reversed(read_whole(self._metrics).splitlines()):
            with contextlib.suppress(ValueError, KeyError, TypeError):  # the last line may be half written
                record = json.loads(line)
                if record["iteration"] == iteration:
                    return float(record["loss"])
        return None

    def save(self, save: Callable[[Path, int], None]) -> None:
        """Let `save` write the checkpoint.

        Args:
            save: writes to a path a checkpoint and the length of the metrics that belong to it.

        Raises:
            RunError: the file cannot be written; the one before is still there.
        """
        start = time.monotonic()
        save(self.checkpoint, self._metrics.stat().st_size if self._metrics.exists() else 0)
        now = time.monotonic()
        self._next_write = now + (now - start) / _CHECKPOINT_SHARE

    def keep_thumbnail(self, iteration: int, content: bytes) -> None:
        """Write the PNG of an iteration; where that cannot be done, a warning says so, and the run goes on without."""
        with beside_a_run(self.thumbnails):
            self.thumbnails.mkdir(exist_ok=True)
            write_atomically(self.thumbnails / f"{iteration:07d}.png", content)

    @property
    def checkpoint_due(self) -> bool:
        """Whether so much time has passed that another checkpoint costs a small share of it."""
        return time.monotonic() >= self._next_write


@contextlib.contextmanager
def beside_a_run(path: Path) -> Iterator[None]:
    """Let what only shows a run harm nothing: whatever goes wrong while `path` is written becomes a warning."""
    try:
        yield
    except Exception as error:
        reason = in_a_line(error) or type(error).__name__
        warnings.warn(f"{path} cannot be written, and the run goes on without it: {reason}", stacklevel=3)


@contextlib.contextmanager
def open_run(path: str | Path) -> Iterator[RunFolder]:
    """Make the folder where it is missing, and hold its lock; the system lets go of it when the process ends, however it ends.

    Raises:
        RunError: the path is a file, cannot be written, or is in use by another run.
    """
    folder = Path(path).expanduser()
    lock = FileLock(folder / ".lock", timeout=_MOMENT)
    try:
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RunError(f"{folder} is in use by another run; wait for it to end, or use another folder.") from None
    except (OSError, ValueError) as error:
        raise write_error(folder, error) from None
    run = RunFolder(folder)
    remove_left_over(folder)
    remove_left_over(run.thumbnails)
    try:
        yield run
    finally:
        lock.release()


def in_use(folder: Path) -> bool:
    """Whether a run holds the lock of a folder; so, too, where that cannot be told."""
    if not (folder / ".lock").exists():
        return False
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except (Timeout, OSError):
        return True
    lock.release()
    return False


@contextlib.contextmanager
def shared_folder(path: Path) -> Iterator[RunFolder]:
    """Make a folder that several processes work in, and hold its lock for a moment, waiting for whoever has it.

    Raises:
        RunError: the path is a file, or cannot be written.
    """
    lock = FileLock(path / ".lock")
    try:
        check_folder(path)
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, ValueError) as error:
        raise write_error(path, error) from None
    try:
        remove_left_over(path)
        yield RunFolder(path)
    finally:
        lock.release()


def check_folder(path: Path) -> None:
    """Raise a RunError where there is something at `path`, or on the way to it, that is no folder.

    Raises:
        OSError: it cannot be looked at.
        ValueError: it can be no path.
    """
    for part in (path, *path.parents):
        if part.is_symlink() and not part.exists():
            raise RunError(
                f"{part} is a link to {part.readlink()}, which is not there; expected a folder, or a name where one can be made."
            )
        if part.exists() and not part.is_dir():
            raise RunError(f"{part} is a file; expected a folder, or a name where one can be made.")


@contextlib.contextmanager
def kept_or_temporary(out: str | Path | None) -> Iterator[Path]:
    """The folder that a caller names with `out`, not made yet; or for None one that is gone afterwards.

    Raises:
        UsageError: neither a path nor None.
    """
    if not isinstance(out, str | Path | None):
        raise UsageError(f"out is {out!r}; expected the path of a folder, or None.")
    if out is not None:
        yield Path(out).expanduser()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
