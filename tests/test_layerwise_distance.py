"""The layer-wise distance, by every backend: value and cotangent against a definition in float64, memory, threads, autograd."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import Arm, arms
from helpers import ROOT, LargestResult, relative
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tolerances import DISTANCE, DISTANCE_BY_REFERENCE, DISTANCE_INTERPRETED, FLOAT32_ENGINES, FLOAT64_CLOSED_FORM, FLOAT64_ENGINES
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

import fastdc
from fastdc.engines.reference import plain_distance
from fastdc.metrics.backends import BACKENDS, DTYPES
from fastdc.metrics.backends import cpp as cpp_backend
from fastdc.metrics.definitions import METRICS, Metric
from fastdc.metrics.layout import ROWS, Parameter, ParameterLayout
from fastdc.metrics.operator import layerwise_distance
from fastdc.models import build
from fastdc.runtime import compiled

SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "rows-of-1": ((4, 1),),
    "rows-of-9": ((3,), (5, 1, 3, 3), (2,)),
    "rows-of-63": ((7, 63), (7,)),
    "rows-of-129": ((6,), (3, 129)),
    "rows-of-1152": ((2, 128, 3, 3),),
    "rows-of-25088": ((2, 25088), (2,)),
    "vectors-everywhere": ((3,), (4, 5), (2,), (5,), (3, 2, 3, 3), (2, 7), (6,)),
    "many-tiles": ((5000,), (300, 40), (9000,), (2, 8)),
    "vectors-only": ((3,), (4,)),
    "nothing": (),
    "rows-of-0": ((2, 3), (3, 0), (4,)),
    "rows-of-0-only": ((3, 0),),
    "no-rows": ((0, 3), (2, 3)),
}

INTERPRETED = Arm("triton")  # its interpreter rounds to bfloat16 towards zero and loses the denormals: GPUs do neither
COMPILED = ("cpp", "triton", "cuda")

each_metric = pytest.mark.parametrize("metric", METRICS)
each_choice_of_rows = pytest.mark.parametrize("metric", [str(Metric(name, rows)) for name in METRICS for rows in ROWS])


@pytest.fixture(autouse=True)
def _where_the_backend_has_the_metric(request: pytest.FixtureRequest) -> None:
    given_ = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    if "arm" in given_ and "metric" in given_:
        name, backend = Metric.of(given_["metric"]).name, given_["arm"].backend
        if name not in BACKENDS[backend].metrics():
            pytest.skip(f"backend {backend!r} has no code for {name!r}")


def layout_of(*shapes: tuple[int, ...]) -> ParameterLayout:
    parameters, offset = [], 0
    for i, shape in enumerate(shapes):
        parameters.append(Parameter(f"p{i}", offset, shape))
        offset += parameters[-1].size
    return ParameterLayout(tuple(parameters))


def definition(metric: str, layout: ParameterLayout, synthetic: Tensor, real: Tensor) -> Tensor:
    """The distance of one class, as the table of metrics defines it: [P], [P] -> scalar."""
    chosen = Metric.of(metric)
    spans = [p for p in layout.parameters if len(p.shape) >= ROWS[chosen.rows] and p.shape[0]]
    parts = [[flat[p.offset : p.offset + p.size].reshape(p.shape[0], -1 if p.size else 0) for p in spans] for flat in (synthetic, real)]
    if METRICS[chosen.name].joined and spans:
        parts = [[torch.cat([part.flatten() for part in side])[None]] for side in parts]
    return sum((METRICS[chosen.name].distance(a, b) for a, b in zip(*parts, strict=True)), synthetic.new_zeros(()))


def expected_of(metric: str, layout: ParameterLayout, synthetic: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Distance [C] and cotangent [C, P] of the definition in float64, by autograd."""
    leaf = synthetic.detach().cpu().double().requires_grad_()
    distances = [definition(metric, layout, a, b) for a, b in zip(leaf, real.detach().cpu().double(), strict=True)]
    distance = torch.stack(distances) if distances else leaf.sum(1)
    (distance.sum() + 0 * leaf.sum()).backward()
    return distance.detach(), leaf.grad


