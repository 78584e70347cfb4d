"""The files of an experiment: outcomes as JSON, one file each, and the report at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fastdc.report import accompany
from fastdc.runs.content import plain_types, reading
from fastdc.runs.files import read_whole, write_atomically
from fastdc.runs.folder import shared_folder

Outcome = TypeVar("Outcome")


def write_outcome(file: Path, content: Mapping[str, Any]) -> None:
    """Write plain types as JSON.

    Raises:
        RunError: the file cannot be written.
    """
    write_atomically(file, (json.dumps(content, indent=2) + "\n").encode())


def read_outcome(file: Path, parse: Callable[[Any], Outcome]) -> Outcome:
    """What `parse` makes of the content of a JSON file.

    Raises:
        DataError: a file that cannot be read, or of which `parse` makes nothing.
    """
    with reading(file, "what an experiment wrote"):
        return parse(plain_types(read_whole(file)))


def write_results(folder: Path, files: Mapping[str, str | bytes], command: str | None) -> None:
    """Write files, by name, into a folder that several processes work in; the command that repeats it, where it was one; and the report.

    Raises:
        RunError: the folder cannot be written.
    """
    repeats = {"command.txt": command} if command is not None else {}
    with shared_folder(folder):
        for name, content in {**files, **repeats}.items():
            write_atomically(folder / name, content.encode() if isinstance(content, str) else content)
    accompany(folder)
