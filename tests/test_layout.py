from __future__ import annotations

import pytest
import torch
from torch import nn

import fastdc
from fastdc.metrics.layout import ParameterLayout
from fastdc.models import build


@pytest.mark.parametrize("spec", ["mlp", "convnet:width=8,norm=layer", "convnet:width=8,norm=batch"])
def test_flatten_views_and_assign_are_inverse(spec: str) -> None:
    module, other = (build(spec, 1, 10, (28, 28)) for _ in range(2))
    layout = ParameterLayout.of(module)
    theta = layout.flatten(module)
    assert theta.shape == (layout.size,)
    assert theta.is_contiguous()
    for (name, value), (view_name, view) in zip(module.named_parameters(), layout.views(theta).items(), strict=True):
        assert name == view_name
        assert torch.equal(value, view)
    layout.assign(other, theta)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


def test_views_write_through_to_the_vector() -> None:
    layout = ParameterLayout.of(nn.Linear(3, 2))
    flat = torch.zeros(4, layout.size)
    layout.views(flat)["bias"].fill_(1)
    assert flat[:, 6:].eq(1).all()
    assert flat[:, :6].eq(0).all()


def test_rows_are_the_output_units_of_parameters_with_two_dimensions_or_more() -> None:
    layout = ParameterLayout.of(build("convnet:width=8,norm=layer", 1, 10, (28, 28)))
    rows = {p.name: (p.rows, p.row_length) for p in layout.parameters}
    assert rows["features.0.weight"] == (8, 9)
    assert rows["features.0.bias"] == (0, 0)
    assert rows["features.1.weight"] == (8, 32 * 32)  # layer norm: [channels, height, width]
    assert rows["classifier.weight"] == (10, 8 * 4 * 4)


def test_modules_without_one_kind_of_parameters_are_refused() -> None:
    with pytest.raises(fastdc.UsageError, match="has no parameters"):
        ParameterLayout.of(nn.ReLU())
    with pytest.raises(fastdc.UsageError, match="bring them to one dtype and device"):
        ParameterLayout.of(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1).double()))
    with pytest.raises(fastdc.UsageError, match="has 5 elements; this layout has 2"):
        ParameterLayout.of(nn.Linear(1, 1)).views(torch.zeros(5))
