"""The kernels of cross-entropy against their plain definition: the cotangent of the logits, and how it changes along a tangent."""

from __future__ import annotations

import pytest
import torch
from conftest import needs_triton, needs_triton_to_run
from helpers import relative
from tolerances import FLOAT64_ENGINES
from torch import Tensor

from fastdc.engines.chain.cross_entropy import CrossEntropy

pytestmark = [needs_triton, needs_triton_to_run]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def noise(*shape: int, seed: int) -> Tensor:
    return 3 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize(("classes", "each", "outputs"), [(3, 2, 10), (3, 1, 3), (1, 130, 16), (2, 3, 1100)])
def test_kernels_give_what_torch_gives(classes: int, each: int, outputs: int) -> None:
    logits, tangent = noise(classes * each, outputs, seed=1), noise(classes * each, outputs, seed=2)
    labels = torch.randperm(outputs, generator=torch.Generator().manual_seed(3))[:classes].to(DEVICE)
    found, expected = (CrossEntropy(logits, labels, 2 * len(logits), kernels) for kernels in (True, False))
    assert found.kernels is not None
    assert relative(found.cotangent, expected.cotangent) < FLOAT64_ENGINES
    assert relative(found.along(tangent), expected.along(tangent)) < FLOAT64_ENGINES


def test_large_logits_give_shares_of_one() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], device=DEVICE)
    found = CrossEntropy(logits, torch.tensor([0], device=DEVICE), 1, kernels=True)
    assert torch.equal(found.cotangent[0], torch.zeros(3, device=DEVICE))
    assert relative(found.cotangent[1], torch.tensor([-2.0, 1.0, 1.0], device=DEVICE) / 3) < 1e-6


def test_logits_that_are_not_finite_stay_so() -> None:
    found = CrossEntropy(torch.tensor([[float("nan"), 0.0]], device=DEVICE), torch.tensor([1], device=DEVICE), 1, kernels=True)
    assert found.cotangent.isnan().all()


def test_more_classes_than_a_program_is_made_for_go_without(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastdc.kernels import cross_entropy

    monkeypatch.setattr(cross_entropy, "MOST", 4)
    assert CrossEntropy(noise(2, 5, seed=1), torch.tensor([0], device=DEVICE), 2, kernels=True).kernels is None
