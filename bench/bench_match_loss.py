"""`match_loss` in the place of a script's own distance: forward and backward of one class, beside plain torch."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import fastdc
from fastdc.engines.reference import plain_distance
from fastdc.models import build

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["plain", "match_loss"])
def bench_match_loss(timed: Any, name: str) -> None:
    """The loss of one class in a double-backward script, forward and backward, on lists of the default ConvNet's gradients."""
    shapes = [tuple(parameter.shape) for parameter in build("convnet", 1, 10, (28, 28)).parameters()]
    generator = torch.Generator().manual_seed(0)
    sides = [[torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes] for _ in range(2)]
    synthetic = [gradient.requires_grad_() for gradient in sides[0]]
    leaves = [gradient for gradient in synthetic if gradient.dim() > 1]
    losses = {"plain": functools.partial(plain_distance, metric="layerwise_cosine"), "match_loss": fastdc.match_loss}

    def job(name: str = name) -> tuple[Tensor, ...]:
        loss = losses[name](synthetic, sides[1])
        return (loss.detach(), *torch.autograd.grad(loss, leaves))

    for found, expected in zip(job(), job("plain"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

    def synchronised() -> None:
        job()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    timed("loss of a class, forward and backward", synchronised, rounds=301, name=name)
