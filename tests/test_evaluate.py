"""Evaluation: the paper's protocol to the letter, the same numbers however many networks are trained side by side."""

from __future__ import annotations

import dataclasses
import math
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import AUTO, Dropping, DroppingByFunction, Linear, needs_extension
from tolerances import AUGMENTED_IMAGES, AUGMENTED_POSITIONS
from torch import Tensor

import fastdc
from fastdc import Evaluation, evaluate
from fastdc.condensed import CondensedDataset
from fastdc.data import ImageData
from fastdc.engines import CudaEngine, Sgd
from fastdc.errors import DataError, UsageError
from fastdc.models import build
from fastdc.runtime.seeding import derive_seed, make_generator
from fastdc.training import augment
from fastdc.training.augment import crop_scale_or_rotate, training_augmentation
from fastdc.training.protocols import PROTOCOLS

OTHER_PROTOCOLS = [name for name in PROTOCOLS if name != "dc"]
QUICK = {"model": "mlp:width=16", "epochs": 8}


@pytest.fixture(autouse=True)
def two_threads(threads: None) -> None:
    """Whatever the machine has: then networks are trained side by side."""
    torch.set_num_threads(2)


@pytest.fixture(scope="module")
def condensed() -> CondensedDataset:
    return fastdc.coresets.random("digits", 5)


@pytest.fixture(scope="module")
def noise() -> ImageData:
    """A test set of which every small change of the weights changes some prediction: noise, 5000 times."""
    train, _ = fastdc.load_dataset("digits")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (5000, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (5000,), generator=generator)
    return ImageData(images, labels, 10, train.class_names, train.mean, train.std, "noise")


# The numbers


def test_an_evaluation_states_mean_and_standard_deviation_over_networks() -> None:
    result = Evaluation((0.5, 0.6, 0.7))
    assert result.mean == pytest.approx(0.6)
    assert result.std == pytest.approx(math.sqrt(0.02 / 3))


def test_an_evaluation_is_printed_in_percent() -> None:
    assert str(Evaluation((0.5, 0.6, 0.7))) == "60.0% +- 8.2 (3 networks)"
    assert str(Evaluation((1.0,))) == "100.0% +- 0.0 (1 network)"


def test_there_is_one_accuracy_for_each_network(condensed: CondensedDataset) -> None:
    accuracies = evaluate(condensed, "digits", networks=3, **QUICK).accuracies
    assert len(accuracies) == 3
    assert all(0 < accuracy < 1 and accuracy * 360 == pytest.approx(round(accuracy * 360)) for accuracy in accuracies)
    assert len(set(accuracies)) > 1


