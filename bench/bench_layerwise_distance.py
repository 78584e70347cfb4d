"""The layer-wise distance: every backend beside the plain definition and its backward, and beside torch.add on the same arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastdc.engines.reference import plain_distance
from fastdc.metrics.layout import Parameter, ParameterLayout
from fastdc.metrics.operator import layerwise_distance
from fastdc.metrics.tiles import tiles_of
from fastdc.models import build
from fastdc.runtime import compiled

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BACKENDS = ["reference", "triton", "cuda"] if DEVICE.type == "cuda" else ["reference", "cpp"]
CASES = {"convnet-10": ("convnet", 10), "convnet-100": ("convnet", 100), "resnet18-10": ("resnet18", 10)}


@functools.cache
def layout_of(model: str) -> ParameterLayout:
    """The default ConvNet's layout, or rows as those of a ResNet-18 with instance norm: 11 million elements."""
    if model == "convnet":
        return ParameterLayout.of(build("convnet", 1, 10, (28, 28)))
    shapes: list[tuple[int, ...]] = [(64, 3, 3, 3), (64,), (64,)]
    for width, below in ((64, 64), (128, 64), (256, 128), (512, 256)):
        for convolution in ((width, below, 3, 3), *[(width, width, 3, 3)] * 3):
            shapes += [convolution, (width,), (width,)]
        shapes += [(width, below, 1, 1), (width,), (width,)] if width != below else []
    shapes += [(10, 512), (10,)]
    parameters, offset = [], 0
    for i, shape in enumerate(shapes):
        parameters.append(Parameter(str(i), offset, shape))
        offset += parameters[-1].size
    return ParameterLayout(tuple(parameters))


@functools.cache
def gradients(case: str) -> tuple[ParameterLayout, Tensor, Tensor]:
    model, classes = CASES[case]
    layout = layout_of(model)
    torch.manual_seed(0)
    return layout, torch.randn(classes, layout.size, device=DEVICE), torch.randn(classes, layout.size, device=DEVICE)


def synchronised(job: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        job()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return run


def plain_value_and_backward(layout: ParameterLayout, synthetic: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Class by class, layer by layer, with autograd: what a script of the paper's authors does."""
    leaf = synthetic.detach().requires_grad_()
    distances = [
        plain_distance(list(layout.views(a).values()), list(layout.views(b).values()), "layerwise_cosine")
        for a, b in zip(leaf, real, strict=True)
    ]
    distance = torch.stack(distances)
    return distance.detach(), torch.autograd.grad(distance.sum(), leaf)[0]


@functools.cache
def exact(case: str) -> tuple[Tensor, Tensor]:
    layout, synthetic, real = gradients(case)
    results = [
        layerwise_distance(a[None].double(), b[None].double(), layout, backend="reference") for a, b in zip(synthetic, real, strict=True)
    ]
    return torch.cat([r[0] for r in results]).cpu(), torch.cat([r[1].float() for r in results]).cpu()


def error_of(case: str, distance: Tensor, cotangent: Tensor) -> float:
    """The error of the distance against float64; asserts both results."""
    expected = exact(case)
    torch.testing.assert_close(distance.cpu().double(), expected[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(cotangent.cpu(), expected[1], rtol=1e-4, atol=1e-6)
    return float((distance.cpu().double() - expected[0]).norm() / expected[0].norm())


@pytest.mark.parametrize("backend", ["plain", *BACKENDS])
@pytest.mark.parametrize("case", CASES)
def bench_distance(timed: Any, backend: str, case: str) -> None:
    """The public call, which allocates its results."""
    layout, synthetic, real = gradients(case)
    if backend == "plain":
        job = functools.partial(plain_value_and_backward, layout, synthetic, real)
    else:
        job = functools.partial(layerwise_distance, synthetic, real, layout, backend=backend)
    error = error_of(case, *job())
    timed("distance and cotangent", synchronised(job), rounds=9, error=error)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="the compiled CPU kernel is measured on a machine without a GPU")
@pytest.mark.parametrize("job", ["torch.add", "cpp"])
@pytest.mark.parametrize("case", CASES)
def bench_bandwidth(timed: Any, job: str, case: str) -> None:
    """The kernel alone, into arrays that are there already, beside torch.add: both read two arrays and write one."""
    layout, synthetic, real = gradients(case)
    cotangent, distance = torch.empty_like(synthetic), torch.empty(len(synthetic))
    tiles = tiles_of(layout.segments(), layout.size, DEVICE).numpy()
    arrays = [[synthetic.numpy()], [real.numpy()], tiles, "layerwise_cosine", distance.numpy(), [cotangent.numpy()]]
    if job == "torch.add":
        timed("memory given", lambda: torch.add(synthetic, real, out=cotangent), rounds=9)
        return
    assert compiled.extension is not None
    kernel = functools.partial(compiled.extension.layerwise_distance, *arrays, threads=torch.get_num_threads())
    kernel()
    error_of(case, distance, cotangent)
    timed("memory given", kernel, rounds=9, gigabytes=3 * cotangent.nbytes / 1e9)
