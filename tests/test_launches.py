"""One launch per call, whatever the number of layers and classes."""

from __future__ import annotations

import pytest
import torch

from fastdc.backends import cuda
from fastdc.distance import METRICS, layerwise_distance
from fastdc.layout import ParameterLayout
from fastdc.models import build

LAYOUT = ParameterLayout.of(build("convnet:width=8,depth=2", 1, 10, (8, 8)))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("classes", [1, 3])
def test_triton_launches_once(metric: str, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from fastdc.kernels import layerwise_distance as module

    launched = []
    kernel = module.layerwise_distance_kernel
    run = kernel.fn.run  # of the kernel itself, below autotuning

    def counted(*arguments: object, **options: object) -> object:
        launched.append(options["grid"])
        return run(*arguments, **options)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    synthetic, real = torch.randn(2, classes, LAYOUT.size, device=device)
    layerwise_distance(synthetic, real, LAYOUT, metric, "triton")  # autotunes
    monkeypatch.setattr(kernel.fn, "run", counted)
    layerwise_distance(synthetic, real, LAYOUT, metric, "triton")
    assert len(launched) == 1


@pytest.mark.cuda
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("classes", [1, 3])
def test_cuda_launches_once(metric: str, classes: int) -> None:
    synthetic, real = torch.randn(2, classes, LAYOUT.size, device="cuda")
    layerwise_distance(synthetic, real, LAYOUT, metric, "cuda")
    before = cuda.launches()
    layerwise_distance(synthetic, real, LAYOUT, metric, "cuda")
    assert cuda.launches() == before + 1
