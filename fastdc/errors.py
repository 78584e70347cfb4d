"""The errors that fastdc raises on purpose: each message says what was given, what was expected and what to do."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


class FastdcError(Exception):
    """Base of every error raised on purpose; its text is meant to be read by a person."""


class UsageError(FastdcError, ValueError):
    """An argument that cannot be used: an unknown name, an impossible number."""


class DataError(FastdcError, ValueError):
    """Images, labels or a file whose content cannot be used."""


class MissingFileError(DataError, FileNotFoundError):
    """A file or folder that is not there."""


class RunError(FastdcError, RuntimeError):
    """A run that cannot go on: a folder that cannot be written, a loss that is not finite."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived, and the run wrote its checkpoint before it stopped."""

    def __init__(self, message: str, signum: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signum = signum


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in `known`, with the nearest one that is."""
    names = sorted(known)
    if not isinstance(name, str):
        return UsageError(f"{kind} is {name!r}; expected one of {', '.join(names)}.")
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return UsageError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}.")
