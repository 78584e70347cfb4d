"""Every kind of file that fastdc reads, altered at random: what is read or refused in a sentence is right, anything else is a fault.

    python tests/fuzz.py --mutations 100000 [--seed 0] [--formats png pt] [--only NUMBER]

A mutation follows from the seed, the format and its number alone. Each is read in a process apart, which may neither crash, nor take more
than a limit of time and memory, nor write or run anything outside of its folder. What a fault was found with is kept as a file.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import functools
import gzip
import io
import json
import os
import re
import resource
import signal
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from mutations import (
    IMAGES,
    LABELS,
    MEGABYTES,
    OPTIONS,
    SHARES,
    altered,
    altered_idx,
    altered_json,
    altered_lines,
    altered_npz,
    altered_options,
    altered_png,
    altered_pt,
    altered_safetensors,
)
from PIL import Image, features
from safetensors.torch import load as load_safetensors

import fastdc
from fastdc.cli import COMMANDS
from fastdc.cli.arguments import parse
from fastdc.data import ImageData
from fastdc.errors import FastdcError
from fastdc.experiments.continual.runner import KIND as STAGE
from fastdc.experiments.continual.runner import ContinualConfig, ContinualRunner, Run
from fastdc.experiments.files import read_outcome
from fastdc.experiments.search import proxy_sets, trial
from fastdc.experiments.tables import job
from fastdc.loop.checkpoint import load_checkpoint, load_images
from fastdc.recipe.state import State
from fastdc.report import write_report
from fastdc.runs.content import finite_number
from fastdc.runs.files import save_tensors
from fastdc.runs.folder import RunFolder
from fastdc.training.whole_set import WholeSetOptions, train_on_whole_set

_PICTURES = {
    "png": ("PNG", {}),
    "jpg": ("JPEG", {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0", "icc_profile": bytes(200)}),
    "bmp": ("BMP", {}),
    "gif": ("GIF", {"transparency": 3, "comment": "a"}),
    "tif": ("TIFF", {"compression": "tiff_lzw"}),
    "webp": ("WEBP", {"exif": b"Exif\0\0II*\0\0\0\0\0"}),
    "ppm": ("PPM", {}),
    "avif": ("AVIF", {}),
    "jp2": ("JPEG2000", {}),
}


def picture_bytes(suffix: str, seed: int) -> bytes:
    """A picture of 8x8 pixels, its mode by the seed."""
    kind, options = _PICTURES[suffix]
    rng = np.random.default_rng(seed)
    shape = (8, 8) if suffix == "gif" or seed % 3 == 1 else (8, 8, 3)
    buffer = io.BytesIO()
    picture = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
    if suffix in ("png", "tif", "gif") and seed % 3 == 2:
        picture = picture.convert({"png": "P", "tif": "I", "gif": "P"}[suffix])
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def make_pictures(suffix: str, folder: Path) -> list[Path]:
    for number in range(6):
        file = folder / "ab"[number % 2] / f"{number}.{suffix}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(picture_bytes(suffix, number))
    return sorted(folder.rglob("*.*"))


def read_pictures(file: Path) -> object:
    return fastdc.load_dataset(f"folder:{file.parent.parent}")


# Formats

_PIXELS = np.random.default_rng(0).integers(0, 256, (10, 1, 4, 4), dtype=np.uint8)
_DATA = ImageData.of(torch.from_numpy(_PIXELS), torch.arange(10) % 2)
_SCALE: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.25] * 3}


class Format(NamedTuple):
    """A kind of file: `make` writes good ones and names those to alter, `read` reads one, in whose place an altered one lies.

    `structured` alters what the checksums of a file would give away; `errors` are those that may be raised.
    """

    make: Callable[[Path], Sequence[Path]]
    read: Callable[[Path], object]
    structured: Callable[[Random, bytes, str], bytes] | None = None
    errors: tuple[type[Exception], ...] = (FastdcError,)


def make_condensed(folder: Path) -> list[Path]:
    provenance = {"dataset": "data", "config": {"seed": 1}, "protocol": "paper"}
    options: dict[str, Any] = {**_SCALE, "class_names": ["a", "b"], "provenance": provenance}
    fastdc.CondensedDataset(IMAGES, LABELS, **options).save(folder / "plain.safetensors")
    fastdc.CondensedDataset(IMAGES, SHARES, formation="tiles:factor=2", **options).save(folder / "tiles.safetensors")
    frequencies = fastdc.condense(_DATA, 1, method="untrained", formation="frequency", model="mlp:width=2", progress=False)
    frequencies.save(folder / "frequency.safetensors")
    return sorted(folder.iterdir())


def use_condensed(file: Path) -> object:
    condensed = fastdc.CondensedDataset.load(file)
    return repr(condensed), condensed.grid(), condensed.clipped


def condense(folder: Path, method: str, stop: type | None = None, **options: Any) -> object:
    """A tiny run, until the first event of a kind; no more than three iterations."""

    def watch(event: fastdc.callbacks.Event) -> None:
        if (stop is not None and isinstance(event, stop)) or getattr(event, "iteration", 0) > 3:
            raise fastdc.errors.RunError(f"{folder} is left here.")

    given: dict[str, Any] = {"method": method, "model": "convnet:width=8,depth=1", "iterations": 2, "batch_real": 2, "callbacks": [watch]}
    if method == "dc":
        given |= {"matching_steps": 2, "model_epochs": 1}
    return fastdc.condense(_DATA, 1, out=folder, progress=False, **given | options)


_AS_MADE: dict[Path, bytes] = {}


def make_run(name: str, folder: Path, method: str = "dc", **options: Any) -> list[Path]:
    """A run after its first checkpoint."""
    with contextlib.suppress(fastdc.errors.RunError):
        condense(folder, method, fastdc.callbacks.CheckpointWritten, **options)
    file = folder / name
    if "budget" in options:
        file.write_text(re.sub('"iterations": [0-9]+', '"iterations": 2', file.read_text()))
    _AS_MADE[file] = file.read_bytes()
    return [file]


def read_checkpoint(file: Path, method: str = "dc") -> object:
    """By the loader, which is quick; and where that takes it, by the run."""
    tensors = load_safetensors(_AS_MADE[file])
    moments, learned = ({k.partition(".")[2]: v for k, v in tensors.items() if k.startswith(g)} for g in ("moments.", "learned."))
    weights = len(tensors["theta"]) if "theta" in tensors else 1
    load_checkpoint(file, State(tensors["stored"], moments, learned=learned), weights)
    load_images(file)
    return condense(file.parent, method)


def read_config(file: Path, **options: Any) -> object:
    """By what compares configurations; and where that takes it, by the run."""
    made, folder = json.loads(_AS_MADE[file]), RunFolder(file.parent)
    if options:  # planned; anew where it is no number, which takes longer
        known = folder.recorded("iterations")
        made["config"]["iterations"] = known if type(known) is int and known > 0 else 0
    folder.check_config(made["config"], made, "iterations")
    return condense(file.parent, "dc", **options)


def make_metrics(folder: Path) -> list[Path]:
    condense(folder, "dc")
    return [folder / "metrics.jsonl"]


def read_metrics(file: Path) -> object:
    seconds = proxy_sets._logged_seconds(file)
    RunFolder(file.parent).restore(lambda path: 50)
    RunFolder(file.parent).loss(2)
    return seconds


def make_curve(folder: Path) -> list[Path]:
    point = {"accuracies": [0.5, 0.25], "protocol": "dc", "epochs": 2, "precision": "float32", "mean": 0.375, "std": 0.125}
    (folder / "curve.jsonl").write_text("".join(json.dumps({"iteration": iteration, **point}) + "\n" for iteration in (2, 4)))
    return [folder / "curve.jsonl"]


def make_reported(folder: Path) -> list[Path]:
    """A run whose images were tested."""
    condense(folder, "dc")
    found = {"accuracies": [0.5, 0.6], "protocol": "dc", "epochs": 1, "confusion": [[9, 1], [8, 2]], "images": 2, "stored": 2}
    content = {"protocol": "dc", "model": "mlp", "networks": 2, "epochs": None, "seed": 0, "results": {"condensed": found, "random": found}}
    (folder / "evaluation.json").write_text(json.dumps(content))
    return [folder / "config.json", folder / "evaluation.json"]


_WHOLE_SET = {"model": "mlp:width=2", "epochs": 1, "progress": False}


def make_network(folder: Path) -> list[Path]:
    train_on_whole_set(_DATA, WholeSetOptions(cache=folder, **_WHOLE_SET))
    return sorted(folder.iterdir())


def read_network(file: Path) -> object:
    return train_on_whole_set(_DATA, WholeSetOptions(cache=file.parent, **_WHOLE_SET))


@functools.cache
def continual(folder: Path) -> ContinualRunner:
    config = ContinualConfig(memories=("random",), distill=(False,), ipc=1, model="mlp:width=2", progress=False)
    return ContinualRunner([(_DATA, _DATA)] * 2, config, folder)


def make_stage(folder: Path) -> list[Path]:
    runner = continual(folder)
    file = runner._file(Run("random", 0), False, 0)
    file.parent.mkdir(parents=True)
    network = fastdc.models.build("mlp:width=2", 1, 2, (4, 4))
    save_tensors(file, STAGE, network.state_dict(), {"accuracies": [0.5]})
    return [file]


def read_stage(file: Path) -> object:
    runner, run = continual(file.parents[3]), Run("random", 0)
    return runner._read_network(run, False, 0), runner._read_accuracies(run, False, 0)


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "cell.json": job._as_outcome,
    "skipped.json": job._as_outcome,
    "trial.json": trial._as_outcome,
    "made.json": lambda content: finite_number(content, "seconds"),
}


def make_outcomes(folder: Path) -> list[Path]:
    contents: tuple[Any, ...] = (
        {"accuracies": [0.5, 1.0], "protocol": "paper", "epochs": 3, "mean": 0.75},
        {"skipped": "too small"},
        {"model": "mlp", "accuracy": 0.5, "seconds": 1.5},
        {"proxy": "dc", "seconds": 1},
    )
    for name, content in zip(_PARSERS, contents, strict=True):
        (folder / name).write_text(json.dumps(content))
    return sorted(folder.iterdir())


def make_options(folder: Path) -> list[Path]:
    (folder / "options.json").write_text(json.dumps(OPTIONS))
    lines = (f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in OPTIONS.items())
    (folder / "options.toml").write_text("".join(lines))
    return sorted(folder.iterdir())


def make_pt(zipped: bool, folder: Path) -> list[Path]:
    for name, content in {
        "pair": [IMAGES, LABELS],
        "dc": {"data": [[IMAGES, LABELS]] * 2, "accs_all_exps": {"a": [np.float64(0.5)]}},
        "soft": {"images": IMAGES, "labels": SHARES},
    }.items():
        torch.save(content, folder / f"{'zip' if zipped else 'old'}-{name}.pt", _use_new_zipfile_serialization=zipped)
    return sorted(folder.iterdir())


def read_exchanged(file: Path) -> object:
    return fastdc.CondensedDataset.load(file, **_SCALE)


def make_images_npz(folder: Path) -> list[Path]:
    np.savez(folder / "a.npz", images=IMAGES.numpy(), labels=LABELS.numpy())
    np.savez_compressed(folder / "b.npz", x=(IMAGES * 255).byte().permute(0, 2, 3, 1).numpy(), y=SHARES.numpy())
    return sorted(folder.iterdir())


def make_npz(folder: Path) -> list[Path]:
    labels = np.arange(10) % 2
    np.savez(folder / "a.npz", x_train=_PIXELS, y_train=labels, x_test=_PIXELS, y_test=labels)
    names = np.array(["ant", "bee"])[labels]
    np.savez_compressed(
        folder / "b.npz", train_images=_PIXELS[:, 0] / 255, train_labels=labels, test_images=_PIXELS[:, 0] / 255, test_labels=labels
    )
    np.savez(folder / "c.npz", x_train=_PIXELS, y_train=names, x_test=_PIXELS, y_test=names)
    return sorted(folder.iterdir())


def make_shards(folder: Path) -> list[Path]:
    for half, format in (("train", tarfile.USTAR_FORMAT), ("test", tarfile.PAX_FORMAT)):
        with tarfile.open(folder / f"{half}.tar", "w", format=format) as shard:
            for number in range(4):
                for suffix, content in (("png", picture_bytes("png", number)), ("cls", str(number % 2).encode())):
                    info = tarfile.TarInfo(f"{'long/' * 30 * (number == 3)}{number}.{suffix}")
                    info.size = len(content)
                    shard.addfile(info, io.BytesIO(content))
    return sorted(folder.iterdir())


def make_idx(dataset: str, suffix: str, folder: Path) -> list[Path]:
    raw = folder / dataset / "raw"
    raw.mkdir(parents=True)
    for half in ("train", "t10k"):
        for stem, array in (("images-idx3-ubyte", _PIXELS[:, 0]), ("labels-idx1-ubyte", np.arange(10, dtype=np.uint8))):
            content = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
            (raw / f"{half}-{stem}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return sorted(raw.iterdir())


_PLANNED = {"iterations": None, "budget": "1s"}
FORMATS: dict[str, Format] = {
    "condensed": Format(make_condensed, use_condensed, altered_safetensors),
    "checkpoint": Format(functools.partial(make_run, "checkpoint.safetensors"), read_checkpoint, altered_safetensors),
    "checkpoint-dd": Format(
        functools.partial(make_run, "checkpoint.safetensors", method="dd"),
        functools.partial(read_checkpoint, method="dd"),
        altered_safetensors,
    ),
    "config": Format(functools.partial(make_run, "config.json"), read_config, altered_json),
    "planned": Format(functools.partial(make_run, "config.json", **_PLANNED), functools.partial(read_config, **_PLANNED), altered_json),
    "metrics": Format(make_metrics, read_metrics, altered_lines),
    "curve": Format(make_curve, fastdc.callbacks.read_curve, altered_lines),
    "report": Format(make_reported, lambda file: write_report(file.parent), altered_json),
    "network": Format(make_network, read_network, altered_safetensors, ()),
    "stage": Format(make_stage, read_stage, altered_safetensors),
    "outcome": Format(make_outcomes, lambda file: read_outcome(file, _PARSERS[file.name]), altered_json),
    "options": Format(make_options, lambda file: parse(COMMANDS, ["condense", "--config", str(file)], ""), altered_options),
    "pt": Format(functools.partial(make_pt, True), read_exchanged, altered_pt),
    "pt-legacy": Format(functools.partial(make_pt, False), read_exchanged, altered_pt),
    "npz-condensed": Format(make_images_npz, read_exchanged, altered_npz),
    "npz": Format(make_npz, lambda file: fastdc.load_dataset(f"npz:{file}"), altered_npz),
    "shards": Format(make_shards, lambda file: fastdc.load_dataset(f"shards:{file.parent}")),
    "idx": Format(
        functools.partial(make_idx, "FashionMNIST", ""), lambda file: fastdc.load_dataset("fashion-mnist", file.parents[2]), altered_idx
    ),
    "idx.gz": Format(
        functools.partial(make_idx, "FashionMNIST", ".gz"), lambda file: fastdc.load_dataset("fashion-mnist", file.parents[2]), altered_idx
    ),
    "mnist": Format(functools.partial(make_idx, "MNIST", ""), lambda file: fastdc.load_dataset("mnist", file.parents[2]), altered_idx),
    "from_folder": Format(
        functools.partial(make_pictures, "png"), lambda file: fastdc.CondensedDataset.load(file.parent.parent), altered_png
    ),
    **{
        suffix: Format(functools.partial(make_pictures, suffix), read_pictures, altered_png if suffix == "png" else None)
        for suffix in _PICTURES
        if suffix not in ("webp", "avif", "jp2") or features.check({"jp2": "jpg_2000"}.get(suffix, suffix))
    },
}

# The driver


@dataclass
class Result:
    """What the mutations of one format came to."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: dict[int, str] = field(default_factory=dict)
    slowest: tuple[float, int] = (0.0, -1)
    growth: int = 0

    def __str__(self) -> str:
        said = ", ".join(f"{name} {count}" for name, count in sorted(self.outcomes.items()))
        slowest = f"slowest {self.slowest[0]:.2f} s (number {self.slowest[1]})"
        return f"{self.outcomes.total():6d} mutations: {said}; {slowest}; memory grew by {self.growth >> 10} MB; {len(self.faults)} faults"


