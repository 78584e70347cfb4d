"""One launch per call, whatever the number of layers and classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from conftest import needs_triton, needs_triton_to_run

from fastdc.metrics import METRICS, ParameterLayout, layerwise_distance
from fastdc.metrics.backends import cuda, triton
from fastdc.models import build

LAYOUT = ParameterLayout.of(build("convnet:width=8,depth=2", 1, 10, (8, 8)))


@needs_triton
@needs_triton_to_run
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("classes", [1, 3])
def test_triton_launches_once(metric: str, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastdc.kernels import layerwise_distance as module

    if metric not in triton.metrics():
        pytest.skip(f"the kernel has no code for {metric!r}")

    class Counted:
        """The kernel, which is launched by kernel[grid](...)."""

        grids: ClassVar[list[tuple[int, ...]]] = []
        kernel = module.layerwise_distance_kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]:
            self.grids.append(grid)
            return self.kernel[grid]

    monkeypatch.setattr(module, "layerwise_distance_kernel", Counted())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    synthetic, real = torch.randn(2, classes, LAYOUT.size, device=device)
    layerwise_distance(synthetic, real, LAYOUT, metric, "triton")
    assert len(Counted.grids) == 1


@pytest.mark.cuda
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("classes", [1, 3])
def test_cuda_launches_once(metric: str, classes: int) -> None:
    if metric not in cuda.metrics():
        pytest.skip(f"the library has no code for {metric!r}")
    synthetic, real = torch.randn(2, classes, LAYOUT.size, device="cuda")
    layerwise_distance(synthetic, real, LAYOUT, metric, "cuda")
    before = cuda.launches()
    layerwise_distance(synthetic, real, LAYOUT, metric, "cuda")
    assert cuda.launches() == before + 1
