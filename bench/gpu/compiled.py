"""The torch engine, compiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpu.arms import Ours, Plain, Problem
from gpu.measured import measure, relative, synchronise
from gpu.rows import Results
from gpu.settings import CLASSES, GPU, IPCS


def compiled(results: Results) -> None:
    problem = Problem()
    arm = Ours(problem, "torch:compile=true")
    plain = Plain(problem, "float32")
    synthetic = problem.synthetic(IPCS[0])

    def job(name: str, ours: Callable[[], Tensor], expected: Callable[[], Tensor]) -> dict[str, Any]:
        with plain.settings():
            right = expected()
        with arm.settings():
            synchronise()
            start = time.perf_counter()
            found = ours()
            synchronise()
            seconds = time.perf_counter() - start
            error = relative(found, right)
            assert error < 1e-2, f"the relative error is {error}"
            figures = measure(ours)
        return {"compile_and_first_call_seconds": seconds, "error": error, **figures}

    def flat() -> Tensor:
        return torch.stack([torch.cat([g.flatten() for g in each]) for each in plain.real_side(problem.real)])

    results.attempt("real side", lambda: job("real side", lambda: arm.real_side(problem.real), flat), arm=arm.name)
    if not GPU:
        results.row("synthetic side", arm=arm.name, skipped="a minute of compiling without a GPU")
        return
    real = arm.theta.new_zeros(CLASSES, len(arm.theta)).normal_()
    parameters = list(problem.module.parameters())
    pieces = [
        tuple(part.view(p.shape) for part, p in zip(row.split([p.numel() for p in parameters]), parameters, strict=True)) for row in real
    ]
    results.attempt(
        "synthetic side",
        lambda: job("", lambda: arm.synthetic_side(synthetic, real)[1], lambda: plain.synthetic_side(synthetic, pieces)[1]),
        arm=arm.name,
        ipc=IPCS[0],
    )
