"""`match_loss` in the place of a script's own distance: value and backward pass of ten classes in turn, beside plain torch."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import fastdc
from fastdc.engines.reference import plain_distance
from fastdc.models import build

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CLASSES, ROUNDS = 10, 101
LOSSES: dict[str, Callable[..., Tensor]] = {
    "plain": functools.partial(plain_distance, metric="layerwise_cosine"),
    "match_loss": fastdc.match_loss,
}


def gradients_of_classes() -> list[tuple[list[Tensor], list[Tensor]]]:
    """Of each class, the synthetic and the real gradients, in the shapes of the default ConvNet's."""
    shapes = [parameter.shape for parameter in build("convnet", 1, CLASSES, (28, 28)).parameters()]
    generator = torch.Generator().manual_seed(0)

    def side() -> list[Tensor]:
        return [torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes]

    return [([gradient.requires_grad_() for gradient in side()], side()) for _ in range(CLASSES)]


def loss_and_gradients(name: str, synthetic: list[Tensor], real: list[Tensor]) -> tuple[Tensor, ...]:
    loss = LOSSES[name](synthetic, real)
    return (loss.detach(), *torch.autograd.grad(loss, [gradient for gradient in synthetic if gradient.dim() > 1]))


def bench_match_loss(benchmark: Any, record: Callable[..., None]) -> None:
    """Each round of all classes with match_loss comes just after one with the plain loss; seconds are those of a class."""
    classes, plain = gradients_of_classes(), []
    for each in classes:
        for found, expected in zip(*(loss_and_gradients(name, *each) for name in LOSSES), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

    def all_classes(name: str) -> None:
        for each in classes:
            loss_and_gradients(name, *each)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    def before() -> None:
        start = time.perf_counter()
        all_classes("plain")
        plain.append(time.perf_counter() - start)

    benchmark.pedantic(all_classes, args=("match_loss",), setup=before, rounds=ROUNDS)
    for name, seconds in (("plain", statistics.median(plain)), ("match_loss", benchmark.stats.stats.median)):
        record("loss of a class, forward and backward", name=name, seconds=seconds / CLASSES, rounds=ROUNDS)
