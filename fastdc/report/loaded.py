"""What the files of a condensation's folder say, read for its report."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdc.condensed import CondensedDataset
from fastdc.loop.curve import evaluation_of, read_curve
from fastdc.options.ipc import checked_ipc, least_to_most
from fastdc.report.folder import Folder
from fastdc.report.pictures import Picture, picture
from fastdc.runs.content import finite_number, in_a_line, plain_types, whole_number
from fastdc.runs.files import read_whole
from fastdc.training.evaluation import Evaluation

_MOST_FRAMES = 20  # of the images over the iterations; of more some are left out evenly


_UNTESTED = "The images have not been tested here: evaluation.json is missing, which the command fastdc condense writes."


@dataclass(frozen=True)
class Frame:
    """The images after some iteration."""

    iteration: int
    picture: Picture


@dataclass(frozen=True)
class Loaded:
    """What the files of a run say; of what they do not say, nothing."""

    name: str
    """Of its folder."""
    config: Mapping[str, Any]
    """The options, as config.json has them."""
    origin: Mapping[str, Any]
    """What config.json says beside them."""
    losses: tuple[tuple[float, float], ...]
    """(iteration, loss)."""
    seconds: float
    """Of all iterations."""
    memory: float
    """The most bytes at once of a process that learned the images; 0 where no line says it."""
    curve: tuple[tuple[float, Evaluation], ...]
    """(iteration, what was found), where images were tested while they were learned."""
    condensed: CondensedDataset | None
    evaluation: Mapping[str, Any]
    """The content of evaluation.json."""
    results: Mapping[str, Evaluation]
    """By the name of the images."""
    frames: tuple[Frame, ...]
    notes: tuple[str, ...]
    """What is missing or damaged, a sentence each."""

    @property
    def title(self) -> str:
        """What the run makes, in a few words."""
        if not self.config:
            return f"Run {self.name}"
        ipc = checked_ipc(self.config["ipc"])
        number = f"{ipc} image{'s' if ipc != 1 else ''}" if isinstance(ipc, int) else f"{least_to_most(ipc, ' to ')} images"
        return f"{in_a_line(self.config['dataset'])}, {number} per class"


def load_run(path: Path) -> Loaded:
    """Read the folder of a run."""
    folder = Folder(path)
    origin = folder.json("config.json", _checked_config) or {"config": {}}
    records = folder.part("metrics.jsonl", "the metrics of a run", lambda file: _iterations(file, folder)) or ()
    condensed = folder.part("condensed.safetensors", "a condensed dataset", CondensedDataset.load)
    curve = folder.part("curve.jsonl", "a curve of accuracy", read_curve)
    evaluation, results = folder.json("evaluation.json", _checked_evaluation, _UNTESTED) or ({}, {})
    return Loaded(
        path.resolve().name,
        origin["config"],
        origin,
        tuple((iteration, loss) for iteration, loss, *_ in records),
        sum(seconds for _, _, seconds, _ in records),
        max((memory for *_, memory in records), default=0),
        tuple((curve or {}).items()),
        condensed,
        evaluation,
        results,
        _frames(folder),
        tuple(folder.notes),
    )


def _checked_config(content: Any) -> Mapping[str, Any]:
    config = dict(content["config"])
    checked_ipc(config["ipc"])
    whole_number(config, "iterations")
    _check_there(config, "dataset", "method", "model")
    return {**content, "config": config}


def _checked_evaluation(content: Any) -> tuple[Mapping[str, Any], Mapping[str, Evaluation]]:
    _check_there(content, "model", "protocol", "networks", "seed")
    return content, {str(name): evaluation_of(found) for name, found in content["results"].items()}


def _check_there(content: Mapping[str, Any], *names: str) -> None:
    missing = [name for name in names if name not in content]
    if missing:
        raise ValueError(f"it does not say {', '.join(missing)}")


def _iterations(file: Path, folder: Folder) -> tuple[tuple[int, float, float, float], ...]:
    """(iteration, loss, seconds, peak memory) of each iteration; a line that is cut short, as the last one of a killed run, is left out."""
    found, broken = [], 0
    for line in read_whole(file).splitlines():
        try:
            record = plain_types(line)
            if record["event"] == "iteration":
                loss, seconds = finite_number(record, "loss", least=-math.inf), finite_number(record, "seconds")
                memory = finite_number(record, "peak_memory") if "peak_memory" in record else 0.0  # older runs do not say it
                found.append((whole_number(record, "iteration"), loss, seconds, memory))
        except (ValueError, KeyError, TypeError, RecursionError):
            broken += 1
    if broken:
        folder.notes.append(f"Lines of metrics.jsonl that cannot be read, and are left out: {broken}.")
    return tuple(found)


def _frames(folder: Folder) -> tuple[Frame, ...]:
    files = sorted(file for file in (folder.path / "thumbnails").glob("*.png") if re.fullmatch("[0-9]+", file.stem))
    if len(files) > _MOST_FRAMES:
        files = [files[round(place * (len(files) - 1) / (_MOST_FRAMES - 1))] for place in range(_MOST_FRAMES)]
    contents = [(int(file.stem), folder.part(f"thumbnails/{file.name}", "a PNG file", _png)) for file in files]
    return tuple(
        Frame(iteration, picture(content, f"The images after iteration {iteration}" if iteration else "The images at the start"))
        for iteration, content in contents
        if content is not None
    )


def _png(file: Path) -> bytes:
    content = read_whole(file)
    if not content.startswith(b"\x89PNG\r\n\x1a\n") or not content.endswith(b"IEND\xaeB`\x82"):
        raise ValueError("it is no whole PNG file")
    return content