def test_nothing_is_counted_where_nobody_reads_it(condensed: CondensedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = evaluate(condensed, "digits", networks=3, **QUICK)
    monkeypatch.setattr("fastdc._evaluate.MOST_CONFUSED", 9)
    monkeypatch.setattr("fastdc._evaluate.confusion", None)
    assert evaluate(condensed, "digits", networks=3, **QUICK) == dataclasses.replace(counted, confusion=None)
    assert counted.confusion is not None
    assert sum(map(sum, counted.confusion)) == 3 * 360


# One seed decides everything


@pytest.mark.parametrize("model", ["mlp:width=16", "convnet:width=8", "convnet:width=8,norm=batch"])
def test_the_accuracy_of_a_network_does_not_depend_on_those_beside_it(condensed: CondensedDataset, noise: ImageData, model: str) -> None:
    side_by_side = evaluate(condensed, noise, model=model, networks=5, epochs=4).accuracies
    assert evaluate(condensed, noise, model=model, networks=2, epochs=4).accuracies == side_by_side[:2]
    torch.set_num_threads(3)
    assert evaluate(condensed, noise, model=model, networks=5, epochs=4).accuracies == side_by_side
    torch.set_num_threads(1)
    assert evaluate(condensed, noise, model=model, networks=5, epochs=4).accuracies == side_by_side


@pytest.mark.parametrize(
    ("model", "protocol"),
    [("mlp:width=16", "dc"), ("convnet:width=8,depth=1", "dc"), ("convnet:width=8,depth=1,norm=batch", "dc"), ("mlp:width=16", "idc")],
)
def test_networks_that_go_through_a_gpu_as_one_have_the_accuracies_of_each(
    condensed: CondensedDataset, noise: ImageData, model: str, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = dataclasses.replace(noise, images=noise.images[:500], labels=noise.labels[:500])
    how: dict[str, Any] = {"model": model, "protocol": protocol, "networks": 3, "epochs": 4, "engine": "cuda", "device": "cpu"}
    together = evaluate(condensed, some, **how).accuracies
    monkeypatch.setattr(CudaEngine, "most_side_by_side", lambda *_: 1)
    alone = evaluate(condensed, some, **how).accuracies
    assert together == pytest.approx(alone, abs=1.5 / len(some))  # rounding may move a prediction of 500


@pytest.mark.parametrize("networks", [3, 4, 5])
def test_as_many_go_through_a_gpu_as_one_as_it_has_room_for(
    condensed: CondensedDataset, networks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, train = [], CudaEngine.train_side_by_side

    def look(self: CudaEngine, thetas: Tensor, *given: Any) -> None:
        seen.append(len(thetas))
        train(self, thetas, *given)

    monkeypatch.setattr(CudaEngine, "most_side_by_side", lambda *_: 2)
    monkeypatch.setattr(CudaEngine, "train_side_by_side", look)
    how: dict[str, Any] = {"engine": "cuda", "device": "cpu", "networks": networks, **QUICK}
    assert len(evaluate(condensed, "digits", **how).accuracies) == networks
    assert seen == [count for start in range(0, networks, 2) for count in [min(2, networks - start)] * 2]  # two phases


def test_another_seed_gives_other_accuracies(condensed: CondensedDataset, noise: ImageData) -> None:
    results = [evaluate(condensed, noise, networks=2, seed=seed, **QUICK).accuracies for seed in (0, 0, 1)]
    assert results[0] == results[1] != results[2]


class Watched(Linear):
    """A linear network that notes which threads it ran in, and waits for a second one."""

    seen: set[int]
    both: threading.Barrier

    def forward(self, images: Tensor) -> Tensor:
        if threading.current_thread() is not threading.main_thread() and threading.get_ident() not in self.seen:
            self.seen.add(threading.get_ident())
            self.both.wait(30)
        return super().forward(images)


def test_networks_are_trained_side_by_side_on_the_cpu(condensed: CondensedDataset) -> None:
    Watched.seen, Watched.both = set(), threading.Barrier(2)
    evaluate(condensed, "digits", model=Watched, networks=4, epochs=2, device="cpu")
    assert len(Watched.seen) == 2


@pytest.mark.parametrize("model", [Dropping, DroppingByFunction])
@pytest.mark.parametrize("number", [1, 2], ids="threads={}".format)
def test_a_network_with_dropout_is_reproducible(condensed: CondensedDataset, noise: ImageData, model: type[Dropping], number: int) -> None:
    torch.set_num_threads(number)
    torch.manual_seed(1)
    first = evaluate(condensed, noise, model=model, networks=4, epochs=4).accuracies
    torch.manual_seed(2)
    assert evaluate(condensed, noise, model=model, networks=4, epochs=4).accuracies == first
    assert evaluate(condensed, noise, model=model, networks=2, epochs=4).accuracies == first[:2]


@pytest.mark.parametrize("model", ["mlp:width=16", Dropping, DroppingByFunction])
def test_the_number_of_threads_and_the_global_generator_are_left_as_they_were(condensed: CondensedDataset, model: Any) -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    evaluate(condensed, "digits", model=model, networks=3, epochs=2)
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), state)


class Failing(Watched):
    def forward(self, images: Tensor) -> Tensor:
        if threading.current_thread() is not threading.main_thread():
            raise ArithmeticError("no")
        return super().forward(images)


def test_a_network_that_fails_leaves_threads_and_generator_as_they_were(condensed: CondensedDataset) -> None:
    state = torch.get_rng_state()
    with pytest.raises(ArithmeticError):
        evaluate(condensed, "digits", model=Failing, networks=3, epochs=2)
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), state)