class Hang(BaseException):
    """A mutation took longer than the limit."""


def mutation(format: Format, name: str, number: int, seed: int, good: dict[Path, bytes]) -> tuple[Path, bytes]:
    """The file that mutation `number` alters, and its new content."""
    rng = Random(f"{seed} {name} {number}")
    file, other = rng.choice(list(good)), rng.choice(list(good.values()))
    content = good[file]
    if format.structured is not None and rng.random() < 0.6:
        with contextlib.suppress(Exception), warnings.catch_warnings():  # what cannot be written is no file
            warnings.simplefilter("ignore")
            return file, format.structured(rng, content, file.name)
    return file, altered(rng, content, other)


def fuzz(name: str, numbers: Sequence[int], seed: int = 0, limit: float = 2.0, kept: Path | None = None, megabytes: int = 1000) -> Result:
    """Read the mutations of one format, in processes apart; the next goes on after one that has died.

    Args:
        name: of the format.
        numbers: of the mutations.
        seed: of all.
        limit: seconds of the processor that one may take; and ten times as many by the clock.
        kept: a folder for what a fault was found with.
        megabytes: that the memory may grow by.
    """
    format, result = FORMATS[name], Result()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        work = Path(place).resolve() / "work"
        for folder in (work, work.parent / "home", work.parent / "canary"):
            folder.mkdir()
        (work.parent / "canary" / "file").write_text("as it was")
        files = format.make(work)
        good = {file: file.read_bytes() for file in files}
        everything = {file: file.read_bytes() for file in work.rglob("*") if file.is_file()}
        for file in files:
            _restore(work, everything)
            with contextlib.suppress(fastdc.errors.RunError), warnings.catch_warnings():  # a run that was left
                warnings.simplefilter("ignore")
                format.read(file)  # as it is; what is imported and kept when it is first used, the processes have already
        left = list(numbers)
        while left:
            with tempfile.TemporaryFile("w+b", buffering=0) as report, tempfile.TemporaryFile("w+") as trace:
                child = os.fork()
                if not child:
                    with contextlib.suppress(BaseException):
                        _Worker(format, work, everything, limit, megabytes, report, trace).run(name, left, seed, good)
                    os._exit(0)
                status = os.waitpid(child, 0)[1]
                report.seek(0)
                lines = [json.loads(line) for line in report.read().splitlines()]
                trace.seek(0)
                last = " ".join(trace.read().split())[:600]
            for number, outcome, fault, seconds, growth in lines:
                result.outcomes[outcome] += 1
                result.slowest, result.growth = max(result.slowest, (seconds, number)), max(result.growth, growth)
                if fault is not None:
                    result.faults[number] = fault
            left = left[len(lines) :]
            if left and (not lines or lines[-1][2] is None or status):  # the next has ended the process
                code = os.waitstatus_to_exitcode(status)
                how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
                result.faults[left[0]] = f"the process died of it ({how}): {last}"
                result.outcomes["died"] += 1
                left = left[1:]
        for number in result.faults if kept is not None else ():
            file, content = mutation(format, name, number, seed, good)
            kept.mkdir(parents=True, exist_ok=True)
            (kept / f"{name}-{number}-{file.name}").write_bytes(content)
    return result


