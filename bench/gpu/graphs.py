"""What is left of a job when its launches cost nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpu.arms import Ours, Problem, matched
from gpu.measured import measure, relative
from gpu.rows import Results
from gpu.settings import CLASSES, DEVICE, GPU, IPCS, REAL


def graphs(results: Results) -> None:
    """What is left of a job when its launches cost nothing: captured once as a CUDA graph, and replayed."""
    if not GPU:
        results.row("graphs", skipped="torch sees no CUDA device")
        return
    problem = Problem()
    for precision in ("float32", "tf32"):
        arm = Ours(problem, "torch", precision)
        jobs: dict[str, Callable[[], Tensor]] = {"real side": lambda arm=arm: arm.real_side(problem.real)}  # type: ignore[misc]
        gradients = arm.real_side(problem.real)
        for ipc in IPCS[:3]:
            jobs[f"synthetic side, ipc {ipc}"] = functools.partial(matched, arm, problem.synthetic(ipc), gradients)
        for count in (100, 256):
            jobs[f"SGD step, {count} images"] = sgd_step(arm, problem.real.flatten(0, 1)[:: CLASSES * REAL // count][:count])
        for what, job in jobs.items():
            results.attempt(what, functools.partial(replayed, arm, job), arm="torch as a graph", precision=precision)


def sgd_step(arm: Ours, images: Tensor) -> Callable[[], Tensor]:
    """Forward, backward and update on one batch that stays where it is."""
    from torch.func import functional_call

    theta, module = arm.theta.clone(), arm.engine.module
    labels = torch.arange(len(images), device=DEVICE) % CLASSES

    def step() -> Tensor:
        weights = {name: view.detach().requires_grad_() for name, view in arm.engine.layout.views(theta).items()}
        loss = F.cross_entropy(functional_call(module, weights, (images,)), labels)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(weights.values()))])
        theta.sub_(gradient, alpha=0)  # the work of a step, and the same one each time
        return gradient

    return step


def replayed(arm: Ours, job: Callable[[], Tensor]) -> dict[str, Any]:
    with arm.settings():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                expected = job()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = job()
        eager = measure(job, seconds=0.2, most=7, profiled=False)
        graph.replay()
        figures = measure(graph.replay, seconds=0.2, most=7)
        return {"difference": relative(found, expected), "eager_ms": eager["event_ms"], **figures}