# The protocol


def plain_accuracy(model: str, condensed: CondensedDataset, test: ImageData, epochs: int, seed: int, index: int) -> float:
    """The paper's evaluation of one network, written as one would write it without fastdc."""
    torch.manual_seed(derive_seed(seed, "evaluation network", index))
    network = build(model, test.channels, test.num_classes, test.image_size)
    order = make_generator(seed, "evaluation order", index)
    network.train()
    for epoch in range(epochs):
        if epoch == 0:
            optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        elif epoch == epochs - epochs // 2:
            optimizer = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-4)
        for batch in torch.randperm(len(condensed), generator=order).split(256):
            optimizer.zero_grad()
            F.cross_entropy(network(condensed.images[batch]), condensed.labels[batch]).backward()
            optimizer.step()
    network.eval()
    mean, std = torch.tensor(condensed.mean).view(-1, 1, 1), torch.tensor(condensed.std).view(-1, 1, 1)
    with torch.no_grad():
        predictions = network((test.images.float() / 255 - mean) / std).argmax(1)
    return (predictions == test.labels).float().mean().item()


@pytest.mark.parametrize("engine", ["reference", "torch"])
@pytest.mark.parametrize("model", ["mlp:width=16", "convnet:width=8", "convnet:width=8,norm=batch"])
def test_an_accuracy_is_that_of_a_plain_training_loop(noise: ImageData, model: str, engine: str) -> None:
    condensed = fastdc.coresets.random("digits", 30)  # 300 images: a batch of 256 and one of 44
    epochs = 61 if model.startswith("mlp") else 15  # odd: the first phase is the longer one
    accuracies = evaluate(condensed, noise, model=model, networks=2, epochs=epochs, seed=3, engine=engine).accuracies
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        plain = [plain_accuracy(model, condensed, noise, epochs, 3, index) for index in (0, 1)]
    assert accuracies == pytest.approx(plain, abs=2.5 / len(noise))  # rounding may move two predictions of 5000


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Sgd, Any]]:
    """The phases of training that were asked for, none of which is done."""
    asked: list[tuple[Sgd, Any]] = []

    def train(self: Any, theta: Tensor, images: Tensor, labels: Tensor, sgd: Sgd, generator: Any, augment: Any = None) -> None:
        asked.append((sgd, augment))

    monkeypatch.setattr(AUTO, "train", train)
    return asked


def renamed(data: ImageData, name: str) -> ImageData:
    return ImageData(data.images, data.labels, data.num_classes, data.class_names, data.mean, data.std, name)


@pytest.mark.parametrize("name", ["digits", "data", "fashion-mnist", "svhn", "cifar10", "usps"])
def test_other_sets_are_evaluated_after_300_epochs_without_augmentation(
    condensed: CondensedDataset, noise: ImageData, phases: list[tuple[Sgd, Any]], name: str
) -> None:
    evaluate(condensed, renamed(noise, name), networks=1, model="mlp:width=16")
    assert phases == [(Sgd(150, 0.01, 0.9, 5e-4, 256), None), (Sgd(150, pytest.approx(0.001), 0.9, 5e-4, 256), None)]


def test_mnist_is_evaluated_after_1000_epochs_with_augmentation(
    condensed: CondensedDataset, noise: ImageData, phases: list[tuple[Sgd, Any]]
) -> None:
    evaluate(condensed, renamed(noise, "mnist"), networks=1, model="mlp:width=16")
    assert [sgd for sgd, _ in phases] == [Sgd(500, 0.01, 0.9, 5e-4, 256), Sgd(500, pytest.approx(0.001), 0.9, 5e-4, 256)]
    assert [augmentation for _, augmentation in phases] == [crop_scale_or_rotate] * 2


