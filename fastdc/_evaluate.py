"""Evaluation: train fresh networks on the condensed images alone, by a protocol, and test them on real ones."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fastdc.condensed import CondensedDataset
from fastdc.data import ImageData, as_image_data
from fastdc.data.convert import check_order
from fastdc.engines import Engine, make_engine, resolve_engine
from fastdc.engines.chunks import even_slices
from fastdc.engines.gather_normalise import near
from fastdc.errors import DataError, UsageError
from fastdc.models.network import NetworkFamily
from fastdc.models.registry import ModelFactory, describe
from fastdc.options.checks import check_count
from fastdc.options.specs import split_spec, with_options
from fastdc.parallel.devices import resolve_device, to_device
from fastdc.parallel.threads import compute_threads, one_thread_each, result_of
from fastdc.parallel.world import shared, world
from fastdc.recipe import Recipe
from fastdc.runs.progress import progress_bar
from fastdc.runtime.public import public
from fastdc.runtime.seeding import check_seed, derive_seed, make_generator
from fastdc.runtime.stopping import stop_point
from fastdc.runtime.versions import versions
from fastdc.training.by_batch import accuracy, check_finite, confusion
from fastdc.training.evaluation import MOST_CONFUSED, Evaluation
from fastdc.training.operations import chosen_operations
from fastdc.training.protocols import PROTOCOLS, Protocol

AUTO = "auto"


@public
@shared
def evaluate(
    condensed: CondensedDataset,
    test: Any,
    *,
    protocol: str = AUTO,
    model: str | ModelFactory = "convnet",
    networks: int = 20,
    epochs: int | None = None,
    seed: int = 0,
    precision: str = "float32",
    engine: str = "auto",
    device: str = "auto",
    progress: bool = True,
) -> Evaluation:
    """Train fresh random networks on the condensed images alone and test each once, after its last epoch.

    By SGD with momentum 0.9 and weight decay 5e-4, from a learning rate of 0.01 on; the protocol says all else. Accuracies compare
    under one protocol alone. On the CPU the networks are trained side by side, one thread each; by the engine
    "cuda" several go through the GPU as one, where there is no batch norm.

    Args:
        condensed: the images to train on.
        test: the test set: the name of a dataset | ImageData | (images, labels) | a map-style Dataset. It is normalised by the condensed
            set's mean and std. Labels that are names are numbered as the condensed set's class names; the images of a named dataset
            are brought to the size of the condensed ones.
        protocol: "dc" (Zhao et al., ICLR 2021): 300 epochs without augmentation, in batches of 256, a tenth of the learning rate in
            their second half; on MNIST 1000 epochs, each image cropped, scaled or rotated. "dsa" (Zhao & Bilen, ICML 2021): 1000
            epochs, each batch changed by one operation. "idc" (Kim et al., ICML 2022): 1000 epochs in batches of 64, changed by several
            operations and CutMix, a fifth of the learning rate after two thirds of them and again after five sixths. With options, as
            in "dsa:operations=color+crop"; without, no image is mirrored where the test set is known by its name to be of digits.
            "auto": that of the recipe which the images were learned by; "dc" for other images.
        model: a name, or a function (channels, num_classes, (height, width)) -> nn.Module.
        networks: how many to train.
        epochs: of training. None: those of the protocol.
        seed: decides initial weights, order of batches and augmentation.
        precision: how products of float32 numbers are rounded: "float32", "tf32" or "bfloat16", as `condense` has it.
        engine: "auto", "native", "cuda", "torch" or "reference".
        device: "auto", "cpu", "cuda" or "cuda:N".
        progress: say on stderr how far the work is.

    Returns:
        One test accuracy per network, with their mean and standard deviation, the protocol in full and its epochs, and how often each
        class was taken for each (`Evaluation.confusion`).

    Raises:
        UsageError: an argument that cannot be used.
        DataError: a test set whose images or classes do not fit the condensed ones.
        RunError: the weights of a network are not finite after its training.

    Example:
        >>> from fastdc.coresets import random
        >>> evaluate(random("digits", ipc=1), "digits", model="mlp:width=16", networks=2, epochs=2).mean < 1
        True
    """
    if not isinstance(condensed, CondensedDataset):
        raise UsageError(f"condensed is a {type(condensed).__name__}; expected a CondensedDataset: CondensedDataset.load(path) reads one.")
    check_count("networks", networks)
    check_count("epochs", epochs, optional=True)
    check_seed(seed)
    where = resolve_device(device)
    size = condensed.image_size if isinstance(test, str) else None
    data = as_image_data(test, split="test", num_classes=condensed.num_classes, class_names=condensed.class_names, image_size=size)
    _check_fit(condensed, data)
    family = NetworkFamily(model, data.channels, condensed.num_classes, data.image_size, where)
    spec = protocol_for(condensed, protocol, data.name)
    trained: Protocol = PROTOCOLS.make(spec, data.name)
    epochs = trained.epochs if epochs is None else epochs
    trial = _Trial(condensed, data, family, resolve_engine(engine, family.fresh(0), precision), precision, seed, trained, epochs)
    here = world()
    if here.size > 1:
        given = {"condensed": _digest(condensed), "test": data.fingerprint, "protocol": spec, "epochs": epochs, "model": describe(model)}
        here.check_same({**given, "networks": networks, "seed": seed, "precision": precision, "engine": trial.engine, **versions()})
    mine = here.share(networks)
    with progress_bar(len(mine), "evaluating", "network", shown=progress and here.leads) as bar:
        accuracies: list[float] = []
        confusions: list[Tensor | None] = []
        for found, confused in trial.tested(mine):
            accuracies.append(found)
            confusions.append(confused)
            bar.update()
            bar.set_postfix(accuracy=f"{100 * sum(accuracies) / len(accuracies):.1f}%", refresh=False)
        by_process = here.gathered((accuracies, confusions))
    of_all, counts = (tuple(itertools.chain.from_iterable(parts)) for parts in zip(*by_process, strict=True))
    return Evaluation(of_all, spec, epochs, precision, _summed(counts))


def _summed(counts: Sequence[Tensor | None]) -> tuple[tuple[int, ...], ...] | None:
    """The sum of matrices of counts [C, C]; None where nobody counted."""
    matrices = [matrix for matrix in counts if matrix is not None]
    return tuple(map(tuple, torch.stack(matrices).sum(0).tolist())) if matrices else None


def _digest(condensed: CondensedDataset) -> str:
    """A short hash of what networks are trained on."""
    digest = hashlib.blake2b(repr((condensed.formation, condensed.mean, condensed.std)).encode(), digest_size=12)
    for tensor in (condensed.stored, condensed.targets):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def protocol_for(condensed: CondensedDataset, protocol: str, dataset: str) -> str:
    """A protocol in full, its operations chosen for the dataset of this name where they are left open: that which is asked for; for "auto"
    that which the provenance of a set names, its recipe's; "dc" where it names none."""
    asked = _protocol_of(condensed) if protocol == AUTO else protocol
    return PROTOCOLS.in_full(chosen_operations(asked, PROTOCOLS, dataset))


