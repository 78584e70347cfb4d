"""The layer-wise distance by every backend."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gpu.arms import plain_distance
from gpu.measured import measure, relative
from gpu.rows import Results
from gpu.settings import CLASSES, DEVICE, GPU, METRIC, MODEL, SIZE


def distance(results: Results) -> None:
    if not GPU:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    from fastdc.metrics.backends import BACKENDS
    from fastdc.metrics.layout import ParameterLayout
    from fastdc.metrics.operator import layerwise_distance
    from fastdc.models import build

    layout = ParameterLayout.of(build(MODEL, 3, CLASSES, SIZE))
    for classes in (10, 100) if GPU else (2,):
        # Several pairs in turn, more than the last cache holds.
        pairs = [torch.randn(2, classes, layout.size, device=DEVICE).unbind() for _ in range(6 if classes == 10 else 2)]
        first = [side[:10].cpu().double() for side in pairs[0]]
        expected = layerwise_distance(*first, layout, METRIC, "reference")
        jobs: dict[str, Callable[..., Any]] = {}
        for name in BACKENDS:
            if reason := why_not(name):
                results.row("distance", arm=name, classes=classes, skipped=reason)
            else:
                jobs[name] = functools.partial(layerwise_distance, layout=layout, metric=METRIC, backend=name)
        jobs["plain"] = functools.partial(plain_double, layout=layout)
        for name, job in jobs.items():
            measured = functools.partial(distance_row, job, pairs, expected)
            results.attempt("distance", measured, arm=name, classes=classes)
        configurations_of_triton(results, layout, pairs, expected)


def why_not(backend: str) -> str:
    """Why a backend cannot serve here, or nothing; what fails on a GPU is a row that failed."""
    from fastdc.errors import UsageError
    from fastdc.metrics.layout import ParameterLayout
    from fastdc.metrics.operator import layerwise_distance

    ones = torch.ones(1, 8, device=DEVICE)
    try:
        layerwise_distance(ones, ones, ParameterLayout.of(nn.Linear(3, 2)), METRIC, backend)
    except UsageError as error:
        return str(error)
    except Exception as error:
        return "" if GPU else f"{type(error).__name__}: {error}"  # Triton 3.6 cannot interpret with numpy 2.5
    return ""


def plain_double(synthetic: Tensor, real: Tensor, layout: Any) -> tuple[Tensor, Tensor]:
    """Class by class with autograd, as a script does it."""
    leaf = synthetic.detach().requires_grad_()
    views = [[tuple(layout.views(flat).values()) for flat in side] for side in (leaf, real)]
    found = torch.stack([plain_distance(a, b) for a, b in zip(*views, strict=True)])
    return found.detach(), torch.autograd.grad(found.sum(), leaf)[0]


def distance_row(job: Callable[..., Any], pairs: list[Any], expected: Any) -> dict[str, Any]:
    found = [result[:10] for result in job(*pairs[0])]
    errors = {f"{name}_error": relative(a, b) for name, a, b in zip(("distance", "cotangent"), found, expected, strict=True)}
    assert max(errors.values()) < 1e-3, errors

    def in_turn() -> None:
        for synthetic, real in pairs:
            job(synthetic, real)

    figures = measure(in_turn, calls=len(pairs))
    gigabytes = 3 * pairs[0][0].nbytes / 1e9  # reads both, writes one
    figures["GB/s"] = gigabytes / figures.get("event_ms", figures["wall_ms"]) * 1e3
    if figures.get("kernel_ms"):
        figures["kernel_GB/s"] = gigabytes / figures["kernel_ms"] * 1e3
    return {**errors, **figures}


def configurations_of_triton(results: Results, layout: Any, pairs: list[Any], expected: Any) -> None:
    """The Triton kernel itself in fixed configurations, so that the best can be chosen."""
    try:
        from fastdc.kernels import layerwise_distance as module

        from fastdc.metrics.tiles import tiles_of
    except ImportError as error:
        results.row("configuration of triton", skipped=str(error))
        return
    kernel = module.layerwise_distance_kernel
    if reason := why_not("triton"):
        results.row("configuration of triton", skipped=reason)
        return
    tiles = tiles_of(layout.segments(), layout.size, DEVICE)
    classes, size = pairs[0][0].shape
    distance, cotangent = pairs[0][0].new_empty(classes), torch.empty_like(pairs[0][0])
    parts = torch.empty(classes, 3, len(tiles), dtype=torch.float64, device=DEVICE)
    tickets = torch.zeros(classes, dtype=torch.int32, device=DEVICE)

    def call(synthetic: Tensor, real: Tensor, block: int, warps: int) -> tuple[Tensor, Tensor]:
        arguments = [synthetic, real, tiles, distance, cotangent, parts, tickets, size, len(tiles), synthetic.stride(0), real.stride(0)]
        kernel[(classes * len(tiles),)](*arguments, METRIC=METRIC, BLOCK=block, num_warps=warps)
        return distance, cotangent

    for block in (256, 512, 1024) if GPU else (256, 1024):
        for warps in (4, 8) if GPU else (4,):
            job = functools.partial(call, block=block, warps=warps)
            measured = functools.partial(distance_row, job, pairs, expected)
            results.attempt("configuration of triton", measured, block=block, warps=warps, classes=classes)
