"""The configuration of a condensation: every choice that decides its result, for the API and the command line alike."""

from __future__ import annotations

from dataclasses import dataclass


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
