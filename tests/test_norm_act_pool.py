"""The kernels of norm, activation and pooling against their plain definition, in float64: value, adjoint, tangent, and tangent of the
adjoint, of every norm, activation and pooling that they have."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable
from typing import Any

import pytest
import test_passes
import torch
from conftest import needs_triton, needs_triton_to_run
from helpers import relative
from tolerances import FLOAT64_ENGINES
from torch import Tensor

from fastdc.engines import CudaEngine
from fastdc.engines.chain.activations import DERIVATIVES
from fastdc.engines.chain.base import Network, Pass
from fastdc.engines.chain.norm_act_pool import Block, BlockPass, in_blocks
from fastdc.engines.chain.passes import Passes
from fastdc.engines.plan import Activation, Convolution, Flatten, Linear, Norm, Pooling
from fastdc.models import build

pytestmark = [needs_triton, needs_triton_to_run]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLASSES, CHANNELS = 2, 4
NORMS = {
    "none": None,
    "instance": Norm("instance", "w", "b", 1e-5),
    "instance without weights": Norm("instance", None, None, 1e-3),
    "group": Norm("group", "w", "b", 1e-5, groups=2),
    "batch": Norm("batch", "w", "b", 1e-5, mean="mean", variance="variance"),
}
POOLINGS = {"none": None, **{kind: Pooling(kind, (2, 2), (2, 2)) for kind in ("avg", "max")}}
ACTIVATIONS = {name: Activation(name, 0.1 if name == "leaky_relu" else None) for name in DERIVATIVES}
# Every pair of a norm, an activation and a pooling, and odd sides; a map in several steps.
CASES = [
    *((norm, "swish", pooling, (5, 6)) for norm, pooling in itertools.product(NORMS, POOLINGS)),
    *((norm, activation, "max", (4, 3)) for norm, activation in itertools.product(("none", "group"), DERIVATIVES)),
    *(("instance", activation, "avg", (2, 2)) for activation in DERIVATIVES),
    ("group", "tanh", "avg", (37, 30)),
    ("batch", "relu", "max", (3, 401)),
    ("instance", "sigmoid", "none", (33, 33)),
]


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def all_passes(layer: Any, pooled: tuple[int, ...], shape: tuple[int, ...], affine: bool, turned: bool) -> list[Tensor]:
    """What the four passes of a layer give, and what they add to gradients."""
    added = [{name: torch.ones(CLASSES, CHANNELS, dtype=torch.float64, device=DEVICE) for name in "wb"} if affine else {} for _ in range(2)]
    direction = {name: noise(CLASSES, CHANNELS, seed=7 + i) for i, name in enumerate("wb")} if affine and turned else {}
    made: Pass = layer
    found = [made.y, made.back(noise(*pooled, seed=5), added[0])]
    found += [made.along(noise(*shape, seed=6), direction), made.back_along(noise(*pooled, seed=9), added[1])]
    return [*found, *added[0].values(), *added[1].values()]


@pytest.mark.parametrize(("norm", "activation", "pooling", "size"), CASES)
def test_kernels_give_what_the_plain_passes_give(norm: str, activation: str, pooling: str, size: tuple[int, int]) -> None:
    turned = pooling != "avg" or activation == "swish"
    check_passes(norm, activation, pooling, size, each=2 if pooling == "none" else 1, turned=turned)


@pytest.mark.parametrize(("norm", "size", "block"), [("instance", (5, 6), 1024), ("none", (5, 6), 1024), ("batch", (4, 3), 256)])
def test_a_program_takes_several_sets_and_the_last_one_fewer(
    norm: str, size: tuple[int, int], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastdc.kernels import norm_act_pool as kernels

    monkeypatch.setattr(kernels, "BLOCK", block)
    rows = kernels.Block("sets", CHANNELS, 0.0, "relu", 0.0, "max").tile(1, *size)["ROWS"]
    assert 1 < rows < CLASSES * 3 * CHANNELS
    assert CLASSES * 3 * CHANNELS % rows
    check_passes(norm, "tanh", "max", size, each=3)


def check_passes(norm: str, activation: str, pooling: str, size: tuple[int, int], each: int, turned: bool = True) -> None:
    """Compare all passes of a block with the plain ones, `each` images of a class; `turned`: along a direction of the norm as well."""
    block = Block(NORMS[norm], ACTIVATIONS[activation], POOLINGS[pooling])
    affine = block.norm is not None and block.norm.weight is not None
    weights = {name: noise(CHANNELS, seed=i) for i, name in enumerate("wb")}
    buffers = {"mean": noise(CHANNELS, seed=2), "variance": noise(CHANNELS, seed=3).square() + 0.5}
    network, x = Network(weights, buffers), noise(CLASSES * each, CHANNELS, *size, seed=4)
    if activation != "swish":
        x[..., : size[0] // 2, :] = 0.25  # numbers alike: of several largest ones the first counts
    plain, fused = Passes([step for step in block if step is not None], network, x), BlockPass(block, network, x)
    results = [all_passes(layer, tuple(plain.y.shape), tuple(x.shape), affine, turned) for layer in (plain, fused)]
    for expected, found in zip(*results, strict=True):
        assert relative(found, expected) < FLOAT64_ENGINES


def test_blocks_are_what_stands_together() -> None:
    convolution, linear = Convolution("c", None, 1, 4, (3, 3), (1, 1), (1, 1), (1, 1), 1), Linear("l", None, 4, 2)
    norm, batch, layer = NORMS["instance"], NORMS["batch"], Norm("layer", "w", "b", 1e-5, shape=(4, 2, 2))
    relu, avg, wide = Activation("relu"), POOLINGS["avg"], Pooling("max", (3, 3), (2, 2))
    assert norm is not None
    assert batch is not None
    assert avg is not None
    assert in_blocks([convolution, norm, relu, avg, convolution, relu, convolution, batch, relu, Flatten(None), linear]) == (
        convolution,
        Block(norm, relu, avg),
        convolution,
        Block(None, relu, None),
        convolution,
        Block(batch, relu, None),
        Flatten(None),
        linear,
    )
    apart = [relu, wide, layer, relu, norm, avg, norm, convolution, Flatten(None), linear, relu, linear]
    assert in_blocks(apart) == (Block(None, relu, None), wide, layer, Block(None, relu, None), *apart[4:])
    assert in_blocks([Activation("mish"), norm]) == (Activation("mish"), norm)


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU tests/test_cuda_engines.py does it")
@pytest.mark.parametrize(
    ("spec", "size", "jobs"),
    [
        ("convnet:width=2,depth=1", (5, 6), test_passes.JOBS),
        ("convnet:width=2,depth=1,norm=batch,activation=swish,pooling=max", (5, 6), test_passes.JOBS),
        ("convnet:width=16,depth=2", (8, 9), ["class_gradients", "match"]),  # a convolution by Winograd
    ],
)
def test_an_engine_with_kernels_equals_the_reference(
    spec: str, size: tuple[int, int], jobs: Iterable[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(test_passes.MODULES, "small", (lambda: build(spec, 1, test_passes.CLASSES, size), (1, *size)))
    case = test_passes.Case("small")
    for job in jobs:
        engine = CudaEngine(copy.deepcopy(case.module), kernels=True)
        for found, expected in zip(case.run(job, engine), case.expected(job), strict=True):
            assert relative(found, expected) < FLOAT64_ENGINES


def test_an_engine_with_kernels_reads_vectors_that_are_not_contiguous() -> None:
    torch.manual_seed(0)
    engine = CudaEngine(build("convnet:width=2,depth=1", 1, CLASSES, (4, 4)).to(DEVICE, torch.float64), kernels=True)
    theta, images = engine.layout.flatten(engine.module), noise(CLASSES, 1, 1, 4, 4, seed=1)
    apart = noise(len(theta), CLASSES, seed=2)
    strided = theta[:, None].repeat(1, 2)[:, 0]
    by_images = [engine.image_gradients(strided, images, apart.T), engine.image_gradients(theta, images, apart.T.contiguous())]
    products = [engine.hessian_products(theta, images, vector)[0] for vector in (apart[:, 0], apart[:, 0].contiguous())]
    assert torch.equal(*by_images)
    assert torch.equal(*products)
