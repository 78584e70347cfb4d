"""Evaluations as records of JSON, and the file of a curve: `curve.jsonl`, accuracy over the iterations of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdc.runs.content import finite_numbers, plain_types, reading, whole_number
from fastdc.runs.files import read_whole, write_atomically
from fastdc.training.evaluation import Evaluation

_OF_A_POINT = ("accuracies", "protocol", "epochs", "precision", "mean", "std")  # what a line of the curve says of an evaluation


def evaluation_of(record: Mapping[str, Any]) -> Evaluation:
    """The evaluation of a record; one of an earlier version lacks all but the accuracies.

    Raises:
        ValueError, KeyError, TypeError: what stands there is no evaluation.
    """
    protocol, precision, counts = record.get("protocol"), record.get("precision", "float32"), record.get("confusion")
    if not isinstance(protocol, str | None) or not isinstance(precision, str):
        raise ValueError("protocol or precision is no name")
    epochs = None if record.get("epochs") is None else whole_number(record, "epochs", 1)
    if counts is not None:
        counts = tuple(tuple(whole_number({"count": count}, "count") for count in row) for row in counts)
        if not counts or any(len(row) != len(counts) for row in counts):
            raise ValueError("confusion is no square of counts")
    return Evaluation(finite_numbers(record, "accuracies", most=1.0), protocol, epochs, precision, counts)


def write_curve(path: Path, points: Mapping[int, Evaluation]) -> None:
    """Write evaluations by iteration, a line each, whole or not at all.

    Raises:
        RunError: the file cannot be written.
    """
    records = ({"iteration": iteration, **{name: getattr(found, name) for name in _OF_A_POINT}} for iteration, found in points.items())
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in records).encode())


def read_curve(path: str | Path) -> dict[int, Evaluation]:
    """The evaluations of a file `curve.jsonl`, by iteration; none where there is no file.

    Raises:
        DataError: a file of another kind, cut short or altered.
    """
    path = Path(path)
    if not path.exists():
        return {}
    with reading(path, "a curve of accuracy"):
        records = [plain_types(line) for line in read_whole(path).decode().splitlines()]
        return {whole_number(record, "iteration", 1): evaluation_of(record) for record in records}
