"""What holds whatever the numbers: names that say options, the order of the classes, symmetries of the distance, random streams."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import string

import pytest
import torch
from helpers import needs_extension, relative
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import FLOAT64_CLOSED_FORM, FLOAT64_ENGINES

import fastdc
from fastdc.metrics import METRICS
from fastdc.models import build
from fastdc.options.checks import LARGEST_COUNT
from fastdc.options.specs import format_spec, parse_options, split_spec
from fastdc.runtime.seeding import derive_seed, make_generator

# Names that say options


@dataclasses.dataclass(frozen=True)
class Options:
    """One of each kind that a spec can hold."""

    count: int = 1
    rate: float = 0.5
    on: bool = False
    kind: str = "plain"
    most: int | None = None


words = st.text(string.ascii_lowercase + string.digits + "_.-", min_size=1)
counts = st.integers(-LARGEST_COUNT, LARGEST_COUNT)
options = st.builds(Options, counts, st.floats(allow_nan=False), st.booleans(), words, st.one_of(st.none(), counts))


@given(name=words, given_=options)
def test_a_spec_says_its_options_in_full(name: str, given_: Options) -> None:
    spec = format_spec(name, given_)
    found, texts = split_spec(spec)
    assert (found, parse_options(Options, spec, texts)) == (name, given_)


# The order of the classes


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("engine", ["reference", "torch", pytest.param("native", marks=needs_extension)])
@settings(max_examples=8, deadline=None)
@given(order=st.permutations(range(4)), seed=st.integers(0, 99))
def test_classes_in_another_order_are_matched_in_that_order(engine: str, metric: str, order: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    module = build("convnet:width=8,depth=1", 1, 4, (8, 8)).double()
    synthetic, real = torch.randn(4, 2, 1, 8, 8, dtype=torch.float64), torch.randn(4, 3, 1, 8, 8, dtype=torch.float64)
    renumbered = copy.deepcopy(module)
    with torch.no_grad():
        for value in renumbered.classifier.parameters():
            value.copy_(value[order])
    loss, gradient = fastdc.GradientMatcher(module, distance=metric, engine=engine)(synthetic, real)
    found, permuted = fastdc.GradientMatcher(renumbered, distance=metric, engine=engine)(synthetic[order], real[order])
    assert relative(found, loss) < FLOAT64_ENGINES
    assert relative(permuted, gradient[order]) < FLOAT64_ENGINES


# The distance


def pair(seed: int) -> list[list[torch.Tensor]]:
    """Two gradients of a convolution, a bias and a linear layer, in float64."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((4, 2, 3, 3), (4,), (3, 7))
    return [[torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes] for _ in range(2)]


@pytest.mark.parametrize("metric", METRICS)
@given(seed=st.integers(0, 1 << 30))
def test_the_distance_is_the_same_from_either_side(metric: str, seed: int) -> None:
    synthetic, real = pair(seed)
    found, expected = fastdc.match_loss(synthetic, real, metric=metric), fastdc.match_loss(real, synthetic, metric=metric)
    assert relative(found, expected) < FLOAT64_CLOSED_FORM


@pytest.mark.parametrize("metric", ["layerwise_cosine", "cosine"])
@given(seed=st.integers(0, 1 << 30), scales=st.tuples(*[st.floats(0.01, 1000)] * 2))
def test_the_cosines_do_not_see_the_size_of_a_gradient(metric: str, seed: int, scales: tuple[float, float]) -> None:
    sides = pair(seed)
    scaled = [[scale * gradient for gradient in side] for scale, side in zip(scales, sides, strict=True)]
    norms = torch.cat([a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1) for a, b in zip(*sides, strict=True) if a.dim() > 1])
    by_epsilon = (1e-6 / norms + 1e-6 / (scales[0] * scales[1] * norms)).sum()  # what the 1e-6 beside the norms can change
    assert (fastdc.match_loss(*scaled, metric=metric) - fastdc.match_loss(*sides, metric=metric)).abs() < by_epsilon


@given(seed=st.integers(0, 1 << 30), scale=st.floats(0.01, 1000))
def test_mse_grows_with_the_square_of_the_size(seed: int, scale: float) -> None:
    sides = pair(seed)
    found = fastdc.match_loss(*([scale * gradient for gradient in side] for side in sides), metric="mse")
    assert relative(found, scale**2 * fastdc.match_loss(*sides, metric="mse")) < FLOAT64_CLOSED_FORM


# Random streams


def test_no_two_streams_share_a_seed() -> None:
    parts = ["a", "aa", "ab", "b", "-", 1, 11, 111]  # many of them run together to the same text
    streams = [(seed, *names) for seed in (0, 1, 11) for count in range(4) for names in itertools.product(parts, repeat=count)]
    assert len({derive_seed(*stream) for stream in streams}) == len(streams)


@pytest.mark.parametrize(
    "streams", [[(0, "network", i) for i in range(60)], [(i, "network", 0) for i in range(60)]], ids=["numbers", "seeds"]
)
def test_neighbouring_streams_are_not_correlated(streams: list[tuple]) -> None:
    draws = torch.stack([torch.rand(2000, dtype=torch.float64, generator=make_generator(*stream)) for stream in streams])
    correlations = torch.corrcoef(draws).fill_diagonal_(0)
    assert correlations.abs().max() < 7 / 2000**0.5  # seven standard deviations
    assert len(draws.flatten().unique()) == draws.numel()
