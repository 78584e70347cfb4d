"""The command line: fastdc condense | select | evaluate | show | table | continual | search | info | selfcheck."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import tyro

from fastdc.applications.continual.command import Continual
from fastdc.applications.search.command import SearchCommand
from fastdc.arguments import Common as _Common
from fastdc.arguments import parse
from fastdc.callbacks import Callback, Evaluated, TensorBoard
from fastdc.checks import check_count
from fastdc.condense import condense
from fastdc.condensed import CondensedDataset
from fastdc.config import CondenseConfig
from fastdc.coresets import SELECTIONS
from fastdc.coresets.whole_set import EPOCHS
from fastdc.data import ImageData, load_dataset
from fastdc.devices import resolve_device
from fastdc.errors import FastdcError, Interrupted, RunError, UsageError, unknown_name
from fastdc.evaluate import Evaluation, evaluate
from fastdc.info import report, versions
from fastdc.models.paper import evaluation_model
from fastdc.run import open_run
from fastdc.selfcheck import HEADER, selfcheck, unusable
from fastdc.storage import write_atomically
from fastdc.tables.command import Table

_BASELINES = (*SELECTIONS, "none")
_DESCRIPTION = "Dataset condensation with gradient matching: a few images per class that stand in for a training set."


@dataclass(frozen=True, kw_only=True)
class Condense(CondenseConfig, _Common):
    """Learn a few images per class that stand in for a dataset, evaluate them, and write them with a picture.

    The same command again continues an interrupted run.
    """

    dataset: str = "digits"
    """digits, mnist, fashion-mnist, svhn, cifar10, cifar100, usps, folder:PATH or npz:PATH."""
    data_root: str | None = None
    """Where datasets are kept and downloaded to; None: ~/.cache/fastdc/data."""
    out: str | None = None
    """Folder for the result and all that belongs to it; None: runs/DATASET-ipcN."""
    networks: int = 5
    """Networks to train and test on the result."""
    epochs: int | None = None
    """Epochs of training each of them; None: the paper's 300, and 1000 on mnist."""
    baseline: str = "random"
    """What to evaluate beside the result: as many real images chosen by random, herding, k_center or forgetting (by the network
    of --model), or none."""
    tensorboard: bool = False
    """Write TensorBoard events into the folder of the run."""

    def run(self) -> None:
        """Condense, evaluate, report."""
        _check_baseline(self.baseline)
        check_count("networks", self.networks)
        check_count("epochs", self.epochs, optional=True)
        train, test = load_dataset(self.dataset, self.data_root)
        out = _folder(self.out, f"{self.dataset}-ipc{self.ipc}")
        callbacks: list[Callback] = [TensorBoard(out / "tensorboard")] if self.tensorboard else []
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(CondenseConfig)}
        tested = evaluation_model(self.model)  # VGG and ResNet learn images with batch norm and are tested with instance norm
        protocol = _Protocol(tested, self.networks, self.epochs, self.seed, self.engine, self.device)
        CondenseConfig(**options).resolved()  # what cannot be used is refused before a baseline takes its time
        baseline = _baseline(self.baseline, train, self.ipc, protocol, self.quiet)
        condensed = condense(train, **options, out=out, callbacks=callbacks, progress=not self.quiet)
        evaluations = _evaluate_all({"condensed": condensed, **baseline}, test, protocol, self.quiet, callbacks)
        content = {"dataset": train.name, **dataclasses.asdict(protocol), "results": {k: _as_json(v) for k, v in evaluations.items()}}
        write_atomically(out / "evaluation.json", (json.dumps(content, indent=2) + "\n").encode())
        print(f"written to {out}")


