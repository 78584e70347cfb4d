"""Coresets at FashionMNIST's size: the choice by given features, 60,000 x 2,048 in ten classes; and features of a network."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import peak_mib
from torch import Tensor

import fastdc
from fastdc.coresets.features import network_features
from fastdc.coresets.herding import match_mean
from fastdc.coresets.k_center import farthest_first
from fastdc.data import ImageData
from fastdc.engines import make_engine
from fastdc.models import build

CLASSES, EACH, FEATURES = 10, 6000, 2048
IPCS = [1, 10, 50]
PICKS: dict[str, Callable[[Tensor, int], Tensor]] = {"herding": match_mean, "k_center": farthest_first}

# A choice of all ten classes, whose features are made class by class as the coresets make them.
CHOICE = """
import sys, torch
from fastdc.coresets.herding import match_mean
from fastdc.coresets.k_center import farthest_first
name, ipc = sys.argv[1], int(sys.argv[2])
for c in range(10):
    features = torch.randn(6000, 2048)
    if name != "features alone":
        {"herding": match_mean, "k_center": farthest_first}[name](features, ipc)
"""


@lru_cache
def features() -> Tensor:
    """Features of one class [n, F]; the time of a choice does not depend on their values."""
    return torch.randn(EACH, FEATURES, generator=torch.Generator().manual_seed(0))


@lru_cache
def images() -> ImageData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (CLASSES * EACH, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return ImageData.of(pixels, torch.arange(len(pixels)) % CLASSES)


@pytest.mark.parametrize("ipc", IPCS)
@pytest.mark.parametrize("name", ["random", *PICKS])
def bench_choice(timed: Any, benchmark: Any, name: str, ipc: int) -> None:
    if name == "random":
        data = images()
        timed("choice of ten classes, features given", lambda: fastdc.coresets.random(data, ipc))
        return
    rows, pick = features(), PICKS[name]
    assert len(set(pick(rows, ipc).tolist())) == ipc
    timed("choice of ten classes, features given", lambda: [pick(rows, ipc) for _ in range(CLASSES)], rounds=1)
    if ipc == 50:
        assert benchmark.stats.stats.median < 60


def bench_features(timed: Any) -> None:
    data, module = images(), build("convnet", 1, CLASSES, (28, 28)).eval()
    index = torch.arange(1000)
    engine = make_engine("auto", module)
    assert network_features(engine, data, index).shape == (1000, FEATURES)
    timed("features of 1,000 images, default network", lambda: network_features(engine, data, index))


def bench_herding(benchmark: Any, record: Callable[..., None], tmp_path: Path) -> None:
    """The whole call, by a network that was trained before."""
    herding = lambda: fastdc.coresets.herding(images(), 10, epochs=1, cache=tmp_path, progress=False)  # noqa: E731
    benchmark.pedantic(herding, rounds=3, warmup_rounds=1)
    record("herding of 60,000 images by a network trained before", ipc=10, seconds=benchmark.stats.stats.median, rounds=3)


def bench_memory_of_a_choice_is_far_below_the_features_of_the_set(record: Callable[..., None]) -> None:
    idle = peak_mib(CHOICE, "features alone", 1)
    rows = {(name, ipc): peak_mib(CHOICE, name, ipc) for name in PICKS for ipc in IPCS}
    for (name, ipc), peak in rows.items():
        record("peak memory of a choice", name=name, ipc=ipc, mib=peak, idle_mib=idle)
    assert max(rows.values()) < idle + CLASSES * EACH * FEATURES * 4 / 2**20 / 4
