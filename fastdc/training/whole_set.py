"""A network trained on the whole set, by which coresets choose and with which the pool `pretrained` matches; trained once, then kept.

Training is that of the paper's evaluation (`fastdc.training.schedule`), without augmentation, batch by batch
(`fastdc.training.by_batch`); or, `augmented`, that of Kim et al. (ICML 2022), each batch changed by color, crop and CutMix.

The weights of a network that has a name are kept in a file called after the hash of all that decides them. A file that is
damaged, or holds something else, is made anew. A user's function has no name that says what it makes: its networks are not kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdc.data import ImageData
from fastdc.data.sources.named import DEFAULT_ROOT
from fastdc.engines import Augmentation, Engine, Sgd, make_engine, resolve_engine
from fastdc.engines.gather_normalise import near
from fastdc.errors import DataError, RunError, UsageError
from fastdc.models import ModelFactory
from fastdc.models.network import NetworkFamily
from fastdc.models.registry import describe
from fastdc.options.checks import check_count
from fastdc.parallel.devices import resolve_device, to_device
from fastdc.runs.content import finite, finite_number, finite_numbers, reading, tensor_like
from fastdc.runs.files import load_tensors, remove_left_over, save_tensors
from fastdc.runs.progress import progress_bar
from fastdc.runtime.isolation import isolated
from fastdc.runtime.seeding import check_seed, derive_seed
from fastdc.training.augment import training_augmentation
from fastdc.training.by_batch import logits_by_block, train_by_batch, whole_batches
from fastdc.training.forgetting_events import forgetting_events
from fastdc.training.schedule import idc_training, paper_training

EPOCHS = 20
DEFAULT_CACHE = DEFAULT_ROOT.parent / "networks"
KIND = "network trained on the whole set"
_FORMAT = 4  # of the training: a change of what it gives needs another number
_OPERATIONS, _CUTMIX = ("color", "crop"), 0.5  # of a training that is augmented
_FEW, _MEASURED = 3, 1.0  # steps at least, and seconds, by which the time of a training is known
_FORGETTING, _NETWORK = "forgetting", "network."  # names in the file: the counts, and what begins the name of each weight


@dataclass(frozen=True, kw_only=True)
class WholeSetOptions:
    """How a network is trained on the whole set, and where it is kept."""

    model: str | ModelFactory = "convnet"
    """A name, or a function (channels, num_classes, (height, width)) -> nn.Module."""
    epochs: int = EPOCHS
    """Epochs of training; the learning rate drops after half of them."""
    augmented: bool = False
    """Batches of 64, changed by color and crop and, one in two, by CutMix; the learning rate drops after two thirds."""
    seed: int = 0
    """Decides initial weights and the order of batches."""
    engine: str = "auto"
    """Who trains: auto, native, cuda, torch or reference."""
    device: str = "auto"
    """Where: auto, cpu, cuda or cuda:N."""
    cache: str | Path | None = None
    """The folder where networks are kept; None: ~/.cache/fastdc/networks."""
    progress: bool = True
    """Say on stderr how far the work is."""

    @property
    def network_seed(self) -> int:
        """The seed of the initial weights, in a family of networks of this model."""
        return derive_seed(self.seed, "whole set network")

    @property
    def phases(self) -> list[Sgd]:
        """The SGD of the training."""
        return idc_training(self.epochs) if self.augmented else paper_training(self.epochs)

    @property
    def augmentation(self) -> Augmentation | None:
        """What is done to each batch."""
        return training_augmentation(_OPERATIONS, "image", _CUTMIX) if self.augmented else None

    def check(self) -> None:
        """Raise a UsageError where a number or the folder cannot be used; names are checked where they are used."""
        check_count("epochs", self.epochs)
        check_seed(self.seed)
        if not isinstance(self.cache, str | Path | None):
            raise UsageError(f"cache is {self.cache!r}; expected the path of a folder, or None.")


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A network trained on the whole set, with the record of its training."""

    module: nn.Module
    """The network after its last epoch, ready to classify."""
    origin: dict[str, Any]
    """All that decided its weights, as plain types."""
    losses: tuple[float, ...]
    """The mean cross-entropy over the whole set after each epoch."""
    accuracies: tuple[float, ...]
    """The accuracy on the whole set after each epoch, a fraction of 1."""
    forgetting: Tensor
    """How often each image was forgotten from one epoch to the next, float64 [N]; infinity where it was never right."""
    seconds: float
    """What the training took when it was done."""


