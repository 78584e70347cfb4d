"""The ways of convolutions with weights of each class: through patches, by Winograd, class by class; in float64 and at every precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import relative
from tolerances import FLOAT64_ENGINES, PRECISION_ERROR, WINOGRAD_TO_CONVOLUTION
from torch import Tensor

from fastdc.engines import CudaEngine
from fastdc.engines.chain import products, winograd
from fastdc.engines.chain.base import Network
from fastdc.engines.chain.mirrored import MirroredWeights
from fastdc.engines.chain.precision import PRECISIONS
from fastdc.engines.chain.products import ConvolutionPass
from fastdc.engines.chain.winograd import Winograd, WinogradPass, by_winograd, winograd_pass
from fastdc.engines.plan import Convolution
from fastdc.metrics import ParameterLayout
from fastdc.models import build

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def convolution(channels: int, features: int, *window: tuple[int, int], dilation: int = 1, groups: int = 1) -> Convolution:
    kernel, stride, padding = window
    return Convolution("w", "b", channels, features, kernel, stride, padding, (dilation, dilation), groups)


Case = tuple[Convolution, int, int, tuple[int, int]]
CASES: dict[str, Case] = {  # a convolution, classes, images of each, and their size
    "3x3 of three channels": (convolution(3, 5, (3, 3), (1, 1), (1, 1)), 2, 2, (7, 6)),
    "5x5, stride 2, classes of one image": (convolution(5, 3, (5, 5), (2, 2), (2, 2)), 3, 1, (9, 5)),
    "1x1, stride 2 by 1": (convolution(4, 2, (1, 1), (2, 1), (0, 0)), 2, 3, (4, 5)),
    "3x2, stride 1 by 3, padding 0 by 1": (convolution(2, 3, (3, 2), (1, 3), (0, 1)), 2, 2, (5, 8)),
    "4x4, stride 3, rows that no window reads": (convolution(1, 2, (4, 4), (3, 3), (0, 0)), 2, 1, (9, 11)),
    "3x2, dilation 2": (convolution(18, 17, (3, 2), (1, 2), (1, 1), dilation=2), 2, 2, (7, 5)),
}
SQUARES: dict[str, Case] = {  # likewise, those that Winograd serves
    "3x3": (convolution(16, 17, (3, 3), (1, 1), (1, 1)), 2, 2, (4, 7)),
    "3x3, one class": (convolution(17, 16, (3, 3), (1, 1), (1, 1)), 1, 6, (4, 3)),
    "3x3, padding 0 by 2": (convolution(16, 16, (3, 3), (1, 1), (0, 2)), 2, 1, (6, 4)),
    "3x3, groups": (convolution(32, 34, (3, 3), (1, 1), (1, 1), groups=2), 2, 2, (4, 4)),
    "5x5": (convolution(18, 16, (5, 5), (1, 1), (2, 2)), 2, 2, (3, 4)),
    "5x5, padding 4 by 0": (convolution(16, 18, (5, 5), (1, 1), (4, 0)), 1, 3, (4, 9)),
}


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_class(values: Tensor, step: Convolution) -> dict[str, Tensor]:
    """Weight and bias in rows [G, P], as gradients of all parameters of a network are."""
    bias, weight = values[:, : step.features], values[:, step.features : -1]
    return {"w": weight.unflatten(1, (step.features, step.channels // step.groups, *step.kernel)), "b": bias}


def all_passes(
    case: Case, dtype: torch.dtype, precision: str, first: bool = False, kind: type[ConvolutionPass] = ConvolutionPass
) -> list[Tensor]:
    """What the four passes of a convolution give, and what they add to gradients; of the `first` of a chain x' is zero."""
    step, classes, each, size = case
    parameters = step.features * (1 + step.channels // step.groups * step.kernel[0] * step.kernel[1]) + 1

    def given(*shape: int, seed: int) -> Tensor:
        return noise(*shape, seed=seed).to(DEVICE, dtype)

    weights = {key: value[0] for key, value in by_class(given(1, parameters, seed=1), step).items()}
    added = [given(classes, parameters, seed=2) for _ in range(2)]
    maps = (classes * each, step.channels, *size)
    done = kind(step, Network(weights, {}, PRECISIONS[precision]), given(*maps, seed=3))
    found = [done.y, done.back(given(*done.y.shape, seed=4), by_class(added[0], step))]
    found.append(done.along(None if first else given(*maps, seed=5), by_class(given(classes, parameters, seed=6), step)))
    found.append(done.back_along(given(*done.y.shape, seed=7), by_class(added[1], step)))
    return [*found, *added]


def both_ways(name: str, dtype: torch.dtype, precision: str, first: bool, monkeypatch: pytest.MonkeyPatch) -> list[list[Tensor]]:
    """What comes of patches, and of a convolution of each class."""
    found = []
    for patches in (True, False):
        monkeypatch.setattr(ConvolutionPass, "_by_patches", lambda self, _, patches=patches: patches and self.step.groups == 1)
        found.append(all_passes(CASES[name], dtype, precision, first))
    return found


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("first", [False, True])
def test_patches_give_what_a_convolution_of_each_class_gives(name: str, first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for found, expected in zip(*both_ways(name, torch.float64, "float32", first, monkeypatch), strict=True):
        assert relative(found, expected) < FLOAT64_ENGINES


@pytest.mark.parametrize("precision", PRECISIONS)
def test_sums_stay_float32_at_every_precision(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = all_passes(CASES["3x3 of three channels"], torch.float64, precision)
    for way in both_ways("3x3 of three channels", torch.float32, precision, False, monkeypatch):
        for found, expected in zip(way, exact, strict=True):
            assert found.dtype == torch.float32
            assert relative(found, expected) < PRECISION_ERROR[precision][1]


@pytest.mark.parametrize("name", CASES)
def test_patches_are_what_torch_unfolds(name: str) -> None:
    step, _, _, size = CASES[name]
    x = noise(2, step.channels, *size, seed=1)
    assert torch.equal(products.patches(x, step), F.unfold(x, step.kernel, step.dilation, step.padding, step.stride))


@pytest.mark.parametrize("name", CASES)
def test_patches_of_one_class_after_another_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "MOST", 1)
    for found, expected in zip(*both_ways(name, torch.float64, "float32", False, monkeypatch), strict=True):
        assert relative(found, expected) < FLOAT64_ENGINES


@pytest.mark.parametrize("name", CASES)
def test_the_way_back_is_the_transpose(name: str) -> None:
    step, _, _, size = CASES[name]
    x = noise(2, step.channels, *size, seed=1)
    made = ConvolutionPass(
        step, Network({"w": noise(step.features, step.channels, *step.kernel, seed=2), "b": noise(step.features, seed=3)}, {}), x
    )
    gy, tx = noise(*made.y.shape, seed=4), noise(*x.shape, seed=5)
    there = (gy * made.product(tx, made.weight)).sum()
    assert relative((made.transposed(gy, made.weight) * tx).sum(), there) < FLOAT64_ENGINES


@pytest.mark.parametrize(
    ("channels", "features", "kernel", "side", "classes", "each", "by_patches"),
    [
        (3, 128, 3, 32, 1, 256, True),  # windows of few numbers
        (256, 512, 1, 2, 1, 256, False),  # whose matrices would be much larger than the maps
        (128, 128, 3, 16, 10, 10, True),
        (128, 128, 3, 16, 10, 50, False),
        (128, 128, 3, 16, 1, 10, False),  # one class is one call of the library
        (3, 64, 7, 32, 4, 10, False),  # windows of the way back
    ],
)
def test_patches_are_taken_where_they_are_small(
    channels: int, features: int, kernel: int, side: int, classes: int, each: int, by_patches: bool
) -> None:
    around = (kernel // 2, kernel // 2)
    step = Convolution("w", None, channels, features, (kernel, kernel), (1, 1), around, (1, 1), 1)
    with torch.device("meta"):
        made = ConvolutionPass(
            step, Network({"w": torch.empty(features, channels, kernel, kernel)}, {}), torch.empty(classes * each, channels, side, side)
        )
    assert made._by_patches(classes) == by_patches


@pytest.mark.parametrize("precision", PRECISIONS)
def test_mirrored_weights_that_are_made_together_give_the_same_bits(precision: str) -> None:
    module = build("convnet:width=9,depth=2", 3, 4, (8, 8))
    layout = ParameterLayout.of(module)
    theta, mirrored = layout.flatten(module), MirroredWeights(layout, torch.device("cpu"))
    step = convolution(9, 9, (3, 3), (1, 1), (1, 1))._replace(weight="features.4.weight", bias=None)
    assert step.weight in layout.views(theta)
    found = []
    for mirror in (dict, lambda: mirrored.of(theta)):
        network = Network(layout.views(theta), {}, PRECISIONS[precision], mirror=mirror)
        made = ConvolutionPass(step, network, noise(2, 9, 4, 4, seed=1).float())
        found.append(made.back(noise(*made.y.shape, seed=2).float(), {}))
        assert (step.weight in network.mirrored) == (mirror is not dict)
    assert torch.equal(*found)


@pytest.mark.parametrize("name", SQUARES)
@pytest.mark.parametrize("first", [False, True])
def test_winograd_gives_what_a_convolution_of_each_class_gives(name: str, first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not first:
        monkeypatch.setattr(winograd, "MOST", 1)  # one class or image after another
    monkeypatch.setattr(winograd, "TILES", 0)
    monkeypatch.setattr(ConvolutionPass, "_by_patches", lambda *_: False)
    ways = (all_passes(SQUARES[name], torch.float64, "float32", first, kind) for kind in (WinogradPass, ConvolutionPass))
    for found, expected in zip(*ways, strict=True):
        assert relative(found, expected) < FLOAT64_ENGINES


def test_what_a_class_has_few_tiles_of_goes_without_winograd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "TILES", 1 << 20)
    monkeypatch.setattr(WinogradPass, "_gradients", None)
    convolve = WinogradPass._convolve

    def shared(self: WinogradPass, *arguments: Any) -> None:
        assert len(arguments) == 4, "a convolution with weights of each class"
        convolve(self, *arguments)

    monkeypatch.setattr(WinogradPass, "_convolve", shared)
    ways = (all_passes(SQUARES["3x3"], torch.float64, "float32", True, kind) for kind in (WinogradPass, ConvolutionPass))
    for found, expected in zip(*ways, strict=True):
        assert relative(found, expected) < FLOAT64_ENGINES


def test_what_a_class_has_tiles_enough_of_goes_by_winograd_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "TILES", 0)
    monkeypatch.setattr(ConvolutionPass, "_by_patches", lambda *_: True)
    monkeypatch.setattr(WinogradPass, "_convolved", lambda *_, **__: pytest.fail("directly"))
    assert all_passes(SQUARES["3x3"], torch.float32, "float32", kind=WinogradPass)


def test_images_of_one_class_are_cut_into_slices_of_as_many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    step = convolution(16, 16, (3, 3), (1, 1), (1, 1))
    x = torch.zeros(256, 16, 16, 16, device=DEVICE)
    made = WinogradPass(step, Network({"w": torch.zeros(16, 16, 3, 3, device=DEVICE), "b": torch.zeros(16, device=DEVICE)}, {}), x[:1])
    monkeypatch.setattr(winograd, "MOST", 113 * 16 * 36 * 16)  # of 113 images
    lengths = [images.stop - images.start for _, images in made._slices(256, 1, x)]
    assert sum(lengths) == 256
    assert max(lengths) <= 113
    assert all(length % winograd.PARTS == 0 for length in lengths)


def test_filters_of_weights_that_all_share_are_made_once_for_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "TILES", 0)
    step, weights = convolution(16, 16, (3, 3), (1, 1), (1, 1)), noise(2, 16, 16, 3, 3, seed=1).to(DEVICE)
    network = Network({"w": weights[0], "b": torch.zeros_like(weights[0, :, 0, 0, 0])}, {})
    first, second = (WinogradPass(step, network, noise(2, 16, 8, 8, seed=seed).to(DEVICE)) for seed in (2, 3))
    assert list(network.made) == [("w", False)]
    for made in (first, second):
        made.transposed(made.y, made.weight)
    assert list(network.made) == [("w", False), ("w", True)]
    assert relative(first.product(first.x, weights[1]), F.conv2d(first.x, weights[1], padding=1)) < FLOAT64_ENGINES


def test_winograd_rounds_float32_little_more_than_a_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "TILES", 0)
    exact = all_passes(SQUARES["3x3"], torch.float64, "float32")
    errors = [
        [
            relative(values, expected)
            for values, expected in zip(all_passes(SQUARES["3x3"], torch.float32, "float32", kind=kind), exact, strict=True)
        ]
        for kind in (WinogradPass, ConvolutionPass)
    ]
    for found, plain in zip(*errors, strict=True):
        assert found < WINOGRAD_TO_CONVOLUTION * plain