def test_dsa_trains_for_1000_epochs_with_one_operation_for_each_batch(condensed: CondensedDataset, phases: list[tuple[Sgd, Any]]) -> None:
    found = evaluate(condensed, "digits", protocol="dsa:operations=color+crop", networks=1, model="mlp:width=16")
    assert [sgd for sgd, _ in phases] == [Sgd(500, 0.01, 0.9, 5e-4, 256), Sgd(500, pytest.approx(0.001), 0.9, 5e-4, 256)]
    assert [augmentation for _, augmentation in phases] == [training_augmentation(["color", "crop"], "batch")] * 2
    assert (found.protocol, found.epochs) == ("dsa:operations=color+crop", 1000)


def test_idc_trains_for_1000_epochs_in_smaller_batches_with_cutmix(condensed: CondensedDataset, phases: list[tuple[Sgd, Any]]) -> None:
    found = evaluate(condensed, "digits", protocol="idc", networks=1, model="mlp:width=16")
    lengths_and_rates = [(666, 0.01), (167, pytest.approx(0.002)), (167, pytest.approx(0.0004))]
    assert [sgd for sgd, _ in phases] == [Sgd(epochs, lr, 0.9, 5e-4, 64) for epochs, lr in lengths_and_rates]
    assert [augmentation for _, augmentation in phases] == [training_augmentation(["color", "crop/scale/rotate"], "image", 0.5)] * 3
    assert (found.protocol, found.epochs) == ("idc:operations=color+crop/scale/rotate,cutmix=0.5", 1000)


@pytest.mark.parametrize(("protocol", "mode", "cutmix"), [("dsa", "batch", 0.0), ("idc:cutmix=0.2", "image", 0.2)])
@pytest.mark.parametrize("name", ["digits", "mnist", "svhn", "usps", "fashion-mnist", "cifar10", "data"])
def test_digits_are_not_mirrored_unless_it_is_asked_for(
    condensed: CondensedDataset, noise: ImageData, phases: list[tuple[Sgd, Any]], protocol: str, mode: str, cutmix: float, name: str
) -> None:
    options: dict[str, Any] = {"networks": 1, "model": "mlp:width=16", "epochs": 1}
    usual = {"dsa": "color+crop+cutout+flip+scale+rotate", "idc": "flip+color+crop/scale/rotate"}[protocol[:3]].split("+")
    expected = [operation for operation in usual if operation != "flip" or name in ("fashion-mnist", "cifar10", "data")]
    found = evaluate(condensed, renamed(noise, name), protocol=protocol, **options)
    assert phases[0][1] == training_augmentation(expected, mode, cutmix)
    assert f":operations={'+'.join(expected)}" in found.protocol
    phases.clear()
    asked = f"{protocol[:3]}:operations=flip+color"
    assert evaluate(condensed, renamed(noise, name), protocol=asked, **options).protocol.startswith(asked)
    assert phases[0][1].operations == ("flip", "color")


@pytest.mark.parametrize("protocol", ["dc", *OTHER_PROTOCOLS])
@pytest.mark.parametrize("epochs", [1, 2, 3, 7])
def test_all_epochs_that_are_asked_for_are_trained(
    condensed: CondensedDataset, phases: list[tuple[Sgd, Any]], protocol: str, epochs: int
) -> None:
    found = evaluate(condensed, "digits", protocol=protocol, networks=1, model="mlp:width=16", epochs=epochs)
    assert sum(sgd.epochs for sgd, _ in phases) == found.epochs == epochs


@pytest.mark.parametrize("engine", ["torch", "reference", pytest.param("native", marks=needs_extension)])
@pytest.mark.parametrize("protocol", OTHER_PROTOCOLS)
def test_a_protocol_reaches_the_training_and_is_reproducible(
    condensed: CondensedDataset, noise: ImageData, engine: str, protocol: str
) -> None:
    options: dict[str, Any] = {"networks": 2, "epochs": 3, "model": "convnet:width=8", "engine": engine}
    first = evaluate(condensed, noise, protocol=protocol, **options)
    assert evaluate(condensed, noise, protocol=protocol, **options) == first
    assert evaluate(condensed, noise, protocol="dc", **options).accuracies != first.accuracies
    torch.set_num_threads(1)
    assert evaluate(condensed, noise, protocol=protocol, **options) == first


