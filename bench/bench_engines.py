"""The torch engine beside the reference: default ConvNet of width 128, 10 classes, 28x28 grey images, 256 real ones per class.

`image gradients` is the engine's job alone; `synthetic side` is all of it: class gradients, distance and image gradients, where
the reference computes the first once, keeps its graph and goes back through it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from fastdc.engines import Engine, make_engine
from fastdc.models import build

ENGINES = ["reference", "torch"]
IPCS = [1, 10, 50]
CLASSES, REAL, METRIC = 10, 256, "layerwise_cosine"
TOLERANCE = 1e-4  # float32; the largest error measured was 1.3e-6


@lru_cache
def problem() -> tuple[dict[str, Engine], Tensor, Tensor]:
    torch.manual_seed(0)
    module = build("convnet", 1, CLASSES, (28, 28))
    engines = {name: make_engine(name, module) for name in ENGINES}
    return engines, engines["reference"].layout.flatten(module), torch.randn(CLASSES, REAL, 1, 28, 28)


@lru_cache
def synthetic(ipc: int) -> tuple[Tensor, Tensor]:
    """Images [C, ipc, 1, 28, 28], and gradients [C, P] of other images in the place of the real ones."""
    engines, theta, real = problem()
    generator = torch.Generator().manual_seed(ipc)
    return torch.randn(CLASSES, ipc, 1, 28, 28, generator=generator), engines["reference"].class_gradients(theta, real[:, :8])


def compare(job: Callable[[Engine], Tensor], name: str) -> float:
    """The relative error of one engine's result against the reference's; more than rounding fails."""
    engines = problem()[0]
    expected = job(engines["reference"])
    error = ((job(engines[name]) - expected).norm() / expected.norm()).item()
    assert error < TOLERANCE
    return error


@pytest.mark.parametrize("name", ENGINES)
def bench_class_gradients(timed: Any, name: str) -> None:
    engines, theta, real = problem()
    error = compare(lambda engine: engine.class_gradients(theta, real[:2]), name)
    timed("class gradients", lambda: engines[name].class_gradients(theta, real), error=error)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("ipc", IPCS)
def bench_image_gradients(timed: Any, name: str, ipc: int) -> None:
    engines, theta, _ = problem()
    images, cotangent = synthetic(ipc)
    error = compare(lambda engine: engine.image_gradients(theta, images, cotangent), name)
    timed("image gradients", lambda: engines[name].image_gradients(theta, images, cotangent), error=error)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("ipc", IPCS)
def bench_synthetic_side(timed: Any, name: str, ipc: int) -> None:
    engines, theta, _ = problem()
    images, gradients = synthetic(ipc)
    error = compare(lambda engine: engine.match(theta, images, gradients, METRIC)[1], name)
    timed("synthetic side", lambda: engines[name].match(theta, images, gradients, METRIC), error=error)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("ipc", IPCS)
def bench_matching_step(timed: Any, name: str, ipc: int) -> None:
    engines, theta, real = problem()
    images, _ = synthetic(ipc)
    engine = engines[name]
    timed("whole step", lambda: engine.match(theta, images, engine.class_gradients(theta, real), METRIC))
