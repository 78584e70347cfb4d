"""A plain script and the engines of fastdc, each with the same calls."""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpu.measured import products, reserved_bytes, synchronise
from gpu.settings import CLASSES, COUNT, DEVICE, LR_IMAGES, LR_MODEL, METRIC, MODEL, REAL, SIZE


class Problem:
    """What every arm works on: images of a set, one network, and synthetic images of any number."""

    def __init__(self) -> None:
        from fastdc.data import ImageData

        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (COUNT, 3, *SIZE), dtype=torch.uint8, generator=generator)
        self.data = ImageData.of(pixels, torch.arange(COUNT) % CLASSES)
        torch.manual_seed(0)
        self.module = self.fresh()
        normalised = self.data.normalised(torch.arange(CLASSES * REAL)).to(DEVICE)  # classes in turn
        self.real = normalised.unflatten(0, (REAL, CLASSES)).transpose(0, 1).contiguous()  # [C, B, channels, H, W]

    def fresh(self) -> nn.Module:
        """Another network of its kind."""
        from fastdc.models import build

        return build(MODEL, 3, CLASSES, SIZE).to(DEVICE)

    @functools.cache  # noqa: B019  one object
    def synthetic(self, ipc: int) -> Tensor:
        return torch.randn(CLASSES, ipc, 3, *SIZE, generator=torch.Generator().manual_seed(ipc)).to(DEVICE)