def learned_by(method: Any, **options: Any) -> CondensedDataset:
    return fastdc.condense("digits", 1, method=method, model="convnet:width=8", iterations=1, matching_steps=1, batch_real=2, **options)


@pytest.mark.parametrize(
    ("made", "protocol"),
    [
        (lambda: learned_by("dc"), "dc"),
        (lambda: learned_by("dm"), "dsa:operations=color+crop+cutout+scale+rotate"),
        (lambda: learned_by("dm:operations=crop+rotate"), "dsa:operations=crop+rotate"),
        (lambda: learned_by("dm:operations=flip+rotate"), "dsa:operations=flip+rotate"),
        (lambda: learned_by("dm", augmentation="none"), "dsa:operations=color+crop+cutout+scale+rotate"),
        (lambda: learned_by(dataclasses.replace(fastdc.RECIPES["dm"], lr_images=0.5)), "dsa:operations=color+crop+cutout+scale+rotate"),
        (lambda: learned_by(fastdc.Recipe(protocol="idc:cutmix=0")), "idc:operations=color+crop/scale/rotate,cutmix=0.0"),
        (lambda: fastdc.coresets.random("digits", 1), "dc"),
        (lambda: with_provenance(None), "dc"),
        (lambda: with_provenance({"config": {"method": "idea"}}), "dc"),
        (lambda: with_provenance({"config": {"method": 3, "augmentation": None}}), "dc"),
        (lambda: with_provenance({"config": "dm"}), "dc"),
        (lambda: with_provenance({"protocol": "dsa:operations=crop"}), "dsa:operations=crop"),
    ],
    ids=[
        "dc",
        "dm",
        "dm of some operations",
        "dm of mirrored images",
        "dm without",
        "unnamed",
        "one's own",
        "coreset",
        "none",
        "another method",
        "a number",
        "text",
        "named",
    ],
)
def test_auto_is_the_protocol_of_the_recipe_that_a_set_was_learned_by(made: Any, protocol: str, tmp_path: Path) -> None:
    made().save(tmp_path / "set.safetensors")
    images = CondensedDataset.load(tmp_path / "set.safetensors")
    found = evaluate(images, "digits", model="mlp:width=4", networks=1, epochs=1)
    assert found.protocol == protocol
    assert evaluate(images, "digits", protocol=protocol, model="mlp:width=4", networks=1, epochs=1) == found
    assert evaluate(images, "digits", protocol="idc", model="mlp:width=4", networks=1, epochs=1).protocol.startswith("idc:")


def with_provenance(provenance: Any) -> CondensedDataset:
    chosen = fastdc.coresets.random("digits", 1)
    kept = {"mean": chosen.mean, "std": chosen.std, "class_names": chosen.class_names}
    return CondensedDataset(chosen.images, chosen.labels, **kept, provenance=provenance)


def test_a_recipe_of_ones_own_says_how_it_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fastdc.RECIPES, "mine", fastdc.Recipe(protocol="idc:cutmix=0"))
    images = learned_by("mine")
    assert evaluate(images, "digits", model="mlp:width=4", networks=1, epochs=1).protocol.endswith("cutmix=0.0")
    with pytest.raises(UsageError, match=r"unknown protocol 'icd'\. Did you mean 'idc'"):
        learned_by(fastdc.Recipe(protocol="icd"))


@pytest.mark.parametrize(("epochs", "lengths"), [(1, [1]), (2, [1, 1]), (7, [4, 3])])
def test_epochs_that_are_asked_for_are_split_in_half(
    condensed: CondensedDataset, phases: list[tuple[Sgd, Any]], epochs: int, lengths: list[int]
) -> None:
    evaluate(condensed, "digits", networks=1, model="mlp:width=16", epochs=epochs)
    assert [sgd.epochs for sgd, _ in phases] == lengths