@dataclass(frozen=True, kw_only=True)
class Select(_Common):
    """Choose a few real images per class, and write them with a picture; `fastdc evaluate` tests them."""

    coreset: str
    """How: random, herding, k_center or forgetting."""
    ipc: int
    """Images per class to choose."""
    dataset: str = "digits"
    """digits, mnist, fashion-mnist, svhn, cifar10, cifar100, usps, folder:PATH or npz:PATH."""
    data_root: str | None = None
    """Where datasets are kept and downloaded to; None: ~/.cache/fastdc/data."""
    out: str | None = None
    """Folder for the result; None: runs/DATASET-CORESET-ipcN."""
    features: str = "network"
    """For herding and k_center: network (what its last linear layer reads), or pixels."""
    model: str = "convnet"
    """Network to train on the whole set, for the features or to see what it forgets."""
    epochs: int = EPOCHS
    """Epochs of training it."""
    seed: int = 0
    """Decides random choices, initial weights and the order of batches."""
    engine: str = "auto"
    """Who trains: auto, native, torch or reference."""
    device: str = "auto"
    """Where: auto, cpu, cuda or cuda:N."""
    cache: str | None = None
    """Folder where trained networks are kept; None: ~/.cache/fastdc/networks."""

    def run(self) -> None:
        """Choose, write."""
        if self.coreset not in SELECTIONS:
            raise unknown_name("coreset", self.coreset, SELECTIONS)
        options, surplus = self._options()
        if surplus:
            raise UsageError(f"coreset {self.coreset!r} takes no {', '.join(surplus)}; leave it out, or choose another coreset.")
        train, _ = load_dataset(self.dataset, self.data_root)
        config = {"dataset": train.name, "coreset": self.coreset, **options}
        origin = {"fingerprint": train.fingerprint, **versions()}
        with open_run(_folder(self.out, f"{self.dataset}-{self.coreset}-ipc{self.ipc}")) as run:
            run.check(config, origin)
            unrecorded = _taken(self.coreset, {"cache": self.cache, "progress": not self.quiet})
            chosen = SELECTIONS[self.coreset](train, **options, **unrecorded)
            run.claim(config, origin)
            chosen.save(run.result)
            chosen.save_grid(run.picture)
        print(chosen)
        print(f"written to {run.path}")

    def _options(self) -> tuple[dict[str, Any], list[str]]:
        """The options that decide the choice; and the names of those given that this coreset does not take."""
        of_any = {name for selection in SELECTIONS.values() for name in inspect.signature(selection).parameters}
        fields = [field for field in dataclasses.fields(self) if field.name in of_any]
        taken = _taken(self.coreset, {field.name: getattr(self, field.name) for field in fields})
        surplus = [field.name for field in fields if field.name not in taken and getattr(self, field.name) != field.default]
        return {name: value for name, value in taken.items() if name != "cache"}, surplus


@dataclass(frozen=True, kw_only=True)
class Evaluate(_Common):
    """Train fresh networks on condensed images alone and test them on real ones."""

    condensed: tyro.conf.Positional[str]
    """A condensed dataset, the folder of a run, or a .pt file of the paper's authors (with --dataset)."""
    dataset: str | None = None
    """What to test on; None: the dataset that was condensed."""
    data_root: str | None = None
    """Where datasets are kept and downloaded to; None: ~/.cache/fastdc/data."""
    model: str = "convnet"
    """Network to train."""
    networks: int = 20
    """How many to train."""
    epochs: int | None = None
    """Epochs of training; None: the paper's 300, and 1000 on mnist."""
    seed: int = 0
    """Decides initial weights and the order of batches."""
    engine: str = "auto"
    """Who computes gradients: auto, native, torch or reference."""
    device: str = "auto"
    """Where: auto, cpu, cuda or cuda:N."""
    baseline: str = "none"
    """What to evaluate beside it: as many real images chosen by random, herding, k_center or forgetting (by the network of
    --model), or none."""

    def run(self) -> None:
        """Evaluate, print."""
        _check_baseline(self.baseline)
        condensed, name = _read_condensed(self.condensed, self.dataset, self.data_root)
        train, test = load_dataset(name, self.data_root)
        protocol = _Protocol(self.model, self.networks, self.epochs, self.seed, self.engine, self.device)
        baseline = _baseline(self.baseline, train, condensed.ipc, protocol, self.quiet)
        _evaluate_all({"condensed": condensed, **baseline}, test, protocol, self.quiet, ())


@dataclass(frozen=True, kw_only=True)
class Show(_Common):
    """Write the picture of a condensed dataset: a row per class."""

    condensed: tyro.conf.Positional[str]
    """A condensed dataset, the folder of a run, or a .pt file of the paper's authors (with --dataset)."""
    out: str | None = None
    """The PNG file to write; None: beside the condensed dataset."""
    dataset: str | None = None
    """For a .pt file: the dataset that it was condensed from, which says how it is normalised."""
    data_root: str | None = None
    """Where datasets are kept and downloaded to; None: ~/.cache/fastdc/data."""

    def run(self) -> None:
        """Write the picture, print what it shows."""
        condensed, _ = _read_condensed(self.condensed, self.dataset, self.data_root, needs_dataset=False)
        out = Path(self.out) if self.out is not None else _condensed_file(self.condensed).with_suffix(".png")
        condensed.save_grid(out)
        print(condensed)
        print(f"written to {out}")


@dataclass(frozen=True, kw_only=True)
class Info(_Common):
    """Print versions, devices, threads, engines, backends, and why one cannot be used."""

    def run(self) -> None:
        """Print the report."""
        print(report())


@dataclass(frozen=True, kw_only=True)
class Selfcheck(_Common):
    """Run every usable backend and engine against the float64 reference here; exit with 1 where an error is too large."""

    device: str = "auto"
    """Where: auto, cpu, cuda or cuda:N."""

    def run(self) -> None:
        """Check, print a row each."""
        device = resolve_device(self.device)
        print(f"fastdc selfcheck on {device}\n{HEADER}")
        missed = 0
        for check in selfcheck(device):
            print(check, flush=True)
            missed += not check.passed
        for line in unusable(device):
            print(line)
        if missed:
            raise RunError(f"{missed} checks missed what is allowed on {device}; please report the table above.")