@isolated()
def train_on_whole_set(real: ImageData, options: WholeSetOptions) -> TrainedNetwork:
    """Train a network on all images of `real`, or take it from the cache.

    After each epoch the network classifies the whole set, which gives the loss, the accuracy and what it has forgotten.

    Args:
        real: the training set.
        options: model, epochs, seed, engine, device, cache and progress.

    Raises:
        UsageError: an option that cannot be used.
        RunError: a weight is not finite.

    Example:
        >>> from fastdc import load_dataset
        >>> from fastdc.models import build
        >>> options = WholeSetOptions(model=lambda *shape: build("mlp:width=32", *shape), epochs=4)
        >>> network = train_on_whole_set(load_dataset("digits")[0], options)
        >>> network.forgetting.shape, network.losses[0] > network.losses[3]
        (torch.Size([1437]), True)
    """
    wanted = _Wanted(real, options)
    if (kept := wanted.kept()) is not None:
        return kept
    trained = wanted.training().result(wanted.origin)
    if wanted.file is not None:
        _write(wanted.file, trained)
    return trained


def is_kept(real: ImageData, options: WholeSetOptions) -> bool:
    """Whether `train_on_whole_set` finds the network in the cache."""
    return _Wanted(real, options).kept() is not None


def seconds_of_training(real: ImageData, options: WholeSetOptions) -> float:
    """The seconds that training the network takes, from a few steps; nothing is written."""
    return _Wanted(real, options).training().seconds()


def seconds_of_kept(cache: Path) -> float:
    """The seconds that the trainings took whose networks are kept in a folder; a damaged file counts nothing."""
    total = 0.0
    for file in cache.glob("*.safetensors"):
        with contextlib.suppress(DataError), reading(file, f"a {KIND}"):
            total += finite_number(load_tensors(file, KIND)[1], "seconds")
    return total


class _Wanted:
    """A network that is asked for: all that decides its weights, `origin`, and the file where it is or will be kept."""

    def __init__(self, real: ImageData, options: WholeSetOptions) -> None:
        options.check()
        self.real, self.options, where = real, options, resolve_device(options.device)
        self.family = NetworkFamily(options.model, real.channels, real.num_classes, real.image_size, where)
        module = self.family.fresh(options.network_seed)
        self.engine = resolve_engine(options.engine, module)
        self.origin = _origin(real, options, self.engine, module)
        self.file = _file(options, self.origin)

    def kept(self) -> TrainedNetwork | None:
        """The network from its file, where that is there and whole."""
        if self.file is None:
            return None
        return _read(self.file, self.origin, self.family.fresh(self.options.network_seed), len(self.real), self.options.epochs)

    def training(self) -> _Training:
        """Its training, before the first step."""
        return _Training(self.real, make_engine(self.engine, self.family.fresh(self.options.network_seed)), self.family, self.options)