def pair(layout: ParameterLayout, classes: int = 3, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Gradients that resemble each other, of a size at which the epsilon of the definition shows in float64."""
    generator = torch.Generator().manual_seed(seed)
    noise, real = torch.randn(2, classes, layout.size, dtype=torch.float64, generator=generator)
    return (0.01 * (noise + real)).to(dtype), real.to(dtype)


@functools.cache
def case(shapes: tuple[tuple[int, ...], ...], metric: str, dtype: torch.dtype, classes: int = 2) -> tuple[ParameterLayout, list[Tensor]]:
    """A layout; synthetic and real, and the distance and cotangent that the definition gives for them."""
    layout = layout_of(*shapes)
    given_ = pair(layout, classes, dtype)
    return layout, [*given_, *expected_of(metric, layout, *given_)]


def tolerance(arm: Arm, dtype: torch.dtype) -> float:
    table = DISTANCE_BY_REFERENCE if arm.backend == "reference" else DISTANCE_INTERPRETED if arm == INTERPRETED else DISTANCE
    return table[dtype]


def on(arm: Arm, *tensors: Tensor) -> list[Tensor]:
    return [tensor.to(arm.device) for tensor in tensors]


def check(arm: Arm, shapes: tuple[tuple[int, ...], ...], metric: str, dtype: torch.dtype, classes: int = 2) -> None:
    layout, (synthetic, real, *expected) = case(shapes, metric, dtype, classes)
    results = layerwise_distance(*on(arm, synthetic, real), layout, metric, arm.backend)
    for name, got, right in zip(("distance", "cotangent"), results, expected, strict=True):
        kind = dtype if name == "cotangent" else torch.promote_types(dtype, torch.float32)
        assert (got.dtype, got.shape, got.device.type) == (kind, right.shape, arm.device), name
        assert got.is_contiguous(), name
        assert relative(got, right) <= tolerance(arm, kind), f"{name} in {dtype}"
    outside = torch.ones(layout.size, dtype=torch.bool)
    for p in layout.seen(Metric.of(metric).rows):
        outside[p.offset : p.offset + p.size] = False
    assert not results[1].cpu()[:, outside].any(), "the cotangent is not zero where no row lies"


FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "layerwise_cosine": lambda a, b: sum(1 - (x @ y) / (x.norm() * y.norm() + 1e-6) for x, y in zip(a, b, strict=True)),
    "cosine": lambda a, b: 1 - (a * b).sum() / (a.norm() * b.norm() + 1e-6),
    "mse": lambda a, b: nn.functional.mse_loss(a, b, reduction="sum"),
    "l1": lambda a, b: nn.functional.l1_loss(a, b, reduction="sum"),
}


@pytest.mark.parametrize("metric", FORMULAS)
def test_the_table_defines_what_is_written_in_the_formulas(metric: str) -> None:
    rows = torch.randn(2, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(definition(metric, layout_of((5, 7)), *rows.flatten(1)), FORMULAS[metric](*rows))
    leaf = torch.nn.Parameter(rows[0].clone())
    assert torch.autograd.gradgradcheck(METRICS[metric].distance, (leaf, rows[1]))


@each_choice_of_rows
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_value_and_cotangent_equal_the_definition(arm: Arm, shapes: tuple[tuple[int, ...], ...], metric: str) -> None:
    if Metric.of(metric).rows != "all" and not any(len(shape) >= ROWS["convolutions"] for shape in shapes):
        layout = layout_of(*shapes)
        with pytest.raises(fastdc.UsageError, match="no parameter of 3 dimensions or more"):
            layerwise_distance(*on(arm, *pair(layout)), layout, metric, arm.backend)
        return
    for dtype in DTYPES:
        check(arm, shapes, metric, dtype)


@each_metric
@pytest.mark.parametrize("classes", [0, 1, 100])
def test_any_number_of_classes(arm: Arm, classes: int, metric: str) -> None:
    for shapes in (((2,), (3, 7), (1,)), (), ((4,),)):
        check(arm, shapes, metric, torch.float32, classes)


@each_metric
@pytest.mark.parametrize(
    "arm",
    [pytest.param(*p.values, id=p.id, marks=[*p.marks, *[pytest.mark.slow] * (p.values[0] == INTERPRETED)]) for p in arms()],
    indirect=True,
)
def test_a_vector_of_11_million_elements(arm: Arm, metric: str) -> None:
    check(arm, (*((512, 512, 3, 3), (512,)) * 4, (1000, 1600), (1000,)), metric, torch.float32, 1)


@each_metric
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_errors_are_no_larger_than_those_of_the_reference_in_float32(arm: Arm, shapes: tuple[tuple[int, ...], ...], metric: str) -> None:
    layout, (synthetic, real, *expected) = case(shapes, metric, torch.float32)
    results = [layerwise_distance(*on(arm, synthetic, real), layout, metric, name) for name in (arm.backend, "reference")]
    for name, got, reference, right in zip(("distance", "cotangent"), *results, expected, strict=True):
        assert relative(got, right) <= relative(reference, right), name


@pytest.mark.parametrize("metric", getattr(compiled.extension, "METRICS", ()))
@settings(max_examples=60, deadline=None)
@given(shapes=st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=4).map(tuple), max_size=5), classes=st.integers(0, 4))
def test_cpp_equals_reference_on_any_layout(metric: str, shapes: list[tuple[int, ...]], classes: int) -> None:
    layout = layout_of(*shapes)
    given_ = pair(layout, classes, torch.float64)
    for got, right in zip(*(layerwise_distance(*given_, layout, metric, name) for name in ("cpp", "reference")), strict=True):
        assert relative(got, right) <= FLOAT64_CLOSED_FORM


@each_metric
def test_rows_of_zeros_have_the_derivative_of_the_definition(arm: Arm, metric: str) -> None:
    layout = layout_of((4, 9), (3,), (2, 17))
    synthetic, real = pair(layout, 4, torch.float64)
    synthetic[0, :18], real[0, 9:27] = 0, 0  # rows: zero on one side, on both, on the other
    synthetic[1], real[2] = 0, 0
    synthetic[3], real[3] = 0, 0
    results = layerwise_distance(*on(arm, synthetic, real), layout, metric, arm.backend)
    for got, right in zip(results, expected_of(metric, layout, synthetic, real), strict=True):
        for c in range(4):
            assert relative(got[c], right[c]) <= FLOAT64_CLOSED_FORM


@each_metric
@pytest.mark.parametrize(
    "scales", [(1e30, 1e30), (3e38, 1.0), (1.0, 3e38), (3e38, 3e38), (3e38, 1e-38), (1e-40, 1.0), (1e-40, 1e-40)], ids=str
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("arm", arms(*COMPILED), indirect=True)  # the reference squares in the dtype it is given
def test_what_float32_holds_is_not_lost_on_the_way(arm: Arm, scales: tuple[float, float], metric: str) -> None:
    layout = layout_of((5, 9), (3,), (2, 40))
    for dtype in (torch.float32, torch.bfloat16)[: 1 if arm == INTERPRETED else 2]:
        generator = torch.Generator().manual_seed(0)
        signs, sizes = (
            torch.randn(2, 2, layout.size, generator=generator).sign(),
            0.5 + torch.rand(2, 2, layout.size, generator=generator) / 2,
        )
        synthetic, real = ((signs[i] * sizes[i] * scales[i]).to(dtype) for i in (0, 1))
        results = layerwise_distance(*on(arm, synthetic, real), layout, metric, arm.backend)
        expected = expected_of(metric, layout, synthetic, real)
        for got, right in zip(results, expected, strict=True):
            torch.testing.assert_close(got.cpu(), right.to(got.dtype), rtol=2 * DISTANCE[got.dtype], atol=1.5e-45)  # the smallest float


@pytest.mark.parametrize("metric", ["mse", "l1"])
def test_equal_gradients_have_no_cotangent_up_to_the_largest_float64(arm: Arm, metric: str) -> None:
    layout, largest = layout_of((2, 9)), torch.full((1, 18), torch.finfo(torch.float64).max, dtype=torch.float64, device=arm.device)
    for result in layerwise_distance(largest, largest, layout, metric, arm.backend):
        assert not result.any()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, in Triton's interpreter
@each_metric
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_stay_where_they_are(arm: Arm, value: float, metric: str) -> None:
    layout = layout_of((2,), (4, 9), (3,), (2, 17))
    clean = on(arm, *pair(layout))
    before = [result.cpu() for result in layerwise_distance(*clean, layout, metric, arm.backend)]
    for side in (0, 1):
        dirty = [tensor.clone() for tensor in clean]
        dirty[side][1, 2 + 9 + 4] = value  # class 1, second row of the first matrix
        distance, cotangent = (result.cpu() for result in layerwise_distance(*dirty, layout, metric, arm.backend))
        right = layerwise_distance(*(tensor.cpu().double() for tensor in dirty), layout, metric, "reference")
        touched, reach = ~right[1].isfinite(), torch.zeros_like(cotangent, dtype=torch.bool)
        reach[1, 11:20] = True
        if METRICS[metric].joined:
            reach[1, 2:38], reach[1, 41:] = True, True
        assert not (touched & ~reach).any()
        assert touched.any() or value == value
        assert not right[0][1].isfinite()
        assert distance[1].isnan() == right[0][1].isnan()
        assert torch.equal(~cotangent.isfinite(), touched)
        torch.testing.assert_close(cotangent[~reach], before[1][~reach], rtol=0, atol=0)
        assert relative(cotangent[reach & ~touched], right[1][reach & ~touched]) <= tolerance(arm, torch.float32)
        torch.testing.assert_close(distance[[0, 2]], before[0][[0, 2]], rtol=0, atol=0)


@each_metric
def test_biases_and_norms_count_zero_whatever_they_hold(arm: Arm, metric: str) -> None:
    layout = layout_of((2, 3), (2,), (5,))
    synthetic, real = on(arm, *pair(layout))
    distance, _ = layerwise_distance(synthetic, real, layout, metric, arm.backend)
    synthetic[:, 6:], real[:, 7:] = float("nan"), float("inf")
    again, cotangent = layerwise_distance(synthetic, real, layout, metric, arm.backend)
    assert torch.equal(again, distance)
    assert not cotangent[:, 6:].any()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_16_bit_number_is_read_and_rounded_as_torch_does(arm: Arm) -> None:
    layout = layout_of((256, 256))
    for dtype in (torch.float16, torch.bfloat16)[: 1 if arm == INTERPRETED else 2]:
        every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
        for real in (torch.zeros_like(every), every[torch.randperm(2**16, generator=torch.Generator().manual_seed(0))]):
            _, cotangent = layerwise_distance(*on(arm, every[None], real[None]), layout, "mse", arm.backend)
            right = (2 * (every.double() - real.double())).to(dtype)
            torch.testing.assert_close(cotangent[0].cpu(), right, rtol=0, atol=0, equal_nan=True)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.t().contiguous().t(),
    "every second class": lambda x: x.repeat_interleave(2, 0)[::2],
    "part of a wider one": lambda x: torch.cat([x, x + 1], 1)[:, : x.shape[1]],
    "every second element": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "misaligned": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
    "negative bit": lambda x: torch._neg_view(-x),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_views_are_taken_as_what_they_show_and_left_alone(arm: Arm, view: Callable[[Tensor], Tensor]) -> None:
    layout = layout_of((3, 37), (5,), (2, 1, 3, 3))
    for dtype, metric in zip(DTYPES, itertools.cycle(BACKENDS[arm.backend].metrics()), strict=False):
        plain = on(arm, *pair(layout, 3, dtype))
        right = layerwise_distance(*plain, layout, metric, arm.backend)
        views = [view(tensor) for tensor in plain]
        assert all(torch.equal(*each) for each in zip(views, plain, strict=True))
        for given_ in ((views[0], plain[1]), (plain[0], views[1]), views):
            for got, want in zip(layerwise_distance(*given_, layout, metric, arm.backend), right, strict=True):
                assert relative(got, want.cpu()) <= tolerance(arm, dtype)
        assert all(torch.equal(*each) for each in zip(views, plain, strict=True)), "an input was written to"


def test_an_expanded_tensor_and_the_imaginary_part_of_a_conjugate(arm: Arm) -> None:
    layout = layout_of((3, 37), (5,))
    synthetic, real = on(arm, *pair(layout, 4))
    right = layerwise_distance(synthetic, real[:1].repeat(4, 1), layout, backend=arm.backend)
    expanded = real[:1].expand(4, -1)
    imaginary = torch.complex(synthetic, -synthetic).conj().imag
    assert expanded.stride(0) == 0
    assert imaginary.is_neg()
    for got, want in zip(layerwise_distance(imaginary, expanded, layout, backend=arm.backend), right, strict=True):
        assert relative(got, want.cpu()) <= tolerance(arm, torch.float32)


@pytest.mark.usefixtures("threads")
@each_metric
@pytest.mark.parametrize("arm", arms("cpp"), indirect=True)
def test_the_number_of_threads_changes_no_bit(arm: Arm, metric: str) -> None:
    layout = layout_of((5000,), (300, 129), (40, 1152), (9,))
    for dtype in (torch.float64, torch.float32):  # rounding to float32 hides most changes in the order of a sum
        given_ = pair(layout, 3, dtype)
        results = []
        for number in (1, 2, 3, 7, 7, 2):
            torch.set_num_threads(number)
            results.append(layerwise_distance(*given_, layout, metric, arm.backend))
        for result in results[1:]:
            assert all(torch.equal(*each) for each in zip(result, results[0], strict=True))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("arm", arms("cpp"), indirect=True)
def test_the_number_of_threads_changes_no_bit_where_denormals_are_flushed(arm: Arm) -> None:
    layout = layout_of((1000, 1000))
    synthetic, real = (1e-39 * tensor for tensor in pair(layout, 3))
    torch.set_num_threads(2)
    layerwise_distance(synthetic, real, layout, "mse", arm.backend)  # starts helpers that flush nothing
    try:
        torch.set_flush_denormal(True)
        results = []
        for number in (1, 2, 2, 2):
            torch.set_num_threads(number)
            results.append(layerwise_distance(synthetic, real, layout, "mse", arm.backend)[1].view(torch.int32))
    finally:
        torch.set_flush_denormal(False)
    assert all(torch.equal(result, results[0]) for result in results)


def test_a_repeated_call_gives_the_same_bits(arm: Arm) -> None:
    layout = layout_of((30, 129), (7,), (40, 9))
    first, second = (layerwise_distance(*on(arm, *pair(layout)), layout, backend=arm.backend) for _ in range(2))
    assert all(torch.equal(*each) for each in zip(first, second, strict=True))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("arm", [p for p in arms() if p.values[0] != INTERPRETED], indirect=True)  # the interpreter serves one thread
def test_calls_from_several_threads_at_once(arm: Arm) -> None:
    torch.set_num_threads(2)
    layout = layout_of((30, 129), (7,), (40, 9))
    pairs = [on(arm, *pair(layout, seed=seed)) for seed in range(8)]
    right = [layerwise_distance(*each, layout, backend=arm.backend) for each in pairs]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda each: layerwise_distance(*each, layout, backend=arm.backend), pairs * 40))
    for result, want in zip(results, right * 40, strict=True):
        assert all(torch.equal(*each) for each in zip(result, want, strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("arm", arms("cpp")[:1], indirect=True)
def test_a_forked_child_computes_after_its_parent_did(arm: Arm) -> None:
    torch.set_num_threads(3)
    layout = layout_of((30, 129), (7,), (40, 9))
    given_ = pair(layout, 7)  # too few for torch to fill with its own threads, which a forked child has lost
    right = cpp_backend.layerwise_distance(*given_, layout.segments(), "cosine")

    def child() -> None:
        torch.set_num_threads(3)  # a forked child begins with one
        before = len(list(Path("/proc/self/task").glob("*")))  # the parent's helpers stay with the parent
        got = cpp_backend.layerwise_distance(*given_, layout.segments(), "cosine")
        same = all((a.numpy() == b.numpy()).all() for a, b in zip(got, right, strict=True))
        helpers = len(list(Path("/proc/self/task").glob("*"))) - before
        raise SystemExit(0 if (same, helpers) == (True, 2) else f"same bits: {same}, helpers: {helpers}")

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    if process.is_alive():
        process.kill()
    assert process.exitcode == 0


SMALL = ((2, 5), (3,), (2, 1, 2, 2))  # 21 elements: finite differences take a call for each


@each_metric
def test_gradcheck(arm: Arm, metric: str) -> None:
    torch.manual_seed(0)
    layout = layout_of(*SMALL)
    leaves = [tensor.requires_grad_() for tensor in on(arm, *torch.randn(2, 2, 21, dtype=torch.float64))]
    torch.autograd.gradcheck(lambda a, b: layerwise_distance(a, b, layout, metric, arm.backend)[0], leaves, fast_mode=arm == INTERPRETED)


@each_metric
def test_first_derivatives_equal_those_of_the_definition(arm: Arm, metric: str) -> None:
    layout = layout_of(*SMALL)
    leaves = [tensor.requires_grad_() for tensor in on(arm, *pair(layout, 3, torch.float64))]
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    got = torch.autograd.grad((layerwise_distance(*leaves, layout, metric, arm.backend)[0] * weights.to(arm.device)).sum(), leaves)
    loops = [leaf.detach().cpu().requires_grad_() for leaf in leaves]
    loss = sum(w * definition(metric, layout, a, b) for w, a, b in zip(weights, *loops, strict=True))
    for gradient, right in zip(got, torch.autograd.grad(loss, loops), strict=True):
        assert relative(gradient, right) <= FLOAT64_CLOSED_FORM


@pytest.mark.parametrize("second", [0, 1], ids=["synthetic", "real"])
@pytest.mark.parametrize("first", [0, 1, "cotangent"], ids=["synthetic", "real", "cotangent"])
def test_a_second_derivative_is_refused(arm: Arm, first: int | str, second: int) -> None:
    layout = layout_of(*SMALL)
    leaves = [tensor.requires_grad_() for tensor in on(arm, *pair(layout))]
    distance, cotangent = layerwise_distance(*leaves, layout, backend=arm.backend)
    derivative = cotangent if first == "cotangent" else torch.autograd.grad(distance.sum(), leaves[first], create_graph=True)[0]
    with pytest.raises(fastdc.UsageError, match="supports first derivatives"):
        torch.autograd.grad(derivative.sum(), leaves[second])


@pytest.mark.parametrize("requires_grad", [(), (0,), (1,), (0, 1)], ids=str)
def test_opcheck(arm: Arm, requires_grad: Sequence[int]) -> None:
    layout = layout_of(*SMALL)
    given_ = on(arm, *pair(layout))
    for i in requires_grad:
        given_[i].requires_grad_()
    for metric in BACKENDS[arm.backend].metrics():
        torch.library.opcheck(torch.ops.fastdc.layerwise_distance.default, (*given_, list(layout.segments()), metric, arm.backend))


@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (0, 0), (1, 0), (2, 1)], ids=str)
def test_vmap_equals_a_loop(arm: Arm, in_dims: tuple[int | None, int | None]) -> None:
    layout = layout_of(*SMALL)
    batches = [pair(layout, 3, torch.float64, seed) for seed in range(4)]
    sides = [
        torch.stack([each[i] for each in batches], dim) if dim is not None else batches[0][i]
        for i, dim in enumerate(in_dims)
    ]  # fmt: skip
    got = torch.func.vmap(lambda a, b: layerwise_distance(a, b, layout, backend=arm.backend), in_dims)(*on(arm, *sides))
    for n, each in enumerate(batches):
        given_ = [(batches[0] if dim is None else each)[i] for i, dim in enumerate(in_dims)]
        for result, right in zip(got, layerwise_distance(*given_, layout, backend="reference"), strict=True):
            assert relative(result[n], right) <= FLOAT64_CLOSED_FORM


def test_vmap_in_vmap_is_differentiated_from_outside(arm: Arm) -> None:
    layout = layout_of(*SMALL)
    flat = pair(layout, 12, torch.float64)
    leaves = [x.unflatten(0, (2, 3, 2)).requires_grad_() for x in on(arm, *flat)]  # [2, 3, C = 2, P]
    function = torch.func.vmap(torch.func.vmap(lambda a, b: layerwise_distance(a, b, layout, backend=arm.backend)))
    distance, cotangent = function(*leaves)
    gradient, by_real = torch.autograd.grad(distance.sum(), leaves, create_graph=True)
    right, by_synthetic = expected_of("layerwise_cosine", layout, *flat)
    _, by_other = expected_of("layerwise_cosine", layout, *reversed(flat))
    for got, want in ((distance, right), (cotangent, by_synthetic), (gradient, by_synthetic), (by_real, by_other)):
        assert relative(got.detach().reshape(want.shape), want) <= FLOAT64_CLOSED_FORM
    with pytest.raises(fastdc.UsageError, match="supports first derivatives"):
        torch.autograd.grad(gradient.sum(), leaves)


def test_a_derivative_of_the_cotangent_under_vmap_is_refused(arm: Arm) -> None:
    layout = layout_of(*SMALL)
    leaf, real = (x.unflatten(0, (2, 3)) for x in on(arm, *pair(layout, 6)))
    leaf.requires_grad_()
    _, cotangent = torch.func.vmap(lambda a, b: layerwise_distance(a, b, layout, backend=arm.backend))(leaf, real)
    with pytest.raises(fastdc.UsageError, match="supports first derivatives"):
        (cotangent.sum() + leaf.sum()).backward()


def test_forward_mode_is_refused_and_not_taken_for_zero(arm: Arm) -> None:
    layout = layout_of(*SMALL)
    synthetic, real = on(arm, *pair(layout))
    with pytest.raises((fastdc.UsageError, NotImplementedError)):
        torch.func.jvp(lambda a: layerwise_distance(a, real, layout, backend=arm.backend)[0], (synthetic,), (synthetic,))


@each_metric
def test_compiles_into_one_graph(arm: Arm, metric: str) -> None:
    layout = layout_of(*SMALL)
    leaves = [tensor.requires_grad_() for tensor in on(arm, *pair(layout, 2, torch.float64))]

    def both(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        distance, cotangent = layerwise_distance(2 * a, b.sin(), layout, metric, arm.backend)
        return distance.exp(), cotangent

    def loss(a: Tensor, b: Tensor) -> Tensor:
        sides = ([(2 * x[0, :10]).view(2, 5), x[0, 10:13], x[0, 13:].view(2, 1, 2, 2)] for x in (a, b))
        return fastdc.match_loss(*sides, metric=metric, backend=arm.backend).exp()

    torch._dynamo.reset()
    for function in (both, loss):
        results = []
        for each in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
            outputs = each(*leaves)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            results.append([*(output.detach() for output in outputs), *torch.autograd.grad(outputs[0].sum(), leaves)])
        for got, right in zip(*results, strict=True):
            assert relative(got, right.cpu()) <= FLOAT64_CLOSED_FORM


def image_gradient(distance: Callable[[list[Tensor], list[Tensor]], Tensor], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """What a double-backward script computes: the summed distance of two classes, and its gradient by the images."""
    torch.manual_seed(0)
    module = build("convnet:width=8,depth=2", 1, 2, (8, 8)).to(dtype).to(device)
    synthetic, real = torch.randn(2, 2, 3, 1, 8, 8).to(dtype).to(device)
    synthetic.requires_grad_()
    loss = torch.zeros((), dtype=dtype, device=device)
    for c in range(2):
        losses = [nn.functional.cross_entropy(module(x[c]), torch.full((3,), c, device=device)) for x in (synthetic, real)]
        gradients = [torch.autograd.grad(value, list(module.parameters()), create_graph=True) for value in losses]
        loss = loss + distance(gradients[0], [g.detach() for g in gradients[1]])
    return loss.detach(), torch.autograd.grad(loss, synthetic)[0]


@each_metric
def test_match_loss_in_a_double_backward_script(arm: Arm, metric: str) -> None:
    for dtype, tolerance in ((torch.float64, FLOAT64_ENGINES), (torch.float32, FLOAT32_ENGINES)):
        got = image_gradient(functools.partial(fastdc.match_loss, metric=metric, backend=arm.backend), dtype, arm.device)
        expected = image_gradient(functools.partial(plain_distance, metric=metric), dtype, arm.device)
        for value, right in zip(got, expected, strict=True):
            assert relative(value, right.cpu()) <= tolerance


@pytest.mark.parametrize(("metric", "theirs", "least"), [("layerwise_cosine", "ours", 1), ("mse", "mse", 2), ("cosine", "cos", 2)])
def test_match_loss_gives_the_authors_distances(arm: Arm, metric: str, theirs: str, least: int) -> None:
    stored = load_file(ROOT / "tests" / "golden" / "gradients.safetensors")
    sides = [[value for name, value in stored.items() if name.startswith(side)] for side in ("synthetic", "real")]
    given_ = [on(arm, *(gradient for gradient in side if gradient.dim() >= least)) for side in sides]  # theirs count biases, ours never
    found = fastdc.match_loss(*given_, metric=metric, backend=arm.backend)
    assert relative(found, stored[theirs]) <= tolerance(arm, torch.float32)


@each_metric
def test_match_loss_is_differentiated_by_real_gradients_too(arm: Arm, metric: str) -> None:
    torch.manual_seed(0)
    shapes = ((2, 3, 2, 2), (3,), (4, 5))
    sides = [
        [tensor.requires_grad_() for tensor in on(arm, *(torch.randn(shape, dtype=torch.float64) for shape in shapes))] for _ in range(2)
    ]
    matrices = [side[i] for side in sides for i in (0, 2)]
    got = torch.autograd.grad(fastdc.match_loss(*sides, metric=metric, backend=arm.backend), matrices)
    for gradient, right in zip(got, torch.autograd.grad(plain_distance(*sides, metric), matrices), strict=True):
        assert relative(gradient, right.cpu()) <= FLOAT64_CLOSED_FORM


def lists(*shapes: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    sides = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(2)]
    return [gradient.requires_grad_() for gradient in sides[0]], sides[1]


@pytest.mark.parametrize("metric", [name for name, definition in METRICS.items() if not definition.joined])
def test_match_loss_copies_no_gradient(metric: str) -> None:
    synthetic, real = lists((40, 30, 3, 3), (40,), (10, 40 * 9), (10,))
    with LargestResult(synthetic[0].untyped_storage()) as largest:
        fastdc.match_loss(synthetic, real, metric=metric).backward()
    assert largest.bytes <= synthetic[0].nbytes  # its own cotangent
    for gradient, other in zip(synthetic[::2], real[::2], strict=True):
        leaf = gradient.detach().requires_grad_()
        assert relative(gradient.grad, torch.autograd.grad(plain_distance([leaf], [other], metric), leaf)[0]) <= FLOAT32_ENGINES


@pytest.mark.parametrize("metric", [name for name, definition in METRICS.items() if not definition.joined])
def test_match_loss_takes_gradients_however_they_lie(arm: Arm, metric: str) -> None:
    torch.manual_seed(0)
    shapes = ((3, 0), (2, 3, 2, 2), (0, 4), (1, 7))
    sides = [
        on(arm, *(torch.randn(shape, dtype=torch.float64) for shape in shapes), torch.randn(6, 5, dtype=torch.float64).t())
        for _ in range(2)
    ]
    leaves = [gradient.requires_grad_() for gradient in sides[0]]
    found, expected = fastdc.match_loss(*sides, metric=metric, backend=arm.backend), plain_distance(*sides, metric)
    assert relative(found, expected) <= FLOAT64_CLOSED_FORM
    for gradient, right in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True):
        assert gradient.shape == right.shape
        assert relative(gradient, right) <= FLOAT64_CLOSED_FORM


def test_match_losses_of_several_classes_are_differentiated_at_once() -> None:
    for seed in range(2):  # the second time in the memory of the first
        torch.manual_seed(seed)
        leaves, real = ([torch.randn(60, 300, dtype=torch.float64) for _ in range(4)] for _ in range(2))
        sides = [[[side[i], side[i + 1]] for i in (0, 2)] for side in ([leaf.requires_grad_() for leaf in leaves], real)]
        found, expected = (
            torch.autograd.grad(sum(distance(*each) for each in zip(*sides, strict=True)), leaves)
            for distance in (fastdc.match_loss, functools.partial(plain_distance, metric="layerwise_cosine"))
        )
        for gradient, right in zip(found, expected, strict=True):
            assert relative(gradient, right) <= FLOAT64_CLOSED_FORM


def test_match_loss_of_fake_gradients_has_the_shapes_of_true_ones() -> None:
    with FakeTensorMode():
        synthetic, real = ([torch.ones(4, 3, requires_grad=True)], [torch.ones(4, 3)])
        loss = fastdc.match_loss(synthetic, real)
        assert torch.autograd.grad(loss, synthetic)[0].shape == (4, 3)


def test_match_loss_is_scaled_by_what_comes_after_it() -> None:
    for scale in (1.0, 3.0, -0.5, 0.0, float("inf")):
        synthetic, real = lists((4, 3, 2, 2), (5, 6))
        one = torch.autograd.grad(fastdc.match_loss(synthetic, real), synthetic)
        found = torch.autograd.grad(scale * fastdc.match_loss(synthetic, real), synthetic)
        for gradient, expected in zip(found, one, strict=True):
            torch.testing.assert_close(gradient, scale * expected)


def test_match_loss_keeps_its_graph_and_refuses_second_derivatives() -> None:
    synthetic, real = lists((4, 3, 2, 2), (5, 6))
    loss = fastdc.match_loss(synthetic, real)
    first = torch.autograd.grad(loss, synthetic, retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    loss.backward(retain_graph=True)
    loss.backward()  # adds to what is there
    assert all(map(torch.equal, first, kept))
    assert all(torch.equal(gradient.grad, 2 * value) for gradient, value in zip(synthetic, kept, strict=True))
    (gradient, _) = torch.autograd.grad(fastdc.match_loss(synthetic, real), synthetic, create_graph=True)
    with pytest.raises(fastdc.UsageError, match="supports first derivatives"):
        torch.autograd.grad(gradient.sum(), synthetic[0])


def test_match_loss_passes_opcheck(arm: Arm) -> None:
    synthetic, real = ([gradient.to(arm.device).detach() for gradient in side] for side in lists((2, 3, 2, 2), (4, 5)))
    for differentiated in ([], synthetic, real):
        for gradient in differentiated:
            gradient.requires_grad_()
        torch.library.opcheck(torch.ops.fastdc.match_gradients.default, (synthetic, real, "layerwise_cosine", arm.backend))


def test_match_loss_under_vmap_and_compile() -> None:
    synthetic, real = lists((4, 3, 2, 2), (5, 6))
    batches = [torch.stack([gradient, -2 * gradient]) for gradient in synthetic]
    found = torch.func.vmap(lambda *gradients: fastdc.match_loss(gradients, real))(*batches)
    for value, gradients in zip(found, zip(*batches, strict=True), strict=True):
        torch.testing.assert_close(value, fastdc.match_loss(list(gradients), real))
    expected = torch.autograd.grad(fastdc.match_loss(synthetic, real), synthetic)
    compiled = torch.compile(lambda *gradients: 2 * fastdc.match_loss(gradients, real), fullgraph=True, backend="aot_eager")
    for gradient, one in zip(torch.autograd.grad(compiled(*synthetic), synthetic), expected, strict=True):
        torch.testing.assert_close(gradient, 2 * one)


ZEROS = torch.zeros(2, 6)


@pytest.mark.parametrize(
    ("synthetic", "real", "options", "text"),
    [
        (ZEROS, torch.zeros(2, 5), {}, r"real has shape \[2, 5\]; expected \[C, 6\]"),
        (torch.zeros(6), torch.zeros(6), {}, r"synthetic has shape \[6\]; expected \[C, 6\]"),
        (torch.zeros(()), ZEROS, {}, r"synthetic has shape \[\]; expected \[C, 6\]"),
        (ZEROS, torch.zeros(3, 6), {}, r"real has shape \[3, 6\]; expected that of synthetic, \[2, 6\]"),
        (ZEROS, ZEROS.double(), {}, "real has dtype torch.float64; expected that of synthetic, torch.float32"),
        (ZEROS, ZEROS.to("meta"), {}, "real has device meta; expected that of synthetic, cpu"),
        (ZEROS.int(), ZEROS.int(), {}, "synthetic is torch.int32; expected one of torch.float32, torch.float64, .*float16, .*bfloat16"),
        (ZEROS, ZEROS.to(torch.complex64), {}, "real is torch.complex64; expected one of"),
        (ZEROS, ZEROS, {"metric": "layerwise"}, "unknown metric 'layerwise'. Did you mean 'layerwise_cosine'"),
        (ZEROS, ZEROS, {"backend": "cp"}, "unknown backend 'cp'. Did you mean 'cpp'.*Known: auto, cpp, cuda, reference, triton"),
        (ZEROS, ZEROS, {"backend": "cuda"}, "backend 'cuda' cannot serve float32 on cpu"),
    ],
)
def test_gradients_that_do_not_fit_are_refused(synthetic: Tensor, real: Tensor, options: dict[str, str], text: str) -> None:
    with pytest.raises(fastdc.UsageError, match=text):
        layerwise_distance(synthetic, real, layout_of((2, 3)), **options)


@pytest.mark.parametrize(
    ("synthetic", "real", "options", "text"),
    [
        ([ZEROS], [ZEROS.t()], {}, r"shapes \[\(2, 6\)\] and \[\(6, 2\)\]; expected the same ones"),
        ([ZEROS, ZEROS], [ZEROS], {}, "expected the same ones"),
        ([ZEROS], [None], {}, "a gradient is None"),
        ([ZEROS[0]], [ZEROS[0]], {}, "expected at least one of 2 dimensions or more"),
        ([], [], {}, r"the gradients have shapes \[\]; expected at least one"),
        ([ZEROS], [ZEROS.double()], {}, "torch.float32 on cpu, torch.float64 on cpu; bring them to one"),
        ([ZEROS], [ZEROS.to("meta")], {}, "torch.float32 on cpu, torch.float32 on meta; bring them to one"),
        ([ZEROS.int()], [ZEROS.int()], {}, "synthetic is torch.int32; expected one of"),
        ([ZEROS], [ZEROS], {"metric": "layerwise"}, "Did you mean 'layerwise_cosine'"),
        ([ZEROS], [ZEROS], {"backend": "gpu"}, "unknown backend 'gpu'"),
    ],
)
def test_lists_that_do_not_fit_are_refused(synthetic: list[Tensor], real: list[Tensor], options: dict[str, str], text: str) -> None:
    with pytest.raises(fastdc.UsageError, match=text):
        fastdc.match_loss(synthetic, real, **options)