class _Command(Protocol):
    @property
    def debug(self) -> bool: ...

    def run(self) -> None: ...


COMMANDS: dict[str, Callable[..., _Command]] = {
    "condense": Condense,
    "select": Select,
    "evaluate": Evaluate,
    "show": Show,
    "table": Table,
    "continual": Continual,
    "search": SearchCommand,
    "info": Info,
    "selfcheck": Selfcheck,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 (an error), 2 (usage), 130 or 143 (SIGINT, SIGTERM)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _raise_interrupted)
    debug = "--debug" in given
    try:
        command = parse(COMMANDS, given, _DESCRIPTION)
        debug = command.debug
        command.run()
    except KeyboardInterrupt as stop:
        text = str(stop) or "stopped; the same command again continues from the last checkpoint."
        print(f"fastdc: {text}", file=sys.stderr)
        return 128 + (stop.signum if isinstance(stop, Interrupted) else signal.SIGINT)
    except SystemExit as end:  # --help
        return end.code if isinstance(end.code, int) else 2
    except Exception as error:
        if debug:
            traceback.print_exc()
        elif isinstance(error, FastdcError):
            print(f"fastdc: {error}", file=sys.stderr)
        else:
            first = (str(error).splitlines() or [""])[0]
            print(f"fastdc: {type(error).__name__}: {first}\nThis is a fault of fastdc; --debug shows where.", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def run() -> None:
    """The console script: as `main`, but an interrupted one ends at once, without waiting for networks in training."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if code > 128:
        os._exit(code)
    sys.exit(code)


def _raise_interrupted(signum: int, frame: FrameType | None) -> None:
    raise Interrupted("stopped; the same command again continues from the last checkpoint.", signum)


@dataclass(frozen=True)
class _Protocol:
    model: str
    networks: int
    epochs: int | None
    seed: int
    engine: str
    device: str


def _evaluate_all(
    subjects: Mapping[str, CondensedDataset], test: ImageData, protocol: _Protocol, quiet: bool, callbacks: Sequence[Callback]
) -> dict[str, Evaluation]:
    results = {}
    for subject, images in subjects.items():
        results[subject] = evaluate(images, test, **dataclasses.asdict(protocol), progress=not quiet)
        print(f"{subject:<10}  {results[subject]}", flush=True)
        for callback in callbacks:
            callback(Evaluated(subject, results[subject]))
    return results


def _as_json(evaluation: Evaluation) -> dict[str, Any]:
    return {"accuracies": evaluation.accuracies, "mean": evaluation.mean, "std": evaluation.std}


def _check_baseline(name: str) -> None:
    if name not in _BASELINES:
        raise unknown_name("baseline", name, _BASELINES)


def _baseline(name: str, train: ImageData, ipc: int, protocol: _Protocol, quiet: bool) -> dict[str, CondensedDataset]:
    """What to evaluate beside a condensed set; chosen before long work, so that it cannot fail after it."""
    fewest = int(train.class_counts.min())
    if name == "none" or ipc < 1:
        return {}
    if ipc > fewest:
        raise UsageError(f"ipc is {ipc}, but a class has {fewest} images to choose the baseline from; --baseline none goes without.")
    given = {"model": protocol.model, "seed": protocol.seed, "engine": protocol.engine, "device": protocol.device, "progress": not quiet}
    return {name: SELECTIONS[name](train, ipc, **_taken(name, given))}


def _taken(coreset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the given options that a coreset takes."""
    return {key: given[key] for key in inspect.signature(SELECTIONS[coreset]).parameters if key in given}


def _folder(out: str | None, name: str) -> Path:
    return Path(out if out is not None else f"runs/{re.sub('[^0-9A-Za-z._-]+', '_', name)}")


def _condensed_file(path: str) -> Path:
    return Path(path) / "condensed.safetensors" if Path(path).is_dir() else Path(path)


def _read_condensed(path: str, dataset: str | None, root: str | None, *, needs_dataset: bool = True) -> tuple[CondensedDataset, str]:
    """The condensed dataset at `path`, and the name of the dataset to test it on."""
    file = _condensed_file(path)
    if file.suffix == ".pt":
        if dataset is None:
            raise UsageError(f"{file} does not say how it is normalised; name the dataset that it was condensed from with --dataset.")
        train, _ = load_dataset(dataset, root)
        return CondensedDataset.from_pt(file, mean=train.mean, std=train.std, class_names=train.class_names), dataset
    condensed = CondensedDataset.load(file)
    name = dataset if dataset is not None else condensed.provenance.get("dataset")
    if needs_dataset and name in (None, "data"):
        raise UsageError(f"{file} was made from data without a name; name the dataset to test on with --dataset.")
    return condensed, str(name)


if __name__ == "__main__":
    run()