class _Training:
    """One training on the whole set, by whatever engine."""

    def __init__(self, real: ImageData, engine: Engine, family: NetworkFamily, options: WholeSetOptions) -> None:
        self.engine, self.family, self.options = engine, family, options
        self.theta = engine.layout.flatten(engine.module)  # [P]
        self.real = near(real, self.theta.device)
        self.losses: list[float] = []
        self.accuracies: list[float] = []

    def result(self, origin: dict[str, Any]) -> TrainedNetwork:
        """Train, classify after each epoch, and put the weights into the module."""
        started, phases = time.monotonic(), self.options.phases
        steps = self.options.epochs * math.ceil(len(self.real) / phases[0].batch)
        with progress_bar(steps, "training on the whole set", "batch", shown=self.options.progress) as bar:
            forgetting = forgetting_events(self._classified(epoch, bar) for epoch, _ in enumerate(self._epochs(phases, bar), 1))
        module = self.engine.module
        self.engine.layout.assign(module, self.theta)
        return TrainedNetwork(module, origin, tuple(self.losses), tuple(self.accuracies), forgetting, time.monotonic() - started)

    def seconds(self) -> float:
        """What `result` will take, from a few steps and a few blocks of images that are classified."""
        phases, count = self.options.phases, len(self.real)
        batches = itertools.cycle([min(phases[0].batch, count - start) for start in range(0, count, phases[0].batch)])
        step = self._seconds_of_image(images for images, _ in zip(batches, self._steps(phases), strict=False))
        block = self._seconds_of_image(len(logits) for _, logits in logits_by_block(self.engine, self.theta, self.real))
        return self.options.epochs * count * (step + block)

    def _seconds_of_image(self, work: Iterator[int]) -> float:
        """The seconds that an image takes of work that gives how many it has done, without the first of them, which makes ready; of a
        single one its own."""
        began = time.monotonic()
        first = next(work)
        self.theta.sum().item()  # which waits for a GPU
        ready, count = time.monotonic(), 0
        for number, images in enumerate(work, 1):
            count += images
            if number >= _FEW and time.monotonic() - ready > _MEASURED:
                break
        self.theta.sum().item()
        return (time.monotonic() - ready) / count if count else (ready - began) / first

    def _steps(self, phases: list[Sgd]) -> Iterator[None]:
        """Train theta; one item after each step."""
        fetch, seed, augment = whole_batches(self.real, self.theta), self.options.seed, self.options.augmentation
        count = len(self.real)
        return train_by_batch(self.engine, self.family, self.theta, count, fetch, phases, seed, "whole set", augment=augment)

    def _epochs(self, phases: list[Sgd], bar: Any) -> Iterator[None]:
        """Train theta; one item after each epoch."""
        for step, _ in enumerate(self._steps(phases), 1):
            bar.update()
            if step % math.ceil(len(self.real) / phases[0].batch) == 0:
                yield

    def _classified(self, epoch: int, bar: Any) -> Tensor:
        """Whether each image is classified rightly, bool [N]; takes note of loss and accuracy."""
        if not torch.isfinite(self.theta).all():
            raise RunError(f"a weight of the network is not finite after epoch {epoch} on the whole set; choose another model or seed.")
        right, losses = [], []
        for block, logits in logits_by_block(self.engine, self.theta, self.real):
            labels = to_device(self.real.labels[block], self.theta.device)
            right.append(logits.argmax(1) == labels)
            losses.append(F.cross_entropy(logits, labels, reduction="sum"))
        result = torch.cat(right).cpu()
        self.losses.append(math.fsum(torch.stack(losses).tolist()) / len(self.real))
        self.accuracies.append(result.double().mean().item())
        bar.set_postfix(loss=f"{self.losses[-1]:.4g}", accuracy=f"{100 * self.accuracies[-1]:.1f}%", refresh=False)
        return result


def _origin(real: ImageData, options: WholeSetOptions, engine: str, module: nn.Module) -> dict[str, Any]:
    weight = next(module.parameters())
    return {
        "format": _FORMAT,
        "fingerprint": real.fingerprint,
        "num_classes": real.num_classes,
        "model": describe(options.model),
        "epochs": options.epochs,
        "seed": options.seed,
        "training": [dataclasses.asdict(phase) for phase in options.phases],
        **({"augmentation": [*_OPERATIONS, _CUTMIX]} if options.augmented else {}),
        "engine": engine,
        "device": weight.device.type,
        "dtype": str(weight.dtype),
    }


def _file(options: WholeSetOptions, origin: dict[str, Any]) -> Path | None:
    if not isinstance(options.model, str):
        return None
    name = hashlib.blake2b(json.dumps(origin, sort_keys=True).encode(), digest_size=16).hexdigest()
    return Path(options.cache if options.cache is not None else DEFAULT_CACHE).expanduser() / f"{name}.safetensors"


def _read(file: Path, origin: dict[str, Any], module: nn.Module, images: int, epochs: int) -> TrainedNetwork | None:
    """The network of this origin, trained on so many images for so many epochs, its weights put into `module`; None where there is no
    such file, or a damaged one."""
    try:
        tensors, content = load_tensors(file, KIND)
        with reading(file, f"a {KIND}"):
            if content["origin"] != origin:
                return None
            forgetting = tensor_like(tensors, _FORGETTING, torch.zeros(images, dtype=torch.float64))
            losses = finite_numbers(content, "losses", count=epochs)
            accuracies = finite_numbers(content, "accuracies", most=1.0, count=epochs)
            seconds = finite_number(content, "seconds")
            weights = {name.removeprefix(_NETWORK): finite(value, name) for name, value in tensors.items() if name != _FORGETTING}
            module.load_state_dict(weights)
    except DataError:
        return None
    return TrainedNetwork(module.eval(), origin, losses, accuracies, forgetting, seconds)


def _write(file: Path, network: TrainedNetwork) -> None:
    """Keep the network; where that cannot be done, the work goes on without."""
    weights = {_NETWORK + name: tensor for name, tensor in network.module.state_dict().items()}
    content = {"origin": network.origin, "losses": network.losses, "accuracies": network.accuracies, "seconds": network.seconds}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        remove_left_over(file.parent)
        save_tensors(file, KIND, {_FORGETTING: network.forgetting, **weights}, content)
    except (OSError, RunError) as error:
        warnings.warn(f"the network trained on the whole set cannot be kept and will be trained again next time: {error}", stacklevel=2)
