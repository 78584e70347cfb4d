"""A plain script beside every engine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpu.arms import Ours, Plain, Problem, held
from gpu.measured import free_cache, measure, relative
from gpu.rows import Results
from gpu.settings import CLASSES, DEVICE, GPU, IPCS, LR_MODEL, PRECISIONS


def engines(results: Results) -> None:
    rows = EngineRows(results, Problem())
    first, *others = IPCS[:3]
    rows.real_side()
    rows.synthetic_side(first)
    for ipc in (first, *others):
        rows.step(ipc)
    rows.training(first, epochs=10)
    rows.training(50 if GPU else 3, epochs=5)
    rows.iteration(first, 2)
    if GPU:
        rows.iteration(50, 1, rows.some(("plain", "tf32"), ("cuda", "tf32"), ("cuda", "float32")), needs=15)
    for ipc in IPCS:
        rows.memory(ipc)
    for ipc in others:
        rows.synthetic_side(ipc)
    rows.iteration(1, 5 if GPU else 2)
    rows.side_by_side(first, 5, epochs=10 if GPU else 2)
    for ipc in IPCS[3:]:
        rows.step(ipc)
    rows.memory(1000 if GPU else 3, rows.some(("cuda", "tf32")))  # that it runs at all
    rows.draw()
    rows.side_by_side(first, 20, epochs=10 if GPU else 2)


class EngineRows:
    """One job after the other, each by every arm."""

    def __init__(self, results: Results, problem: Problem) -> None:
        self.results, self.problem = results, problem
        self.plain = [Plain(problem, precision) for precision in PRECISIONS if GPU or precision != "tf32"]  # no TF32 on the CPU
        self.cuda = [Ours(problem, "cuda", precision) for precision in PRECISIONS]
        self.both: list[Any] = [*self.plain, *self.cuda]
        self.all = [*self.both, Ours(problem, "torch")]
        with self.plain[0].settings():
            gradients = self.plain[0].real_side(problem.real)
        self.real = torch.stack([torch.cat([g.flatten() for g in each]) for each in gradients])  # [C, P], float32, of the plain script
        rows = self.cuda[0].engine.layout.seen()
        self.seen = torch.cat([torch.arange(row.offset, row.offset + row.size, device=DEVICE) for row in rows])  # by the metric

    def some(self, *wanted: tuple[str, str]) -> list[Any]:
        """The arms of these names and precisions, in this order."""
        return [arm for each in wanted for arm in self.both if (arm.name, arm.precision) == each]

    def each(self, what: str, arms: list[Any], job: Callable[[Any], dict[str, Any]], needs: float = 3, **labels: Any) -> None:
        for arm in arms:

            def within(arm: Any = arm) -> dict[str, Any]:
                with arm.settings():
                    return job(arm)

            self.results.attempt(what, within, needs, arm=arm.name, precision=arm.precision, **labels)

    def timed(self, arm: Any, job: Callable[[], object], ipc: int) -> dict[str, Any]:
        """Of the plain script, whose thousands of kernels take long to list, only the first."""
        return measure(job, profiled=arm.name != "plain" or ipc == IPCS[0])

    def draw(self) -> None:
        self.each("draw", self.both, lambda arm: measure(arm.draw))

    def checked(self, arm: Any, found: Tensor, expected: Tensor) -> dict[str, Any]:
        """The error against the plain script in float32, which must be small where an engine computes in float32."""
        error = relative(found, expected)
        assert error < (1e-2 if arm.precision == "float32" else 1), f"the relative error is {error}"
        return {"error": error}

    def real_side(self) -> None:
        def job(arm: Any) -> dict[str, Any]:
            found = arm.real_side(self.problem.real)
            if isinstance(arm, Plain):
                found = torch.stack([torch.cat([g.flatten() for g in each]) for each in found])
            errors = self.checked(arm, found[:, self.seen], self.real[:, self.seen])
            return {**errors, **measure(lambda: arm.real_side(self.problem.real))}

        self.each("real side", self.both, job)

    def gradients_for(self, arm: Any) -> Any:
        """The real gradients of the plain script as an arm takes them."""
        if not isinstance(arm, Plain):
            return self.real
        parameters = list(arm.module.parameters())
        return [
            [part.view(p.shape) for part, p in zip(flat.split([p.numel() for p in parameters]), parameters, strict=True)]
            for flat in self.real
        ]

    def synthetic_side(self, ipc: int) -> None:
        synthetic = self.problem.synthetic(ipc)
        with self.plain[0].settings():
            expected = self.plain[0].synthetic_side(synthetic, self.gradients_for(self.plain[0]))

        def job(arm: Any) -> dict[str, Any]:
            real = self.gradients_for(arm)
            distance, gradient = arm.synthetic_side(synthetic, real)
            errors = {**self.checked(arm, gradient, expected[1]), "distance_error": relative(distance, expected[0])}
            return {**errors, **self.timed(arm, lambda: arm.synthetic_side(synthetic, real), ipc)}

        self.each("synthetic side", self.both, job, ipc=ipc)

    def step(self, ipc: int) -> None:
        self.each("step", self.all, lambda arm: self.timed(arm, arm.stepper(self.problem.synthetic(ipc)), ipc), ipc=ipc)

    def memory(self, ipc: int, arms: list[Any] | None = None) -> None:
        if not GPU:
            self.results.row("memory", ipc=ipc, skipped="torch sees no CUDA device")
            return
        for arm in arms or self.both:
            self.each("memory", [arm], lambda arm: held(arm, self.problem.synthetic(ipc)), ipc=ipc)
            free_cache()

    def training(self, ipc: int, epochs: int) -> None:
        images = self.problem.synthetic(ipc)
        steps = epochs * -(-CLASSES * ipc // 256)
        labels = {"ipc": ipc, "images": min(CLASSES * ipc, 256)}
        self.each("SGD step", self.both, lambda arm: measure(lambda: arm.train(images, epochs), calls=steps), **labels)

    def side_by_side(self, ipc: int, networks: int, epochs: int) -> None:
        """A step of SGD of several networks: at once, and one after another."""
        from fastdc.engines import Engine, Sgd

        images, sgd = self.problem.synthetic(ipc).flatten(0, 1), Sgd(epochs, LR_MODEL, 0.9, 5e-4)
        labels = torch.arange(len(images), device=DEVICE) // ipc
        generators = [torch.Generator().manual_seed(number) for number in range(networks)]
        for what, train in (
            ("at once", lambda engine: engine.train_side_by_side),
            ("in turn", lambda engine: functools.partial(Engine.train_side_by_side, engine)),
        ):

            def job(arm: Any, train: Callable[[Any], Callable[..., None]] = train) -> dict[str, Any]:
                thetas = arm.theta.repeat(networks, 1)
                return measure(lambda: train(arm.engine)(thetas, images, labels, sgd, generators), calls=epochs * -(-len(images) // 256))

            self.each(f"SGD step of networks {what}", self.cuda, job, ipc=ipc, networks=networks)

    def iteration(self, ipc: int, iterations: int, arms: list[Any] | None = None, needs: float = 8) -> None:
        self.each("iteration", arms or self.all, lambda arm: arm.iteration(self.problem, ipc, iterations), needs, ipc=ipc)