@pytest.mark.parametrize("engine", ["torch", "reference"])
def test_mnist_augmentation_reaches_the_training_and_is_reproducible(condensed: CondensedDataset, noise: ImageData, engine: str) -> None:
    options = {"networks": 2, "epochs": 30, "model": "mlp:width=16", "engine": engine}
    first = evaluate(condensed, renamed(noise, "mnist"), **options).accuracies
    assert evaluate(condensed, renamed(noise, "mnist"), **options).accuracies == first
    assert evaluate(condensed, noise, **options).accuracies != first


def test_a_network_is_tested_once_after_its_last_epoch(condensed: CondensedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("train", "logits"):
        original = getattr(AUTO, name)
        monkeypatch.setattr(
            AUTO, name, lambda *args, name=name, original=original, **options: calls.append(name) or original(*args, **options)
        )
    torch.set_num_threads(1)
    evaluate(condensed, "digits", networks=2, **QUICK)
    assert calls == ["train", "train", "logits"] * 2  # 360 test images: one block


def test_the_test_set_is_normalised_by_the_condensed_set(noise: ImageData) -> None:
    images, labels = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(10).repeat(2)
    names = [str(c) for c in range(10)]
    one, other = (CondensedDataset(images, labels, mean=[mean], std=[std], class_names=names) for mean, std in ((0.3, 0.4), (0.7, 0.1)))
    shifted = ImageData(noise.images, noise.labels, 10, noise.class_names, (0.5,), (0.5,), "noise")
    assert evaluate(one, noise, networks=2, **QUICK) == evaluate(one, shifted, networks=2, **QUICK)
    assert evaluate(one, noise, networks=2, **QUICK) != evaluate(other, noise, networks=2, **QUICK)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"networks": 0}, "networks is 0; expected a whole number of 1 or more"),
        ({"networks": 2.5}, "networks is 2.5"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": -3}, "epochs is -3"),
        ({"seed": -1}, "seed is -1"),
        ({"engine": "torhc"}, "unknown engine 'torhc'. Did you mean 'torch'"),
        ({"model": "convet"}, "unknown model 'convet'. Did you mean 'convnet'"),
        ({"device": "gpu"}, "device 'gpu'"),
        ({"protocol": "dca"}, "unknown protocol 'dca'"),
        ({"protocol": "dc:epochs=3"}, "protocol 'dc' takes no options; 'dc:epochs=3' gives epochs"),
        ({"protocol": "dsa:operations=color+blur"}, "unknown operation 'blur'"),
        ({"protocol": "dsa:cutmix=1"}, "unknown option of 'dsa' 'cutmix'"),
        ({"protocol": "idc:cutmix=2"}, "cutmix is 2.0; expected a probability, 0 to 1"),
        ({"protocol": None}, "protocol is None; expected one of dc, dsa, idc"),
    ],
)
def test_an_argument_that_cannot_be_used_gets_a_sentence(condensed: CondensedDataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        evaluate(condensed, "digits", **{**QUICK, **options})
    assert message in str(error.value)


def test_what_is_not_a_condensed_dataset_gets_a_sentence() -> None:
    with pytest.raises(UsageError, match="expected a CondensedDataset"):
        evaluate("digits", "digits", **QUICK)  # type: ignore[arg-type]


def test_a_test_set_of_other_images_or_classes_gets_a_sentence(condensed: CondensedDataset) -> None:
    labels = torch.arange(10).repeat(2)
    for shape in ((20, 3, 8, 8), (20, 1, 9, 9)):
        with pytest.raises(DataError, match="channels and size"):
            evaluate(condensed, (torch.rand(shape), labels), **QUICK)
    with pytest.raises(DataError, match="0 to 9"):
        evaluate(condensed, (torch.rand(20, 1, 8, 8), labels + 1), **QUICK)


# Augmentation


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(300, 3, 12, 16, generator=torch.Generator().manual_seed(0))


def changed(pictures: Tensor, seed: int = 0) -> Tensor:
    labels = torch.arange(len(pictures))
    result, same = crop_scale_or_rotate(pictures, labels, make_generator(seed))
    assert torch.equal(same, labels)
    return result


@pytest.fixture
def matrices(monkeypatch: pytest.MonkeyPatch, pictures: Tensor) -> Tensor:
    """The maps from output to input positions that were drawn for the pictures, [N, 2, 3] in pixels from the centre."""
    drawn: list[Tensor] = []
    original = F.affine_grid
    monkeypatch.setattr(F, "affine_grid", lambda theta, *args, **options: drawn.append(theta) or original(theta, *args, **options))
    changed(pictures)
    pixels = torch.tensor([16 / 2, 12 / 2])  # of a unit of x, of y
    linear = drawn[0][:, :, :2] * pixels[:, None] / pixels
    return torch.cat([linear, drawn[0][:, :, 2:] * pixels[:, None]], 2)


def test_augmentation_keeps_shape_and_dtype_and_is_decided_by_the_generator(pictures: Tensor) -> None:
    first = changed(pictures)
    assert first.shape == pictures.shape
    assert first.dtype == pictures.dtype
    assert torch.equal(first, changed(pictures))
    assert not torch.equal(first, changed(pictures, seed=1))
    assert changed(pictures[:1].double()).dtype == torch.float64


def kinds(matrices: Tensor) -> Tensor:
    """Whether each map shifts, scales, rotates: bool [N, 3]."""
    linear, shift = matrices[:, :, :2], matrices[:, :, 2]
    shifts = shift.abs().amax(1) > AUGMENTED_POSITIONS
    rotates = linear[:, [0, 1], [1, 0]].abs().amax(1) > AUGMENTED_POSITIONS
    scales = ~rotates & ((linear.diagonal(dim1=1, dim2=2) - 1).abs().amax(1) > AUGMENTED_POSITIONS)
    return torch.stack([shifts, scales, rotates], 1)


def test_each_image_is_changed_by_one_operation_and_all_three_are_drawn(matrices: Tensor) -> None:
    found = kinds(matrices)
    assert (found.sum(1) <= 1).all()
    assert (found.sum(1) == 1).sum() >= 290  # of 300; a shift by nothing is one in 81
    assert (found.sum(0) >= 70).all()  # 100 of each are expected


def test_crops_are_by_whole_pixels_up_to_four_in_either_direction(matrices: Tensor) -> None:
    shift = matrices[kinds(matrices)[:, 0]][:, :, 2]
    torch.testing.assert_close(shift, shift.round(), atol=AUGMENTED_POSITIONS, rtol=0)
    assert {*shift.round().flatten().tolist()} == {*range(-4, 5)}


def test_scales_are_drawn_for_each_axis_between_a_fifth_less_and_a_fifth_more(matrices: Tensor) -> None:
    factors = 1 / matrices[kinds(matrices)[:, 1]][:, :, :2].diagonal(dim1=1, dim2=2)
    assert factors.min() >= 0.8 - AUGMENTED_POSITIONS
    assert factors.max() <= 1.2 + AUGMENTED_POSITIONS
    assert factors.min() < 0.85
    assert factors.max() > 1.15
    assert (factors[:, 0] - factors[:, 1]).abs().max() > 0.1


def test_rotations_are_true_ones_by_up_to_45_degrees_either_way(matrices: Tensor) -> None:
    linear = matrices[kinds(matrices)[:, 2]][:, :, :2]
    torch.testing.assert_close(linear @ linear.mT, torch.eye(2).expand_as(linear), atol=AUGMENTED_POSITIONS, rtol=0)
    torch.testing.assert_close(torch.linalg.det(linear), torch.ones(len(linear)))
    degrees = torch.atan2(linear[:, 1, 0], linear[:, 0, 0]).rad2deg()
    assert degrees.abs().max() <= 45 * (1 + AUGMENTED_POSITIONS)
    assert degrees.min() < -35
    assert degrees.max() > 35


def test_a_crop_is_a_shift_with_the_mean_of_the_batch_around(pictures: Tensor, matrices: Tensor) -> None:
    result, means = changed(pictures), pictures.mean((0, 2, 3))
    for i in kinds(matrices)[:, 0].nonzero().flatten().tolist():
        x, y = matrices[i, :, 2].round().int().tolist()
        padded = means[:, None, None].repeat(1, 20, 24)
        padded[:, 4:16, 4:20] = pictures[i]
        torch.testing.assert_close(result[i], padded[:, 4 + y : 16 + y, 4 + x : 20 + x], atol=AUGMENTED_IMAGES, rtol=0)


def test_around_a_turned_image_is_one_mean_of_the_batch_and_around_a_smaller_one_nothing(pictures: Tensor, matrices: Tensor) -> None:
    moved = pictures + torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    corners, mean = changed(moved)[:, :, 0, 0], moved.mean()
    linear = matrices[:, :, :2]
    outside = (linear @ torch.tensor([-7.5, -5.5])).abs()  # where a corner comes from, in pixels from the middle
    far = (outside > torch.tensor([8.5, 6.5])).any(1)
    _, scaled, turned = kinds(matrices).T
    assert far[turned].sum() > 20
    assert far[scaled].sum() > 20
    torch.testing.assert_close(corners[far & turned], mean.expand(int((far & turned).sum()), 3), atol=AUGMENTED_IMAGES, rtol=0)
    torch.testing.assert_close(corners[far & scaled], torch.zeros(int((far & scaled).sum()), 3), atol=AUGMENTED_IMAGES, rtol=0)


def test_augmentation_whose_limits_are_nothing_changes_nothing(pictures: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("_PAD", "_SCALE", "_ROTATION"):
        monkeypatch.setattr(augment, limit, 0)
    torch.testing.assert_close(changed(pictures), pictures, atol=AUGMENTED_IMAGES, rtol=0)


def test_augmentation_does_not_touch_what_it_is_given(pictures: Tensor) -> None:
    before, state = pictures.clone(), torch.get_rng_state()
    changed(pictures)
    assert torch.equal(pictures, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_whose_weights_are_not_finite_has_no_accuracy() -> None:
    """It would name one class for all images, which looks like chance."""
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 1e30
    far = fastdc.CondensedDataset(images, torch.tensor([0, 0, 1, 1]), mean=[0.0], std=[1.0], class_names=["a", "b"])
    test = fastdc.load_dataset("digits", classes=[0, 1])[1]
    for engine in ("native", "reference"):
        with pytest.raises(fastdc.RunError, match=r"weights of network 0 are not finite after its training"):
            fastdc.evaluate(far, test, model="convnet:width=8,depth=2", networks=2, epochs=3, engine=engine, progress=False)


EVALUATING = """
import sys, torch, fastdc
torch.set_num_threads(2)
train, test = fastdc.load_dataset("digits", image_size=28)
condensed = fastdc.coresets.random(train, 20)
print("now", flush=True)
try:
    fastdc.evaluate(condensed, test, networks=4, epochs=100000, protocol=sys.argv[1], engine=sys.argv[2])
except KeyboardInterrupt:
    print("stopped", torch.get_num_threads(), flush=True)
    raise
"""


@pytest.mark.parametrize(("protocol", "engine"), [("dc", "native"), ("dsa", "native"), ("dc", "torch")])
def test_an_interrupted_evaluation_ends_without_waiting_for_its_networks(protocol: str, engine: str) -> None:
    """Its networks would be trained for hours; the limit is generous, since a machine may be busy."""
    command = [sys.executable, "-W", "ignore", "-c", EVALUATING, protocol, engine]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert output == "stopped 2\n"
    assert process.returncode == -signal.SIGINT, errors
    assert "KeyboardInterrupt" in errors
