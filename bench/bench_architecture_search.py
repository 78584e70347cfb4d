"""Time per network of a search, side by side by the native engine, beside training the same ones one by one in eager PyTorch.

100 images, 100 epochs, tested on 10,000: both in the same run; noise in place of images, since only the time counts, and accuracies
that both learn on the training images themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastdc
from fastdc.condensed import CondensedDataset
from fastdc.data import ImageData
from fastdc.engines import NativeEngine
from fastdc.experiments import ConvNetSpace
from fastdc.experiments.search.parallel_trials import do_trials
from fastdc.experiments.search.trial import Trial, TrialOptions, TrialRunner
from fastdc.models import build
from fastdc.training.schedule import paper_training

EPOCHS, TESTED = 100, 10_000
SPACES = {
    "width 32, depths 1 to 3, average pooling": ConvNetSpace(
        widths=(32,), depths=(1, 2, 3), norms=("none", "layer", "instance", "group"), activations=("relu",), poolings=("avg",)
    ),
    "width 32, depth 2, all activations and poolings": ConvNetSpace(widths=(32,), depths=(2,), norms=("instance",)),
    "width 128, depth 3, instance norm": ConvNetSpace(
        widths=(128,), depths=(3,), norms=("instance",), activations=("relu", "leaky_relu"), poolings=("avg",)
    ),
}


def data() -> tuple[ImageData, ImageData, CondensedDataset]:
    """Blurred noise about a mean of each class: a training set, a test set, and ten images of each class."""
    generator = torch.Generator().manual_seed(0)
    means = F.interpolate(torch.rand(10, 1, 4, 4, generator=generator), size=(28, 28), mode="bilinear")
    parts = []
    for count in (1000, TESTED):
        labels = torch.arange(count) % 10
        pixels = means[labels] + 0.3 * torch.randn(count, 1, 28, 28, generator=generator)
        parts.append(((255 * pixels.clamp(0, 1)).round().to(torch.uint8), labels))
    train = ImageData.of(*parts[0])
    return train, ImageData.of(*parts[1], like=train), fastdc.coresets.random(train, 10)


def one_by_one(models: list[str], images: CondensedDataset, test: ImageData) -> list[float]:
    """Accuracies, as a script in plain PyTorch finds them."""
    accuracies = []
    for model in models:
        module: nn.Module = build(model, 1, 10, (28, 28))
        for phase in paper_training(EPOCHS):
            optimizer = torch.optim.SGD(module.parameters(), phase.lr, phase.momentum, weight_decay=phase.weight_decay)
            for _ in range(phase.epochs):
                for index in torch.randperm(len(images)).split(phase.batch):
                    optimizer.zero_grad()
                    F.cross_entropy(module(images.images[index]), images.labels[index]).backward()
                    optimizer.step()
        right = 0
        with torch.no_grad():
            for part in torch.arange(len(test)).split(256):
                right += int((module(test.normalised(part)).argmax(1) == test.labels[part]).sum())
        accuracies.append(right / len(test))
    return accuracies


@pytest.mark.parametrize("name", SPACES)
def bench_search(name: str, tmp_path: Path, record: Callable[..., None]) -> None:
    train, test, images = data()
    models = list(SPACES[name])
    assert all(not NativeEngine.unsupported_reasons(build(model, 1, 10, (28, 28))) for model in models)
    options = TrialOptions(epochs=EPOCHS, whole_set_epochs=1, stopped_after=1, seed=0, engine="auto", device="cpu", protocol="dc")
    one_by_one(models[:1], images, test)  # warms up
    seconds: dict[str, list[float]] = {"eager": [], "search": []}
    for turn in range(2):
        runner = TrialRunner(tmp_path / str(turn), train, test, {"random": images}, options)
        trials = [Trial(model, ("random",)) for model in models]
        started = time.monotonic()
        assert not do_trials(runner, trials, doing="searching", progress=False)
        seconds["search"].append(time.monotonic() - started)
        started = time.monotonic()
        eager = one_by_one(models, images, test)
        seconds["eager"].append(time.monotonic() - started)
    found = [runner.outcome(trial, "random").accuracy for trial in trials]
    assert abs(sum(found) - sum(eager)) / len(models) < 0.05
    each = {who: min(values) / len(models) for who, values in seconds.items()}
    record("seconds per network", networks=len(models), **each, ratio=each["eager"] / each["search"])
