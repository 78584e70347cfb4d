"""The distance and its closed-form cotangent against autograd in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import FLOAT64_CLOSED_FORM
from torch import Tensor, nn

import fastdc
from fastdc.distance import METRICS, layerwise_distance
from fastdc.layout import Parameter, ParameterLayout
from fastdc.models import build


def layout_of(*shapes: tuple[int, ...]) -> ParameterLayout:
    parameters, offset = [], 0
    for i, shape in enumerate(shapes):
        parameters.append(Parameter(f"p{i}", offset, shape))
        offset += parameters[-1].size
    return ParameterLayout(tuple(parameters))


def plain(metric: str, layout: ParameterLayout, synthetic: Tensor, real: Tensor) -> Tensor:
    """The definition, written with loops."""
    pairs = [
        (a.reshape(p.rows, -1), b.reshape(p.rows, -1))
        for p in layout.matrices
        for a, b in [(layout.views(synthetic)[p.name], layout.views(real)[p.name])]
    ]
    if metric == "mse":
        return sum(((a - b) ** 2).sum() for a, b in pairs)
    if metric == "cosine":
        pairs = [(torch.cat([a.flatten() for a, _ in pairs])[None], torch.cat([b.flatten() for _, b in pairs])[None])]
    return sum(1 - a[i] @ b[i] / (a[i].norm() * b[i].norm() + 1e-6) for a, b in pairs for i in range(len(a)))


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=30, deadline=None)
@given(shapes=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple), min_size=1, max_size=4), classes=st.integers(1, 4))
def test_value_and_cotangent_equal_the_definition(metric: str, shapes: list[tuple[int, ...]], classes: int) -> None:
    layout = layout_of(*shapes, (2, 3))
    synthetic, real = torch.randn(2, classes, layout.size, dtype=torch.float64)
    distance, cotangent = layerwise_distance(synthetic, real, layout, metric)
    leaf = synthetic.clone().requires_grad_()
    expected = torch.stack([plain(metric, layout, a, b) for a, b in zip(leaf, real, strict=True)])
    expected.sum().backward()
    torch.testing.assert_close(distance, expected.detach(), rtol=FLOAT64_CLOSED_FORM, atol=FLOAT64_CLOSED_FORM)
    torch.testing.assert_close(cotangent, leaf.grad, rtol=FLOAT64_CLOSED_FORM, atol=FLOAT64_CLOSED_FORM)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_of_zeros_have_the_derivative_that_autograd_gives(metric: str) -> None:
    layout = layout_of((3, 4))
    synthetic, real = torch.randn(2, 1, 12, dtype=torch.float64)
    synthetic[0, :4], real[0, 4:8] = 0, 0
    _, cotangent = layerwise_distance(synthetic, real, layout, metric)
    leaf = synthetic.clone().requires_grad_()
    fastdc.match_loss([leaf.view(3, 4)], [real.view(3, 4)], metric=metric).backward()
    torch.testing.assert_close(cotangent, leaf.grad)
    assert torch.isfinite(cotangent).all()


def test_biases_and_norms_count_zero() -> None:
    layout = layout_of((2, 3), (2,), (5,))
    synthetic, real = torch.randn(2, 1, layout.size)
    for metric in METRICS:
        distance, cotangent = layerwise_distance(synthetic, real, layout, metric)
        changed = real.clone()
        changed[:, 6:] += 1
        torch.testing.assert_close(layerwise_distance(synthetic, changed, layout, metric)[0], distance, rtol=0, atol=0)
        assert not cotangent[:, 6:].any()


def test_match_loss_in_a_double_backward_script_gives_the_matchers_gradient() -> None:
    torch.manual_seed(0)
    module = build("convnet:width=8,depth=2", 1, 2, (8, 8)).double()
    synthetic, real = torch.randn(2, 3, 1, 8, 8).double().requires_grad_(), torch.randn(2, 5, 1, 8, 8).double()
    loss = torch.zeros((), dtype=torch.float64)
    for c in range(2):
        losses = [nn.functional.cross_entropy(module(x[c]), torch.full((x.shape[1],), c)) for x in (synthetic, real)]
        gradients = [torch.autograd.grad(value, list(module.parameters()), create_graph=True) for value in losses]
        loss = loss + fastdc.match_loss(gradients[0], [g.detach() for g in gradients[1]])
    loss.backward()
    value, gradient = fastdc.GradientMatcher(module)(synthetic.detach(), real)
    torch.testing.assert_close(value, loss.detach())
    torch.testing.assert_close(gradient, synthetic.grad)


@pytest.mark.parametrize(
    ("synthetic", "real", "text"),
    [
        (torch.zeros(2, 6), torch.zeros(2, 5), r"real has shape \[2, 5\]; expected \[C, 6\]"),
        (torch.zeros(6), torch.zeros(6), r"synthetic has shape \[6\]"),
        (torch.zeros(2, 6), torch.zeros(3, 6), "expected the same shape"),
        (torch.zeros(2, 6), torch.zeros(2, 6).double(), "float64"),
    ],
)
def test_gradients_that_do_not_fit_are_refused(synthetic: Tensor, real: Tensor, text: str) -> None:
    with pytest.raises(fastdc.UsageError, match=text):
        layerwise_distance(synthetic, real, layout_of((2, 3)))


def test_lists_that_do_not_fit_and_unknown_metrics_are_refused() -> None:
    with pytest.raises(fastdc.UsageError, match="expected the same ones"):
        fastdc.match_loss([torch.zeros(2, 3)], [torch.zeros(3, 2)])
    with pytest.raises(fastdc.UsageError, match="Did you mean 'layerwise_cosine'"):
        fastdc.match_loss([torch.zeros(2, 3)], [torch.zeros(2, 3)], metric="layerwise")