@pytest.mark.parametrize(
    ("step", "side", "served"),
    [
        (convolution(128, 128, (3, 3), (1, 1), (1, 1)), 4, True),
        (convolution(128, 128, (5, 5), (1, 1), (2, 2)), 8, True),
        (convolution(128, 128, (3, 3), (1, 1), (1, 1)), 2, False),  # a tile is larger than the map
        (convolution(3, 128, (3, 3), (1, 1), (1, 1)), 32, False),  # matrices of three columns
        (convolution(128, 128, (3, 3), (1, 1), (1, 1), groups=128), 32, False),
        (convolution(128, 128, (3, 3), (2, 2), (1, 1)), 32, False),
        (convolution(128, 128, (3, 3), (1, 1), (1, 1), dilation=2), 32, False),
        (convolution(128, 128, (7, 7), (1, 1), (3, 3)), 32, False),
        (convolution(128, 128, (3, 5), (1, 1), (1, 2)), 32, False),
        (convolution(128, 128, (3, 3), (1, 1), (3, 3)), 32, False),  # more zeros around than a window has numbers
    ],
)
def test_winograd_is_taken_where_it_is_worth_it(step: Convolution, side: int, served: bool) -> None:
    (link,) = by_winograd((step,))
    given = {"w": (step.features, step.channels // step.groups, *step.kernel), "b": (step.features,)}
    network = Network({name: torch.empty(shape, device=DEVICE) for name, shape in given.items()}, {})
    x = torch.empty(1, step.channels, side, side, device=DEVICE)
    made = winograd_pass(link, network, x) if isinstance(link, Winograd) else None
    assert isinstance(made, WinogradPass) == served


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_engine_takes_winograd_for_products_that_are_not_rounded(precision: str) -> None:
    engine = CudaEngine(build("convnet:width=16", 3, 10, (32, 32)), precision, kernels=True)
    assert sum(isinstance(link, Winograd) for link in engine._chain) == (2 if precision == "float32" else 0)
