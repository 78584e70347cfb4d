"""The native engine beside the reference engine: every job of gradient matching and evaluation, in pairs taken in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastdc
from fastdc.condensed import CondensedDataset
from fastdc.engines import Engine, Sgd, make_engine
from fastdc.models import build
from fastdc.training.augment import crop_scale_or_rotate, training_augmentation
from fastdc.training.operations import OPERATIONS

SHAPES = {"28x28 grey": (1, (28, 28)), "32x32 rgb": (3, (32, 32))}
CLASSES = 10
AUGMENTATIONS = {"dc": crop_scale_or_rotate, "dsa": training_augmentation(list(OPERATIONS), "batch")}


def convnet_as_people_stack_it() -> nn.Sequential:
    """The layers of the default ConvNet for 28x28 grey images, its parameters in the same order."""
    blocks: list[nn.Module] = []
    for channels, padding in ((1, 3), (128, 1), (128, 1)):
        blocks += [nn.Conv2d(channels, 128, 3, padding=padding), nn.GroupNorm(128, 128), nn.ReLU(inplace=True), nn.AvgPool2d(2, 2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(2048, CLASSES))


class ConvNetOfAScript(nn.Module):
    """The same as a class with layers made in a loop and a functional forward."""

    def __init__(self) -> None:
        super().__init__()
        layers = [*convnet_as_people_stack_it()]
        self.features, self.classifier = nn.Sequential(*layers[:-2]), layers[-1]

    def forward(self, x: Tensor) -> Tensor:
        out = self.features(x)
        return self.classifier(out.view(out.size(0), -1))


NETWORKS_OF_PEOPLE: dict[str, Callable[[], nn.Module]] = {"nn.Sequential": convnet_as_people_stack_it, "a class": ConvNetOfAScript}


class Pair:
    """Both engines on one network, and images for them."""

    def __init__(self, shape: str, model: str = "convnet") -> None:
        torch.manual_seed(0)
        self.channels, self.size = SHAPES[shape]
        module = build(model, self.channels, CLASSES, self.size)
        self.native, self.reference = make_engine("native", module), make_engine("reference", module)
        self.theta = self.native.layout.flatten(module)

    def images(self, each: int) -> Tensor:
        return torch.randn(CLASSES, each, self.channels, *self.size)


@pytest.fixture
def compared(benchmark: Any, record: Callable[..., None]) -> Any:
    """Times job(native) with job(reference) just before it, round by round; records medians and their ratio."""

    def run(what: str, pair: Pair, job: Callable[[Engine], object], rounds: int) -> None:
        plain: list[float] = []

        def reference() -> None:
            start = time.perf_counter()
            job(pair.reference)
            plain.append(time.perf_counter() - start)

        job(pair.native)
        benchmark.pedantic(lambda: job(pair.native), setup=reference, rounds=rounds)
        fast, slow = benchmark.stats.stats.median, statistics.median(plain)
        record(what, reference=slow, native=fast, ratio=slow / fast, rounds=rounds)

    return run


def close(a: Tensor, b: Tensor, tolerance: float = 2e-2) -> None:
    """In float32 ReLU inputs near zero change sign between two orders of summation: both are equally far from the truth."""
    assert float((a - b).norm() / b.norm()) < tolerance


@pytest.mark.parametrize("shape", SHAPES)
def bench_class_gradients(compared: Any, shape: str) -> None:
    pair = Pair(shape)
    images = pair.images(256)
    close(pair.native.class_gradients(pair.theta, images[:, :8]), pair.reference.class_gradients(pair.theta, images[:, :8]))
    compared("class gradients", pair, lambda e: e.class_gradients(pair.theta, images), rounds=3)


@pytest.mark.parametrize("ipc", [1, 10, 50])
@pytest.mark.parametrize("shape", SHAPES)
def bench_synthetic_side(compared: Any, shape: str, ipc: int) -> None:
    """Class gradients of the synthetic images, the distance, and image gradients."""
    pair = Pair(shape)
    synthetic = pair.images(ipc)
    real = pair.native.class_gradients(pair.theta, pair.images(16))
    results = [e.match(pair.theta, synthetic, real, "layerwise_cosine") for e in (pair.native, pair.reference)]
    close(results[0][0], results[1][0], 1e-4)
    close(results[0][1], results[1][1])
    job = lambda e: e.match(pair.theta, synthetic, real, "layerwise_cosine")  # noqa: E731
    compared("synthetic side", pair, job, rounds=5 if ipc < 50 else 3)


@pytest.mark.parametrize(
    ("shape", "model", "ipc"),
    [
        *((shape, "convnet", ipc) for shape in SHAPES for ipc in (1, 10, 50)),
        *(("28x28 grey", f"convnet:width={width}", 10) for width in (32, 64)),
        *(("28x28 grey", model, 1) for model in ("mlp", "lenet", "alexnet", "vgg11")),
    ],
)
def bench_whole_step(compared: Any, shape: str, model: str, ipc: int) -> None:
    pair = Pair(shape, model)
    real, synthetic = pair.images(256), pair.images(ipc)

    def step(engine: Engine) -> None:
        engine.match(pair.theta, synthetic, engine.class_gradients(pair.theta, real), "layerwise_cosine")

    compared("whole step", pair, step, rounds=1 if model == "convnet" else 3)


@pytest.mark.parametrize("written_as", NETWORKS_OF_PEOPLE)
def bench_networks_of_people(compared: Any, written_as: str) -> None:
    """The native engine on a network that people bring, and in the reference's place on ConvNet."""
    pair = Pair("28x28 grey")
    pair.reference, pair.native = pair.native, make_engine("native", NETWORKS_OF_PEOPLE[written_as]())
    real, synthetic = pair.images(256), pair.images(10)
    step = lambda e: e.match(pair.theta, synthetic, e.class_gradients(pair.theta, real), "layerwise_cosine")  # noqa: E731
    for found, expected in zip(step(pair.native), step(pair.reference), strict=True):
        assert torch.equal(found, expected)
    compared("whole step beside ConvNet", pair, step, rounds=5)


