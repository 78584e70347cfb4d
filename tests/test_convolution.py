"""The kernels of convolutions with weights of each class against their plain definition; and where the engine takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from conftest import needs_triton, needs_triton_to_run
from helpers import relative
from test_products import all_passes, convolution, noise
from tolerances import FLOAT32_ENGINES, FLOAT64_ENGINES, PRECISION_ERROR
from torch import Tensor

from fastdc.engines import CudaEngine
from fastdc.engines.chain.base import Network
from fastdc.engines.chain.convolution import OUTPUTS, Direct, DirectLinearPass, DirectPass, directly
from fastdc.engines.chain.precision import PRECISIONS
from fastdc.engines.chain.products import ConvolutionPass, LinearPass
from fastdc.engines.plan import Convolution, Linear
from fastdc.models import build
from fastdc.runtime.isolation import isolated

pytestmark = [needs_triton, needs_triton_to_run]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

CASES = {  # a convolution, classes, images of each, and their size
    "3x3 of three channels": (convolution(3, 5, (3, 3), (1, 1), (1, 1)), 2, 2, (7, 6)),
    "3x3 of more features than a block, and more places": (convolution(2, 35, (3, 3), (1, 1), (1, 1)), 2, 3, (5, 7)),
    "3x3, more numbers of a window than a block": (convolution(17, 3, (3, 3), (1, 1), (1, 1)), 1, 3, (4, 3)),
    "5x5, no padding": (convolution(3, 4, (5, 5), (1, 1), (0, 0)), 3, 1, (6, 7)),
    "3x2, padding 2 by 1": (convolution(2, 3, (3, 2), (1, 1), (2, 1)), 2, 2, (4, 3)),
    "1x1": (convolution(18, 2, (1, 1), (1, 1), (0, 0)), 2, 3, (2, 2)),
}


def passes(name: str, dtype: torch.dtype, precision: str, first: bool, kind: type[ConvolutionPass]) -> list[Tensor]:
    return all_passes(CASES[name], dtype, precision, first, kind)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every convolution of several classes, or of one, goes through patches or by the kernels; what the library computes is not rounded."""
    monkeypatch.setattr(ConvolutionPass, "_by_patches", lambda *_: True)
    with isolated():
        yield


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("parts", [False, True])
def test_kernels_give_what_the_plain_passes_give(name: str, first: bool, parts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastdc.kernels import convolution as kernels

    monkeypatch.setattr(kernels, "STEPS", 1 if parts else 1 << 20)
    dtype, bound = (torch.float64, FLOAT64_ENGINES) if kernels.serves(torch.float64) else (torch.float32, FLOAT32_ENGINES)
    found, expected = passes(name, dtype, "float32", first, DirectPass), passes(name, torch.float64, "float32", first, ConvolutionPass)
    for value, right in zip(found, expected, strict=True):
        assert relative(value, right) < bound


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["3x3 of three channels", "1x1"])
def test_sums_stay_float32_at_every_precision(name: str, precision: str) -> None:
    exact = passes(name, torch.float64, precision, False, ConvolutionPass)
    for found, expected in zip(passes(name, torch.float32, precision, False, DirectPass), exact, strict=True):
        assert found.dtype == torch.float32
        assert relative(found, expected) < PRECISION_ERROR[precision][1]


@pytest.mark.cuda  # the interpreter multiplies no matrices of bfloat16
def test_operands_may_be_bfloat16() -> None:
    """As they are on a GPU where products are rounded to it: a sum of float32 of what is left of them."""
    from fastdc.kernels import convolution as kernels

    x, weights = noise(4, 3, 5, 6, seed=1).to(DEVICE, torch.bfloat16), noise(2, 5, 3, 3, 3, seed=2).to(DEVICE, torch.bfloat16)
    windows = kernels.Windows((3, 3), (1, 1))
    y = kernels.convolve([(x, weights)], windows, False, "ieee", torch.float32)
    expected = [torch.conv2d(maps.double(), w.double(), padding=1) for maps, w in zip(x.chunk(2), weights, strict=True)]
    assert relative(y.double(), torch.cat(expected)) < FLOAT32_ENGINES
    sums = torch.zeros(2, 5, 3, 3, 3, device=DEVICE)
    kernels.add_weight_gradients(sums, x, y.bfloat16(), windows, "ieee")
    again = torch.nn.functional.conv2d(x[:2].double().transpose(0, 1), y[:2].bfloat16().double().transpose(0, 1), padding=1)
    assert relative(sums[0].double(), again.transpose(0, 1)) < FLOAT32_ENGINES


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("classes", [1, 3])
def test_a_linear_layer_goes_back_along_a_direction_as_the_plain_one_does(classes: int) -> None:
    step = Linear("w", "b", 7, 4)
    weights = {"w": noise(4, 7, seed=1).float().to(DEVICE), "b": noise(4, seed=2).float().to(DEVICE)}
    x, gy, tgy = (noise(2 * classes, n, seed=3 + i).float().to(DEVICE) for i, n in enumerate((7, 4, 4)))
    direction = {"w": noise(classes, 5, 7, seed=9)[:, :4].float().to(DEVICE)}  # classes further apart than their numbers
    found = []
    for kind in (DirectLinearPass, LinearPass):
        made = kind(step, Network(weights, {}), x)
        made.back(gy, {})
        made.along(None, direction)
        found.append(made.back_along(tgy, {}))
    assert relative(*found) < FLOAT32_ENGINES


