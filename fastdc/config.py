"""The configuration of a condensation: every choice that decides its result, for the API and the command line alike."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from fastdc.distance import METRICS
from fastdc.engines import check_engine
from fastdc.errors import UsageError, unknown_name
from fastdc.schedule import paper_schedule
from fastdc.seeding import check_seed

METHODS = ("dc",)
INITS = ("noise", "real")
_LARGEST_RATE = torch.finfo(torch.float32).max


@dataclass(frozen=True, kw_only=True)
class CondenseConfig:
    """What decides the result of `fastdc.condense`, data aside."""

    ipc: int
    """Images per class to learn."""
    model: str = "convnet"
    """Network to match gradients on, such as convnet:width=64,norm=batch or mlp."""
    method: str = "dc"
    """Way of learning the images: dc (gradient matching)."""
    iterations: int = 1000
    """Random networks to match on, one after another."""
    matching_steps: int | None = None
    """Matching steps for each network; None: the paper's number for this ipc."""
    model_epochs: int | None = None
    """Epochs of training the network on the images between two matching steps; None: the paper's number for this ipc."""
    init: str = "noise"
    """Images to start from: noise, or real ones."""
    lr_images: float = 0.1
    """Learning rate of the images."""
    lr_model: float = 0.01
    """Learning rate of the network between matching steps."""
    batch_real: int = 256
    """Real images of each class in a matching step."""
    distance: str = "layerwise_cosine"
    """Distance of two gradients: layerwise_cosine, cosine or mse."""
    engine: str = "auto"
    """Who computes gradients: auto, native, torch, reference; torch:memory=256,compile=true for its options."""
    device: str = "auto"
    """Where: auto, cpu, cuda or cuda:N."""
    seed: int = 0
    """Decides every random number of the run."""

    def resolved(self) -> CondenseConfig:
        """This configuration with the paper's loop lengths in place of None.

        Raises:
            UsageError: a value out of range, or an unknown name; the text says which.
        """
        counts = ("ipc", "iterations", "batch_real", "matching_steps", "model_epochs")
        for name in counts:
            check_count(name, getattr(self, name), optional=name in ("matching_steps", "model_epochs"))
        for name in ("lr_images", "lr_model"):
            _check_rate(name, getattr(self, name))
        for kind, name, known in (("method", self.method, METHODS), ("init", self.init, INITS), ("metric", self.distance, METRICS)):
            if name not in known:
                raise unknown_name(kind, name, known)
        check_engine(self.engine)
        check_seed(self.seed)
        steps, epochs = paper_schedule(self.ipc)
        return dataclasses.replace(
            self,
            matching_steps=steps if self.matching_steps is None else self.matching_steps,
            model_epochs=epochs if self.model_epochs is None else self.model_epochs,
        )


def check_count(name: str, value: object, *, optional: bool = False) -> None:
    """Raise a UsageError unless `value` is a whole number of 1 or more, or None where that is allowed."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} is {value!r}; expected a whole number of 1 or more.")


def _check_rate(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _LARGEST_RATE:
        raise UsageError(f"{name} is {value!r}; expected a finite number above 0, small enough for float32.")
