"""Gradient matching: images whose gradients are those of the real images (Zhao, Mopuri, Bilen, ICLR 2021, algorithm 1).

A matching step is four calls:

    real      = engine.class_gradients(theta, real_images)                 # [C, B, channels, H, W] -> [C, P]
    synthetic = engine.class_gradients(theta, synthetic_images)            # [C, n, channels, H, W] -> [C, P]
    distance, cotangent = layerwise_distance(synthetic, real, layout)      # [C], [C, P]
    gradient  = engine.image_gradients(theta, synthetic_images, cotangent) # [C, n, channels, H, W]

The last three are `engine.match`, so that an engine can share work between them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastdc.engines import Sgd
from fastdc.methods.base import Method
from fastdc.methods.state import State
from fastdc.runtime.seeding import derive_seed


class GradientMatching(Method):
    """`dc`: match gradients with one network after another, each trained on the images between two steps."""

    def step(self, state: State) -> tuple[Tensor, Tensor]:
        """The distance of the gradients, class by class, and its gradient by the images."""
        engine, theta = self.problem.engine, state.theta
        assert theta is not None
        real = self.real_gradients(theta)  # [C, P]
        return engine.match(theta, state.images, real, self.problem.config.distance)  # [C], [C, n, channels, H, W]

    def advance(self, state: State) -> None:
        """Train the network on the images, for `model_epochs`."""
        config, theta = self.problem.config, state.theta
        assert theta is not None
        assert config.model_epochs is not None
        classes = torch.arange(len(state.images), device=theta.device)
        images, labels = state.images.flatten(0, 1), classes.repeat_interleave(config.ipc)
        with self.problem.family.seeded_training(derive_seed(config.seed, "dropout", state.iteration, state.step)):
            self.problem.engine.train(theta, images, labels, Sgd(config.model_epochs, config.lr_model), state.training)
