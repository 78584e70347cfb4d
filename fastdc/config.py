"""The configuration of a condensation: every choice that decides its result, for the API and the command line alike."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from fastdc.checks import check_count, check_rate
from fastdc.distance import METRICS
from fastdc.engines import check_engine
from fastdc.errors import UsageError, unknown_name
from fastdc.methods import check_method, method_class
from fastdc.seeding import check_seed

INITS = ("noise", "real")


@dataclass(frozen=True, kw_only=True)
class CondenseConfig:
    """What decides the result of `fastdc.condense`, data aside."""

    ipc: int
    """Images per class to learn."""
    model: str = "convnet"
    """Network to learn the images with, such as convnet:width=64,norm=batch or mlp."""
    method: str = "dc"
    """Way of learning the images: dc (gradient matching), dd, parameter_matching, curriculum; dd:unroll=20 for its options."""
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
    """Learning rate of the network."""
    batch_real: int = 256
    """Real images of each class in a matching step."""
    distance: str = "layerwise_cosine"
    """Distance of two gradients, or of two paths: layerwise_cosine, cosine or mse."""
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
            check_rate(name, getattr(self, name))
        for kind, name, known in (("init", self.init, INITS), ("metric", self.distance, METRICS)):
            if name not in known:
                raise unknown_name(kind, name, known)
        method = check_method(self.method)
        check_engine(self.engine)
        check_seed(self.seed)
        steps, epochs = method_class(method).loop_lengths(self.ipc)
        if epochs is None and self.model_epochs is not None:
            raise UsageError(
                f"model_epochs is {self.model_epochs}, but method {method!r} trains no network between matching steps; leave it out."
            )
        return dataclasses.replace(
            self,
            method=method,
            matching_steps=steps if self.matching_steps is None else self.matching_steps,
            model_epochs=epochs if self.model_epochs is None else self.model_epochs,
        )