class Plain:
    """The yardstick: eager double backward, one class after the other, as the paper's authors do it."""

    name = "plain"

    def __init__(self, problem: Problem, precision: str) -> None:
        self.again = functools.partial(Plain, problem, precision)
        self.precision, self.module = precision, problem.module
        self.images = problem.data.normalised(slice(None)).to(DEVICE)  # the whole set, float32
        self.members = [(problem.data.labels == c).nonzero()[:, 0] for c in range(CLASSES)]
        self.build = problem.fresh

    def settings(self) -> contextlib.AbstractContextManager[None]:
        return products(self.precision)

    def draw(self) -> list[Tensor]:
        return [self.draw_class(c) for c in range(CLASSES)]

    def draw_class(self, c: int) -> Tensor:
        members = self.members[c]
        return self.images[members[torch.randperm(len(members))[:REAL]].to(DEVICE)]

    def gradients(self, module: nn.Module, images: Tensor, c: int, create_graph: bool = False) -> tuple[Tensor, ...]:
        labels = torch.full((len(images),), c, device=DEVICE)
        loss = F.cross_entropy(module(images), labels)
        return torch.autograd.grad(loss, list(module.parameters()), create_graph=create_graph)

    def real_side(self, real: Tensor) -> list[tuple[Tensor, ...]]:
        return [self.gradients(self.module, images, c) for c, images in enumerate(real)]

    def synthetic_side(self, synthetic: Tensor, real: list[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor]:
        leaf = synthetic.detach().requires_grad_()
        distances = [plain_distance(self.gradients(self.module, leaf[c], c, True), real[c]) for c in range(CLASSES)]
        distance = torch.stack(distances)
        return distance.detach(), torch.autograd.grad(distance.sum(), leaf)[0]

    def stepper(self, synthetic: Tensor, module: nn.Module | None = None) -> Callable[[], float]:
        """A whole matching step: draw, real side, synthetic side, images moved."""
        module = module if module is not None else self.module
        leaf = synthetic.clone().requires_grad_()
        optimizer = torch.optim.SGD([leaf], lr=LR_IMAGES, momentum=0.5)

        def step() -> float:
            loss = torch.zeros((), device=DEVICE)
            for c in range(CLASSES):
                real = self.gradients(module, self.draw_class(c), c)
                loss = loss + plain_distance(self.gradients(module, leaf[c], c, True), real)
            (leaf.grad,) = torch.autograd.grad(loss, leaf)
            optimizer.step()
            return loss.item()

        return step

    def train(self, images: Tensor, epochs: int, module: nn.Module | None = None) -> None:
        module = module if module is not None else self.build()
        flat, labels = images.detach().flatten(0, 1), torch.arange(CLASSES, device=DEVICE).repeat_interleave(images.shape[1])
        optimizer = torch.optim.SGD(module.parameters(), lr=LR_MODEL)
        for _ in range(epochs):
            for index in torch.randperm(len(flat)).to(DEVICE).split(256):
                optimizer.zero_grad()
                F.cross_entropy(module(flat[index]), labels[index]).backward()
                optimizer.step()

    def iteration(self, problem: Problem, ipc: int, iterations: int) -> dict[str, Any]:
        from fastdc.training.schedule import paper_schedule

        steps, epochs = paper_schedule(ipc)
        synthetic, seconds = problem.synthetic(ipc), []
        iterations = max(iterations - 1, 1)  # it has nothing to capture in a first one
        for _ in range(iterations):
            synchronise()
            start = time.perf_counter()
            module = self.build()
            step = self.stepper(synthetic, module)
            for i in range(steps):
                step()
                if i + 1 < steps:
                    self.train(synthetic, epochs, module)
            synchronise()
            seconds.append(time.perf_counter() - start)
        return {"seconds": statistics.median(seconds), "iterations": iterations}


def plain_distance(synthetic: tuple[Tensor, ...], real: tuple[Tensor, ...]) -> Tensor:
    total = torch.zeros((), device=synthetic[0].device)
    for a, b in zip(synthetic, real, strict=True):
        if a.dim() > 1:
            a, b = a.flatten(1), b.flatten(1)
            total = total + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
    return total


class Ours:
    """An engine of fastdc, through the calls that the loop of `condense` makes."""

    def __init__(self, problem: Problem, spec: str, precision: str = "float32") -> None:
        from fastdc.data import ClassSampler
        from fastdc.engines import make_engine
        from fastdc.engines.gather_normalise import near

        self.again = functools.partial(Ours, problem, spec, precision)
        self.name, self.precision = spec, precision
        self.of_engine = {"precision": precision} if spec == "cuda" else {}  # the others are told by torch's settings
        self.engine = make_engine(spec, problem.module, **self.of_engine)
        self.theta = self.engine.layout.flatten(problem.module)
        self.sampler = ClassSampler(near(problem.data, DEVICE), seed=0, device=DEVICE)

    def settings(self) -> contextlib.AbstractContextManager[None]:
        return products("float32" if self.of_engine else self.precision, deterministic=True)

    def draw(self) -> Tensor:
        return self.sampler.draw(range(CLASSES), REAL, "real images")

    def real_side(self, real: Tensor) -> Tensor:
        return self.engine.seen_gradients(self.theta, real, METRIC)

    def synthetic_side(self, synthetic: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        return self.engine.match(self.theta, synthetic, real, METRIC)

    def stepper(self, synthetic: Tensor) -> Callable[[], float]:
        images, velocity = synthetic.clone(), torch.zeros_like(synthetic)

        def step() -> float:
            losses, gradient = self.engine.match(self.theta, images, self.real_side(self.draw()), METRIC)
            velocity.mul_(0.5).add_(gradient)
            images.sub_(velocity, alpha=LR_IMAGES)
            assert torch.isfinite(images).all()
            return losses.sum().item()

        return step

    def train(self, images: Tensor, epochs: int) -> None:
        from fastdc.engines import Sgd

        labels = torch.arange(CLASSES, device=DEVICE).repeat_interleave(images.shape[1])
        self.engine.train(self.theta.clone(), images.flatten(0, 1), labels, Sgd(epochs, LR_MODEL), torch.Generator().manual_seed(0))

    def iteration(self, problem: Problem, ipc: int, iterations: int) -> dict[str, Any]:
        start = time.perf_counter()
        _, seconds = condensed(problem.data, ipc, iterations, engine=self.name, **self.of_engine)
        whole = time.perf_counter() - start
        return {"seconds": statistics.median(seconds[1:] or seconds), "iterations": iterations, "whole_call_seconds": whole}


def condensed(data: Any, ipc: int, iterations: int, **options: Any) -> tuple[Any, list[float]]:
    """What `condense` makes of a set, and the seconds of each iteration."""
    import fastdc
    from fastdc.callbacks import IterationDone

    seconds: list[float] = []

    def note(event: object) -> None:
        if isinstance(event, IterationDone):
            seconds.append(event.seconds)

    settings = {"model": MODEL, "batch_real": REAL, "device": DEVICE.type, "progress": False, "callbacks": [note]}
    return fastdc.condense(data, ipc, iterations=iterations, **settings, **options), seconds


def held(arm: Plain | Ours, synthetic: Tensor) -> dict[str, Any]:
    """What three matching steps of a fresh arm hold beyond the set: as they are, captured, replayed."""
    fresh = arm.again()
    return {"reserved_MiB": reserved_bytes(lambda: fresh.stepper(synthetic), calls=3) / 2**20}


def matched(arm: Ours, synthetic: Tensor, real: Tensor) -> Tensor:
    return arm.synthetic_side(synthetic, real)[1]