def _protocol_of(condensed: CondensedDataset) -> str:
    """The protocol that the provenance of a set names."""
    found: str = condensed.provenance.get("protocol", Recipe.protocol)
    config = condensed.provenance.get("config")
    augmentation, options = split_spec(str(config.get("augmentation")) if isinstance(config, Mapping) else "none")
    if (found, augmentation) == ("dsa", "siamese") and "operations" in options:  # networks see what the images were learned under
        return with_options(found, operations=options["operations"])
    return found


Found: TypeAlias = tuple[float, Tensor | None]  # the accuracy of a network, and of few classes the counts of `confusion`


class _Trial:
    """The training and testing of network after network under one protocol."""

    def __init__(
        self,
        condensed: CondensedDataset,
        test: ImageData,
        family: NetworkFamily,
        engine: str,
        precision: str,
        seed: int,
        protocol: Protocol,
        epochs: int,
    ) -> None:
        self.condensed, self.family, self.engine, self.precision, self.seed = condensed, family, engine, precision, seed
        self.test = near(dataclasses.replace(test, mean=condensed.mean, std=condensed.std), family.device)
        self.augment, self.phases = protocol.augmentation, protocol.phases(epochs)
        self._building = threading.Lock()  # fresh weights come from torch's global generator

    def tested(self, numbers: range) -> Iterator[Found]:
        """What is found of the networks of these numbers, in their order."""
        networks = len(numbers)
        if networks > 1:
            engine = self._engine(0)
            at_once = engine.most_side_by_side(engine.layout.flatten(engine.module), self._examples()[0], self.phases[0])
            if at_once > 1:
                for some in even_slices(networks, at_once):
                    yield from self._side_by_side(engine, numbers[some])
                return
        side_by_side = self.family.device.type == "cpu" and not self.family.draws_while_trained
        workers = min(networks, compute_threads()) if side_by_side else 1
        if workers <= 1:
            yield from map(self._trained_alone, numbers)
            return
        with one_thread_each(workers) as pool:
            yield from map(result_of, [pool.submit(self._trained_alone, index) for index in numbers])

    def _side_by_side(self, engine: Engine, numbers: Sequence[int]) -> Iterator[Found]:
        """Train these networks side by side, and test one after another."""
        thetas = torch.stack([self.family.fresh_weights(derive_seed(self.seed, "evaluation network", index)) for index in numbers])
        generators = [make_generator(self.seed, "evaluation order", index) for index in numbers]
        for sgd in self.phases:
            engine.train_side_by_side(thetas, *self._examples(), sgd, generators, self.augment)
        for index, theta in zip(numbers, thetas, strict=True):
            yield self._found(engine, theta, index)

    def _trained_alone(self, index: int) -> Found:
        """Train network `index` and test it."""
        engine = self._engine(index)
        theta = engine.layout.flatten(engine.module)
        images, labels = self._examples()
        generator = make_generator(self.seed, "evaluation order", index)
        with self.family.seeded_training(derive_seed(self.seed, "dropout", index)):
            for sgd in self.phases:
                engine.train(theta, images, labels, sgd, generator, self.augment)
        return self._found(engine, theta, index)

    def _found(self, engine: Engine, theta: Tensor, index: int) -> Found:
        check_finite(theta, f"network {index}")
        if self.test.num_classes > MOST_CONFUSED:
            return accuracy(engine, theta, self.test), None
        counts = confusion(engine, theta, self.test)
        return int(counts.trace()) / len(self.test), counts

    def _engine(self, index: int) -> Engine:
        """An engine of network `index`."""
        with self._building:
            stop_point()
            module = self.family.fresh(derive_seed(self.seed, "evaluation network", index))
        return make_engine(self.engine, module, self.precision)

    def _examples(self) -> tuple[Tensor, Tensor]:
        """The condensed images and their labels, where the networks are."""
        images, labels = (to_device(tensor, self.family.device) for tensor in (self.condensed.images, self.condensed.targets))
        return images, labels


def _check_fit(condensed: CondensedDataset, test: ImageData) -> None:
    if test.num_classes != condensed.num_classes:
        raise DataError(f"the test set has {test.num_classes} classes, the condensed set {condensed.num_classes}; expected the same ones.")
    check_order(test, condensed.class_names, "condensed set", "CondensedDataset.load(..., class_names=) gives it")
    shape = (test.channels, *test.image_size)
    if shape != tuple(condensed.images.shape[1:]):
        raise DataError(
            f"test images are {shape}, condensed ones {tuple(condensed.images.shape[1:])}; expected the same channels and size."
        )
