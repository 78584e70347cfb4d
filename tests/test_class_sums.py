"""Sums over the images of each class against torch's."""

from __future__ import annotations

import pytest
import torch
from conftest import needs_triton, needs_triton_to_run
from helpers import relative
from tolerances import FLOAT32_ENGINES, FLOAT64_ENGINES

pytestmark = [needs_triton, needs_triton_to_run]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shapes", [[(5,)], [(2, 65), (1,)], [(3,), (129,)]])
@pytest.mark.parametrize(("classes", "each"), [(1, 1), (3, 7), (2, 9), (2, 0)])
def test_sums_are_added_to_those_of_each_class(classes: int, each: int, shapes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    from fastdc.kernels.class_sums import add_class_sums

    torch.manual_seed(0)
    size = sum(torch.Size(shape).numel() for shape in shapes)
    flat = torch.randn(classes, size + 3, dtype=dtype, device=DEVICE)  # of which the sums are parts
    before, pairs, expected, offset = flat.clone(), [], flat.double(), 1
    for shape in shapes:
        values, length = torch.randn(classes * each, *shape, dtype=dtype, device=DEVICE), torch.Size(shape).numel()
        pairs.append((values, flat[:, offset : offset + length].unflatten(1, shape)))
        expected[:, offset : offset + length] += values.double().view(classes, each, -1).sum(1) if each else 0
        offset += length
    add_class_sums(pairs)
    assert relative(flat, expected) < (FLOAT64_ENGINES if dtype == torch.float64 else FLOAT32_ENGINES)
    assert torch.equal(flat[:, [0, -1]], before[:, [0, -1]])  # what lies beside
