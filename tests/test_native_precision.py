"""Products that the native engine rounds to bfloat16: of what numbers, how far from exact ones, and where a processor cannot."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers import needs_bfloat16, relative
from test_native import GREY, SMALL, assert_same_bits, jobs, make, make_input
from tolerances import NATIVE_BFLOAT16, NATIVE_BFLOAT16_PRODUCTS
from torch import Tensor, nn

import fastdc
from fastdc.engines import NativeEngine, resolve_engine
from fastdc.errors import UsageError
from fastdc.runtime import compiled

# Smooth ones: by Winograd's planes; and, on maps of 2x2 pixels, by patches.
NETWORKS = [
    ("convnet:width=16,activation=swish", (3, 32, 32)),
    ("convnet:width=20,activation=swish", GREY),
    ("convnet:width=40,depth=2,norm=layer,activation=sigmoid,pooling=none", (3, 9, 10)),
    ("convnet:width=24,depth=3,norm=group,activation=swish", SMALL),
    ("convnet:width=176,depth=2,norm=none,activation=swish", (2, 4, 4)),
]


def rounding(spec: str, size: tuple[int, int, int], each: int = 3) -> tuple[NativeEngine, tuple[Tensor, Tensor, Tensor]]:
    """An engine that rounds; its weights, images of three classes and a cotangent, in float64."""
    module, theta = make(spec, size, 3)
    engine = NativeEngine(module.float(), "bfloat16")
    return engine, (theta, *make_input(engine, size, 3, each))


@needs_bfloat16
def test_a_product_is_that_of_its_rounded_operands() -> None:
    torch.manual_seed(0)
    first, last = nn.Conv2d(5, 24, 3, stride=2), nn.Linear(24 * 4 * 4, 3)
    engine = NativeEngine(nn.Sequential(first, nn.ReLU(), nn.Flatten(), last), "bfloat16")
    images = torch.randn(7, 5, 9, 9)
    map_read, weight = (values.bfloat16().double() for values in (images, first.weight.detach()))
    maps = F.conv2d(map_read, weight, first.bias.detach().double(), stride=2)
    expected = F.linear(maps.relu().flatten(1), last.weight.detach().double(), last.bias.detach().double())
    assert relative(engine.logits(engine.layout.flatten(engine.module), images), expected) < NATIVE_BFLOAT16_PRODUCTS


@needs_bfloat16
@pytest.mark.parametrize(("spec", "size"), NETWORKS)
def test_every_job_is_as_far_from_float64_as_rounding_makes_it(spec: str, size: tuple[int, int, int]) -> None:
    engine, exactly = rounding(spec, size)
    expected = jobs(NativeEngine(copy.deepcopy(engine.module).double()), *exactly)
    least, most = NATIVE_BFLOAT16
    for name, found in jobs(engine, *(values.float() for values in exactly)).items():
        error = relative(found, expected[name])
        assert error < most, name
        assert name == "distance" or error > least, name


@needs_bfloat16
@pytest.mark.parametrize(("spec", "size"), [NETWORKS[0], *NETWORKS[-2:]])
def test_any_number_of_threads_gives_the_same_bits(spec: str, size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    engine, exactly = rounding(spec, size, each=17)
    given = [values.float() for values in exactly]
    results = []
    for threads in (1, 2, 3, 4):
        monkeypatch.setattr("fastdc.engines.native.compute_threads", lambda threads=threads: threads)
        results.append(jobs(engine, *given))
    for found in results[1:]:
        assert_same_bits(found, results[0])


@needs_bfloat16
def test_float64_is_not_rounded() -> None:
    module, theta = make("convnet:width=8", SMALL, 3)
    engines = [NativeEngine(copy.deepcopy(module), precision) for precision in ("float32", "bfloat16")]
    given = theta, *make_input(engines[0], SMALL, 3, 2)
    assert_same_bits(*(jobs(engine, *given) for engine in engines))


@needs_bfloat16
def test_images_are_condensed_with_rounded_products() -> None:
    data = torch.rand(30, 1, 8, 8), torch.arange(30) % 3
    options = {"model": "convnet:width=8,depth=2", "iterations": 2, "device": "cpu", "progress": False}
    exact, rounded = (fastdc.condense(data, 1, precision=precision, **options) for precision in ("float32", "bfloat16"))
    assert rounded.provenance is not None
    assert {key: rounded.provenance["config"][key] for key in ("engine", "precision")} == {"engine": "native", "precision": "bfloat16"}
    assert 0 < relative(rounded.images, exact.images) < 1
    tested = fastdc.evaluate(rounded, data, model="mlp:width=8", networks=1, epochs=1, precision="bfloat16", progress=False)
    assert tested.precision == "bfloat16"


def test_a_processor_without_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "extension", SimpleNamespace(**{**vars(compiled.extension or SimpleNamespace()), "BFLOAT16": False}))
    module = fastdc.models.build("mlp:width=8", 1, 3, (8, 8))
    for engine in ("native", "auto"):
        with pytest.raises(UsageError, match="native: this processor has no AVX-512 BF16"):
            resolve_engine(engine, module, "bfloat16")
