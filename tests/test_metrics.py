"""The table of metrics: specs, rows, what one of a user's own can do, and who refuses one that he does not have."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import Arm, arms
from tolerances import FLOAT64_CLOSED_FORM, FLOAT64_ENGINES
from torch import Tensor, nn

import fastdc
from fastdc.engines import ENGINES
from fastdc.engines.reference import plain_distance
from fastdc.errors import UsageError
from fastdc.metrics import METRICS, ROWS, Definition, Metric, ParameterLayout, layerwise_distance
from fastdc.metrics.backends import BACKENDS, reference, resolve_backend
from fastdc.models import build

SPEC = "convnet:width=8,depth=2,activation=swish"
HUBER = Definition(
    lambda a, b: torch.where((a - b).abs() < 1, (a - b) ** 2 / 2, (a - b).abs() - 0.5).sum((-2, -1)), lambda a, b: (a - b).clamp(-1, 1)
)
ONE_SIDED = Definition(lambda a, b: (a * a * b).sum((-2, -1)), lambda a, b: 2 * a * b, symmetric=False)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    """A metric in plain torch alone: that of Huber."""
    monkeypatch.setitem(METRICS, "own", HUBER)
    return "own"


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def pair(layout: ParameterLayout, classes: int = 3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return tuple(torch.randn(2, classes, layout.size, dtype=torch.float64))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("rows", ROWS)
def test_a_spec_names_a_metric_with_its_rows(name: str, rows: str) -> None:
    assert Metric.of(f"{name}:rows={rows}") == Metric.of(str(Metric(name, rows))) == Metric(name, rows)
    assert Metric.of(name) == Metric(name, "all")
    assert str(Metric(name, "all")) == name


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("l2", "unknown metric 'l2'. Did you mean 'l1'"),
        ("", "unknown metric ''"),
        (None, "metric is None; expected one of cosine, l1"),
        ("l1:row=all", "unknown option of 'l1' 'row'. Did you mean 'rows'"),
        ("l1:rows=convolution", "unknown choice of rows 'convolution'. Did you mean 'convolutions'"),
        ("l1:rows", "cannot read 'rows' in 'l1:rows'"),
        ("l1:name=mse", "unknown option of 'l1' 'name'"),
    ],
)
def test_what_names_no_metric_is_refused_by_everyone_who_takes_one(spec: str | None, text: str) -> None:
    layout, ones = ParameterLayout.of(nn.Linear(3, 2)), torch.ones(2, 8)
    with pytest.raises(UsageError, match=text):
        layerwise_distance(ones, ones, layout, spec)
    with pytest.raises(UsageError, match=text):
        fastdc.match_loss([ones], [ones], metric=spec)
    with pytest.raises(UsageError, match=text):
        plain_distance([ones], [ones], spec)
    with pytest.raises(UsageError, match=text):
        fastdc.GradientMatcher(nn.Linear(3, 2), distance=spec)
    if spec is not None:
        with pytest.raises(UsageError, match=text):
            fastdc.condense("digits", ipc=1, distance=spec)


def test_an_unknown_metric_is_refused_by_every_backend(arm: Arm) -> None:
    layout = ParameterLayout.of(nn.Linear(3, 2))
    ones = torch.ones(2, 8, device=arm.device)
    with pytest.raises(UsageError, match="unknown metric 'euclid'"):
        torch.ops.fastdc.layerwise_distance(ones, ones, layout.segments(), "euclid", arm.backend)


def test_the_definition_in_plain_torch_refuses_an_unknown_metric() -> None:
    ones = torch.ones(2, 6)
    with pytest.raises(UsageError, match="unknown metric 'euclid'"):
        reference.layerwise_distance(ones, ones, (0, 2, 3), "euclid")


# Rows


def test_convolutions_are_parameters_of_three_dimensions_or_more() -> None:
    layout = ParameterLayout.of(nn.Sequential(nn.Conv1d(2, 3, 5), nn.GroupNorm(1, 3), nn.Conv2d(3, 4, 1), nn.Linear(4, 2)))
    assert [parameter.name for parameter in layout.seen("convolutions")] == ["0.weight", "2.weight"]
    assert [parameter.name for parameter in layout.seen()] == ["0.weight", "2.weight", "3.weight"]
    assert layout.segments("convolutions") == layout.segments()[:6]


@pytest.mark.parametrize("name", METRICS)
def test_the_distance_of_convolutions_is_that_of_a_network_without_anything_else(name: str) -> None:
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Linear(3, 4), nn.Conv2d(3, 2, 3))
    layout, alone = (
        ParameterLayout.of(module),
        ParameterLayout.of(nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.Conv2d(3, 2, 3, bias=False))),
    )
    sides = pair(layout)
    parts = [torch.cat([layout.views(side)[f"{place}.weight"].flatten(1) for place in (0, 2)], 1) for side in sides]
    distance, cotangent = layerwise_distance(*sides, layout, f"{name}:rows=convolutions")
    expected, by_parts = layerwise_distance(*parts, alone, name)
    torch.testing.assert_close(distance, expected, rtol=FLOAT64_CLOSED_FORM, atol=0)
    for parameter in layout.parameters:
        view = layout.views(cotangent)[parameter.name].flatten(1)
        place = {"0.weight": slice(0, 27), "2.weight": slice(27, None)}.get(parameter.name)
        torch.testing.assert_close(view, torch.zeros_like(view) if place is None else by_parts[:, place])
    loss = sum(
        plain_distance(list(a.values()), list(b.values()), f"{name}:rows=convolutions")
        for a, b in zip(*([layout.views(row) for row in side] for side in sides), strict=True)
    )
    torch.testing.assert_close(loss, expected.sum())
    lists = [[value[0] for value in layout.views(side).values()] for side in sides]
    torch.testing.assert_close(fastdc.match_loss(*lists, metric=f"{name}:rows=convolutions"), expected[0])


def test_a_network_without_convolutions_is_refused() -> None:
    module, text = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), "no parameter of 3 dimensions or more, .*rows=convolutions"
    layout = ParameterLayout.of(module)
    with pytest.raises(UsageError, match=text):
        layerwise_distance(*pair(layout), layout, "l1:rows=convolutions")
    for engine in ("torch", "reference"):
        with pytest.raises(UsageError, match=text):
            fastdc.GradientMatcher(module, distance="l1:rows=convolutions", engine=engine)
    with pytest.raises(UsageError, match=text):
        fastdc.condense("digits", ipc=1, model="mlp:width=8", distance="l1:rows=convolutions")
    with pytest.raises(UsageError, match=r"expected at least one of 3 dimensions or more.*'l1:rows=convolutions'"):
        fastdc.match_loss([torch.ones(2, 3)], [torch.ones(2, 3)], metric="l1:rows=convolutions")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", METRICS)
def test_every_engine_matches_convolutions_alone(engine: str, name: str) -> None:
    module = build(SPEC, 1, 3, (8, 8)).double()
    if reasons := ENGINES.entry(engine).unsupported_reasons(module):
        pytest.skip("; ".join(reasons))
    torch.manual_seed(0)
    synthetic, real = torch.randn(3, 2, 1, 8, 8, dtype=torch.float64), torch.randn(3, 5, 1, 8, 8, dtype=torch.float64)
    loss, gradient = fastdc.GradientMatcher(module, distance=f"{name}:rows=convolutions", engine=engine)(synthetic, real)
    leaf, expected = synthetic.clone().requires_grad_(), torch.zeros((), dtype=torch.float64)
    module.eval()
    for c in range(3):
        losses = [F.cross_entropy(module(images[c]), torch.full((len(images[c]),), c)) for images in (leaf, real)]
        gradients = [torch.autograd.grad(each, list(module.parameters()), create_graph=True) for each in losses]
        pairs = [(a, b.detach()) for a, b in zip(*gradients, strict=True) if a.dim() > 2]
        expected = expected + plain_distance(*map(list, zip(*pairs, strict=True)), name)
    assert abs(loss - expected) / expected < FLOAT64_ENGINES
    assert relative(gradient, torch.autograd.grad(expected, leaf)[0]) < FLOAT64_ENGINES


def test_a_run_takes_the_rows_of_its_distance_and_says_so_in_one_way() -> None:
    options = {"ipc": 1, "model": "convnet:width=8,depth=1", "iterations": 1, "matching_steps": 2, "batch_real": 8, "progress": False}
    runs = {spec: fastdc.condense("digits", distance=spec, **options) for spec in ("l1", "l1:rows=all", "l1:rows=convolutions")}
    assert torch.equal(runs["l1"].images, runs["l1:rows=all"].images)
    assert not torch.equal(runs["l1"].images, runs["l1:rows=convolutions"].images)
    assert [run.provenance["config"]["distance"] for run in runs.values()] == ["l1", "l1", "l1:rows=convolutions"]
    recipe = fastdc.Recipe(pool="fresh:train=synthetic", distance="l1:rows=convolutions")
    assert torch.equal(fastdc.condense("digits", method=recipe, **options).images, runs["l1:rows=convolutions"].images)


# A metric of one's own


def test_auto_takes_a_backend_that_has_the_metric(own: str) -> None:
    layout = ParameterLayout.of(nn.Linear(3, 2))
    a, b = pair(layout)
    distance, cotangent = layerwise_distance(a, b, layout, own)
    torch.testing.assert_close(distance, F.huber_loss(a[:, :6], b[:, :6], reduction="none").sum(1))
    leaf = a.clone().requires_grad_()
    F.huber_loss(leaf[:, :6], b[:, :6], reduction="sum").backward()
    torch.testing.assert_close(cotangent, leaf.grad)
    assert resolve_backend("auto", "cpu", torch.float64, own) == "reference"


@pytest.mark.parametrize("arm", arms("cpp", "triton", "cuda"), indirect=True)
def test_a_backend_that_lacks_it_is_refused_and_the_text_says_which_have_it(arm: Arm, own: str) -> None:
    layout = ParameterLayout.of(nn.Linear(3, 2))
    ones = torch.ones(2, 8, device=arm.device)
    names = ", ".join(BACKENDS[arm.backend].metrics())
    text = f"backend '{arm.backend}' cannot serve float32 on .*: it has no metric 'own' but {names}; reference can take its place"
    with pytest.raises(UsageError, match=text):
        layerwise_distance(ones, ones, layout, own, arm.backend)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_matches_by_it(engine: str, own: str) -> None:
    module = build(SPEC, 1, 3, (8, 8)).double()
    if reasons := ENGINES.entry(engine).unsupported_reasons(module):
        pytest.skip("; ".join(reasons))
    torch.manual_seed(0)
    synthetic, real = torch.randn(3, 2, 1, 8, 8, dtype=torch.float64), torch.randn(3, 5, 1, 8, 8, dtype=torch.float64)
    results = [fastdc.GradientMatcher(module, distance=own, engine=each)(synthetic, real) for each in (engine, "reference")]
    for found, expected in zip(*results, strict=True):
        assert relative(found, expected) < FLOAT64_ENGINES


def test_the_derivative_of_one_that_is_not_symmetric_by_the_real_gradient_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "one_sided", ONE_SIDED)
    layout = ParameterLayout.of(nn.Linear(3, 2))
    a, b = pair(layout)
    a.requires_grad_()
    distance, _ = layerwise_distance(a, b, layout, "one_sided")
    (gradient,) = torch.autograd.grad(distance.sum(), a)
    torch.testing.assert_close(gradient[:, :6], (2 * a * b)[:, :6].detach())
    with pytest.raises(UsageError, match="derivative of 'one_sided' by the real gradient was asked for, and the metric is not symmetric"):
        layerwise_distance(a, b.clone().requires_grad_(), layout, "one_sided")


@pytest.mark.parametrize("name", METRICS)
def test_the_metrics_of_the_table_are_what_they_say_of_themselves(name: str) -> None:
    a, b = torch.randn(2, 3, 4, 7, dtype=torch.float64)
    forth, back = METRICS[name].distance(a, b), METRICS[name].distance(b, a)
    assert forth.shape == (3,)
    assert torch.allclose(forth, back) == METRICS[name].symmetric
    leaf = a.clone().requires_grad_()
    METRICS[name].distance(leaf, b).sum().backward()
    torch.testing.assert_close(METRICS[name].cotangent(a, b), leaf.grad, rtol=FLOAT64_CLOSED_FORM, atol=1e-15)