class _Worker:
    """A process that reads mutations, and tells of each in a line: number, outcome, fault, seconds, growth of memory in KB."""

    def __init__(
        self, format: Format, work: Path, everything: dict[Path, bytes], limit: float, megabytes: int, report: Any, trace: Any
    ) -> None:
        self.format, self.work, self.everything, self.limit, self.report, self.trace = format, work, everything, limit, report, trace
        self.most, self.parent, self.strays = megabytes << 10, os.getppid(), list[str]()
        silent = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(silent, descriptor)
        os.environ["HOME"] = str(work.parent / "home")
        os.chdir(work.parent / "canary")
        tempfile.tempdir = str(work)
        sys.dont_write_bytecode = True
        os.fsync = lambda descriptor: None  # type: ignore[assignment]  # there is no power cut here
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        memory = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (memory + 8 * megabytes * MEGABYTES,) * 2)
        signal.signal(signal.SIGPROF, self._hang)

    def run(self, name: str, numbers: Sequence[int], seed: int, good: dict[Path, bytes]) -> None:
        """Read these, until one has made the memory grow too far."""
        _restore(self.work, self.everything)
        sys.addaudithook(self._audit)
        before, start = self._outside(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in numbers:
            file, content = mutation(self.format, name, number, seed, good)
            file.write_bytes(content)
            del content
            self.strays.clear()
            outcome, fault, seconds = self._read(file)
            growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
            if (after := self._outside()) != before:
                self.strays.append(f"changed outside: {set(after.items()) ^ set(before.items())}")
            if self.strays:
                fault = fault or f"{self.strays[0]}"[:300]
            if growth > self.most:
                fault = fault or f"memory grew by {growth >> 10} MB"
            _restore(self.work, self.everything)
            self.report.write(json.dumps([number, outcome, fault, seconds, growth]).encode() + b"\n")
            if growth > self.most or after != before or os.getppid() != self.parent:
                return

    def _read(self, file: Path) -> tuple[str, str | None, float]:
        """Outcome, fault and seconds."""
        started, outcome, fault = time.process_time(), "read", None
        faulthandler.dump_traceback_later(10 * self.limit, exit=True, file=self.trace)  # for what waits, or computes without Python
        signal.setitimer(signal.ITIMER_PROF, self.limit)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.format.read(file)
        except self.format.errors as error:
            outcome, text = type(error).__name__, str(error)
            if str(self.work) not in text or "\n" in text or len(text) > 1500 or not text.isprintable():
                fault = f"{outcome} that names no file, is too long or no line: {text!r:.300}"
        except Hang:
            outcome, fault = "hang", f"takes longer than {self.limit} s of the processor: {_where()}"
        except BaseException as error:
            outcome, fault = "fault", f"{type(error).__name__}: {str(error)!r:.200} {_where()}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.cancel_dump_traceback_later()
        return outcome, fault, time.process_time() - started

    def _hang(self, signum: int, frame: Any) -> None:
        raise Hang

    def _outside(self) -> dict[str, tuple[int, int]]:
        """Size and time of all files beside the folder."""
        found = {}
        for parent, folders, names in os.walk(self.work.parent):
            folders[:] = [name for name in folders if Path(parent, name) != self.work]
            for name in names + folders:
                status = os.lstat(os.path.join(parent, name))
                found[os.path.join(parent, name)] = (status.st_size, status.st_mtime_ns)
        return found

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pickle.find_class"):
            self.strays.append(f"{event} {arguments}")
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"):
            for path in arguments[:2] if event == "os.rename" else arguments[:1]:
                where = os.path.abspath(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else None
                if where is not None and not (where + "/").startswith(f"{self.work}/") and where != os.devnull:
                    self.strays.append(f"{event} of {where}")


def _restore(work: Path, everything: dict[Path, bytes]) -> None:
    """The folder as it was."""
    for path in sorted(work.rglob("*"), reverse=True):
        if path not in everything and (path.is_symlink() or not path.is_dir()):
            path.unlink()
    for path, content in everything.items():
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _where() -> str:
    """The lines of the last calls, those of fastdc first."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    own = [frame for frame in frames if "/fastdc/" in frame.filename][-2:]
    return "at " + ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in (*own, *frames[-1:]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns how many faults were found, 100 at most."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mutations", type=int, default=100_000, help="of all formats together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--only", type=int, help="one mutation alone, by its number")
    parser.add_argument("--limit", type=float, default=2.0, help="seconds of the processor that a mutation may take")
    parser.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir()) / "fastdc-fuzz", help="where files of faults are kept")
    given = parser.parse_args(arguments)
    each, faults = -(-given.mutations // len(given.formats)), 0
    for name in given.formats:
        numbers = range(each) if given.only is None else [given.only]
        started, result = time.monotonic(), fuzz(name, numbers, given.seed, given.limit, given.kept)
        print(f"{name:<14} {result}, {time.monotonic() - started:.0f} s", flush=True)
        for number, fault in list(result.faults.items())[:200]:
            print(f"FAULT {name} {number}: {fault}", flush=True)
        faults += len(result.faults)
    if faults:
        print(f"{faults} faults; their files are in {given.kept}")
    return min(faults, 100)


if __name__ == "__main__":
    sys.exit(main())