@pytest.mark.parametrize(
    ("step", "served"),
    [
        (convolution(3, 128, (3, 3), (1, 1), (1, 1)), True),
        (convolution(3, 128, (7, 5), (1, 1), (6, 2)), True),
        (convolution(128, 128, (3, 3), (2, 1), (1, 1)), False),
        (convolution(128, 128, (3, 3), (1, 1), (1, 1), dilation=2), False),
        (convolution(128, 128, (3, 3), (1, 1), (3, 1)), False),  # more zeros around than a window has numbers
        (Linear("w", None, 512, OUTPUTS), True),
        (Linear("w", None, 512, OUTPUTS + 1), False),
        (Linear("w", None, 512, 10, 2), False),
    ],
)
def test_kernels_serve_a_stride_of_one_and_few_outputs(step: Convolution | Linear, served: bool) -> None:
    (link,) = directly((step,))
    assert isinstance(link, Direct) == served


@pytest.mark.parametrize(
    ("channels", "classes", "each", "gradients", "expected"),
    [
        (17, 4, 2, 4, True),  # few images of several classes: one launch
        (17, 1, 8, 1, False),  # one class is a call of the library
        (1, 1, 8, 1, False),  # of few channels as well
        (17, 4, 2, 0, False),  # nobody has asked for gradients of each class
    ],
)
def test_the_way_back_of_few_images_of_several_classes_is_direct(
    channels: int, classes: int, each: int, gradients: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = convolution(channels, 18, (3, 3), (1, 1), (1, 1))
    called: list[Any] = []
    monkeypatch.setattr(DirectPass, "_convolved", lambda self, terms, back: called.append(back) or torch.zeros_like(self.x))
    monkeypatch.setattr(DirectPass, "add_weight_gradients", lambda *_: None)
    network = Network({"w": torch.zeros(18, channels, 3, 3), "b": torch.zeros(18)}, {})
    made = DirectPass(step, network, torch.zeros(classes * each, channels, 4, 4))
    made.back(torch.zeros_like(made.y), {"w": torch.zeros(gradients, 18, channels, 3, 3)} if gradients else {})
    assert called == [True] * expected


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_engine_takes_them_at_every_precision(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastdc.kernels import convolution as kernels

    engine = CudaEngine(build("convnet:width=16,depth=1", 3, 4, (8, 8)).to(DEVICE), precision, kernels=True)
    marked = [type(link.product).__name__ for link in engine._chain if isinstance(link, Direct)]
    assert marked == ["Convolution", "Linear"]
    told: list[str] = []
    monkeypatch.setattr(kernels, "launch", lambda *_, PRECISION, **__: told.append(PRECISION))  # noqa: N803
    theta, images = engine.layout.flatten(engine.module), torch.zeros(4, 2, 3, 8, 8, device=DEVICE)
    engine.match(theta, images, torch.zeros(4, len(theta), device=DEVICE), "mse")
    assert told == ["tf32" if precision == "tf32" else "ieee"] * 4  # weight gradients, along, back along twice


@pytest.mark.parametrize("job", ["features", "feature_gradients"])
def test_features_are_those_before_the_last_layer(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the kernels serve."""
    engine = CudaEngine(build("convnet:width=4,depth=1", 3, 10, (8, 8)).to(DEVICE), kernels=True)
    monkeypatch.setattr("fastdc.engines.base.Engine." + job, lambda *_: pytest.fail("not through the chain"))
    theta, images = engine.layout.flatten(engine.module), torch.randn(2, 3, 8, 8, device=DEVICE)
    jobs: dict[str, Callable[[], Tensor]] = {
        "features": lambda: engine.features(theta, images),
        "feature_gradients": lambda: engine.feature_gradients(theta, images, torch.ones(2, 64, device=DEVICE)),
    }
    assert jobs[job]().isfinite().all()
