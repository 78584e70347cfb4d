"""How what is stored moves against its gradient, and how its learning rate falls."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastdc.errors import UsageError
from fastdc.options.registry import NoOptions, Registry

# The share of the run that is done, from 0 to below 1 -> the factor of the learning rate.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1.0 + math.cos(math.pi * done)) / 2,
}


class Optimizer(ABC):
    """Moves tensors in place.

    Args:
        options: of the entry.
    """

    Options: ClassVar[type] = NoOptions
    moments: ClassVar[tuple[str, ...]] = ()
    """The names of what it keeps from step to step, a tensor of the shape of what is stored each; zero at first."""
    of_pixels: bool = False
    """Whether its rate is that of pixels in 0..1: with (pixels - mean) / std stored, a gradient by pixels and a step of them are 1 / std
    each of those of what is stored."""

    def __init__(self, options: Any = None) -> None:
        self.options = options

    @abstractmethod
    def step(self, stored: Tensor, gradient: Tensor, moments: Mapping[str, Tensor], rate: float, count: int) -> None:
        """Move what is stored, and its moments.

        Args:
            stored: any shape; changed.
            gradient: of the same shape.
            moments: likewise, by name; changed.
            rate: the learning rate of this step.
            count: steps before this one.
        """


@dataclass(frozen=True)
class SgdOptions:
    """Options of `sgd`: momentum; and pixels, whether the rate is that of pixels in 0..1 (None: that of normalised ones)."""

    momentum: float = 0.5
    pixels: bool | None = None

    def __post_init__(self) -> None:
        _check_fraction("momentum", self.momentum)


class SgdOptimizer(Optimizer):
    """`sgd`: gradient descent with momentum."""

    Options = SgdOptions
    moments = ("velocity",)

    def __init__(self, options: SgdOptions) -> None:
        super().__init__(options)
        self.of_pixels = bool(options.pixels)

    def step(self, stored: Tensor, gradient: Tensor, moments: Mapping[str, Tensor], rate: float, count: int) -> None:
        """The velocity takes up the gradient; what is stored follows it."""
        moments["velocity"].mul_(self.options.momentum).add_(gradient)
        stored.sub_(moments["velocity"], alpha=rate)


@dataclass(frozen=True)
class AdamOptions:
    """Options of `adam`: beta1, beta2, and decay, by which what is stored shrinks in each step, times the learning rate (AdamW)."""

    beta1: float = 0.9
    beta2: float = 0.999
    decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            _check_fraction(name, getattr(self, name))
        if not 0 <= self.decay < math.inf:
            raise UsageError(f"decay is {self.decay!r}; expected 0 or more.")


class Adam(Optimizer):
    """`adam`: each value moves by about the learning rate, however large its gradients are (Kingma & Ba, ICLR 2015; Loshchilov & Hutter,
    ICLR 2019, for `decay`)."""

    Options = AdamOptions
    moments = ("mean", "square")

    def step(self, stored: Tensor, gradient: Tensor, moments: Mapping[str, Tensor], rate: float, count: int) -> None:
        """By the mean of gradients over the root of that of their squares."""
        options = self.options
        mean = moments["mean"].lerp_(gradient, 1 - options.beta1)
        square = moments["square"].mul_(options.beta2).addcmul_(gradient, gradient, value=1 - options.beta2)
        size = (square / (1 - options.beta2 ** (count + 1))).sqrt_().add_(torch.finfo(stored.dtype).tiny ** 0.5)
        stored.mul_(1 - rate * options.decay).addcdiv_(mean, size, value=-rate / (1 - options.beta1 ** (count + 1)))


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer", {"sgd": SgdOptimizer, "adam": Adam})


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UsageError(f"{name} is {value!r}; expected a number from 0 to below 1.")