@pytest.mark.parametrize("threads", [1, 2])
def bench_threads(timed: Any, threads: int) -> None:
    """The whole step of the native engine alone."""
    pair, before = Pair("28x28 grey"), torch.get_num_threads()
    real, synthetic = pair.images(256), pair.images(10)
    torch.set_num_threads(threads)
    step = lambda: pair.native.match(  # noqa: E731
        pair.theta, synthetic, pair.native.class_gradients(pair.theta, real), "layerwise_cosine"
    )
    timed("whole step by threads", step)
    torch.set_num_threads(before)


def bench_compiled_torch_engine(compared: Any) -> None:
    """The torch engine with torch.compile in the place of the reference; it compiles before it is timed."""
    pair = Pair("28x28 grey")
    pair.reference = make_engine("torch:compile=true", build("convnet", pair.channels, CLASSES, pair.size))
    images = pair.images(256)
    pair.reference.class_gradients(pair.theta, images)
    compared("class gradients beside torch:compile=true", pair, lambda e: e.class_gradients(pair.theta, images), rounds=3)


@pytest.mark.parametrize("count", [100, 500])
def bench_training(compared: Any, count: int) -> None:
    pair = Pair("28x28 grey")
    images, labels = pair.images(count // CLASSES).flatten(0, 1), torch.arange(count) % CLASSES

    def epoch(engine: Engine) -> Tensor:
        theta = pair.theta.clone()
        engine.train(theta, images, labels, Sgd(1, 0.01, 0.9, 5e-4, 256), torch.Generator().manual_seed(0))
        return theta

    close(epoch(pair.native) - pair.theta, epoch(pair.reference) - pair.theta)
    compared("training, one epoch, batch 256", pair, epoch, rounds=5)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def bench_training_with_augmentation(compared: Any, augmentation: str) -> None:
    pair = Pair("28x28 grey")
    images, labels, augment = pair.images(50).flatten(0, 1), torch.arange(CLASSES).repeat_interleave(50), AUGMENTATIONS[augmentation]

    def epoch(engine: Engine) -> Tensor:
        theta = pair.theta.clone()
        engine.train(theta, images, labels, Sgd(1, 0.01, 0.9, 5e-4, 256), torch.Generator().manual_seed(0), augment)
        return theta

    close(epoch(pair.native) - pair.theta, epoch(pair.reference) - pair.theta)
    compared("training on 500 images with augmentation, one epoch, batch 256", pair, epoch, rounds=5)


def bench_logits(compared: Any) -> None:
    pair = Pair("28x28 grey")
    images = pair.images(1000).flatten(0, 1)

    def test(engine: Engine) -> Tensor:
        return torch.cat([engine.logits(pair.theta, part) for part in images.split(1000)])

    close(test(pair.native)[:100], pair.reference.logits(pair.theta, images[:100]), 1e-4)
    compared("logits of 10,000 images", pair, test, rounds=3)


@pytest.mark.parametrize("ipc", [1, 10])
def bench_evaluation(compared: Any, ipc: int) -> None:
    """20 networks, 5 epochs each, tested on 500 images."""
    pair = Pair("28x28 grey")
    labels = torch.arange(CLASSES).repeat_interleave(ipc)
    condensed = CondensedDataset(
        pair.images(ipc).flatten(0, 1), labels, mean=[0.5], std=[0.5], class_names=[str(c) for c in range(CLASSES)]
    )
    test = (torch.randint(0, 256, (500, 1, 28, 28), dtype=torch.uint8), torch.arange(500) % CLASSES)

    def evaluate(engine: Engine) -> object:
        return fastdc.evaluate(condensed, test, networks=20, epochs=5, engine=engine.name, progress=False)

    compared("evaluation of 20 networks, 5 epochs", pair, evaluate, rounds=1)
