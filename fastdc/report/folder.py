"""The files of a run's folder, read for a report: what is missing or damaged becomes a sentence, and the rest is shown."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fastdc.errors import FastdcError, MissingFileError
from fastdc.runs.content import in_a_line, plain_types, reading
from fastdc.runs.files import read_whole

Value = TypeVar("Value")
Record = Mapping[str, str]
"""A line of a CSV file, by the names of its columns."""


class Folder:
    """A folder that a report is made of.

    `notes` collects what could not be shown, a sentence each.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []

    def part(self, name: str, expected: str, read: Callable[[Path], Value], missing: str | None = None) -> Value | None:
        """What `read` makes of a file of the folder; None, and a note, where it is missing (`missing`) or damaged."""
        file = self.path / name
        try:
            with reading(file, expected):
                return read(file)
        except MissingFileError:
            self.notes.append(missing or f"{name} is missing: what it says is not shown.")
        except FastdcError as error:
            self.notes.append(f"What {name} says is not shown. {in_a_line(error, 400)}")
        return None

    def json(self, name: str, read: Callable[[Any], Value], missing: str | None = None) -> Value | None:
        """What `read` makes of the content of a JSON file."""
        return self.part(name, "JSON of fastdc", lambda file: read(plain_types(text_of(file))), missing)

    def rows(self, name: str, read: Callable[[Sequence[Record]], Value]) -> Value | None:
        """What `read` makes of the lines of a CSV file."""
        return self.part(name, "CSV of fastdc", lambda file: read(_records(text_of(file))))


def _records(text: str) -> Sequence[Record]:
    records = list(csv.DictReader(text.splitlines()))
    if not records or any(None in record or None in record.values() for record in records):
        raise ValueError("it has no lines, or one with more or fewer fields than its head")
    return records


def text_of(file: Path) -> str:
    """The text of a file.

    Raises:
        MissingFileError: no such file.
    """
    try:
        return read_whole(file).decode()
    except FileNotFoundError:
        raise MissingFileError(f"{file} is missing.") from None
