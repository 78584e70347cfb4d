"""The statistics of batch norms in matching: they come from real images, as a few learned ones are too few, and are constants of a step.

Where gradients by weights are matched they are running ones, as in the authors' script. A fresh network has mean 0 and variance 1; before
each matching step some real images pass through it as in training, so that each norm moves on by its momentum; and its training between
two steps moves them as any training does. The whole statistics of a batch in their place make the gradients of a deep network grow from
layer to layer: with VGG-11 and ResNet-18 nothing is learned then. Other matches take the whole statistics, without which the features of a
fresh network hardly differ from image to image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastdc.data import ClassSampler
from fastdc.engines import Engine
from fastdc.parallel.world import world
from fastdc.recipe.state import State

_IMAGES = 16  # real images per class in a pass,
_IMAGES_IN_ALL = 4096  # or fewer, where classes are so many that these would be more
_KEPT = "statistics "  # before the names of buffers, in the path of a state


class Statistics:
    """Those of one run.

    Args:
        engine: whose module has the norms, as a fresh network has them.
        sampler: draws the real images.
        counts: how many there are of each class.
        running: whether they go along with a network, or are those of each step's real images.
        trained: whether networks come trained, without the statistics that they had: they begin with those of the first images.
    """

    def __init__(self, engine: Engine, sampler: ClassSampler, counts: Sequence[int], running: bool, trained: bool) -> None:
        self.engine, self.sampler, self.running, self.trained = engine, sampler, running, trained
        self._buffers = engine.statistics()
        self._fresh = {_KEPT + name: buffer.clone() for name, buffer in self._buffers.items()}
        most = max(1, min(_IMAGES, _IMAGES_IN_ALL // len(counts)))
        self._counts = [min(count, most) for count in counts]

    def follow(self, state: State) -> None:
        """Before a step: go on from where the last one with this network ended, by a pass of real images."""
        if not self._buffers:
            return
        assert state.theta is not None
        kept = state.path if state.step else self._fresh
        known = self.running and kept.keys() >= self._fresh.keys()  # a checkpoint of an earlier version lacks them
        if not known or (self.trained and state.step == 0):
            self.engine.freeze_statistics(state.theta, self._real_images(state))
            return
        for name, buffer in self._buffers.items():
            buffer.copy_(kept[_KEPT + name])
        self.engine.follow_statistics(state.theta, self._real_images(state))

    def _real_images(self, state: State) -> Tensor:
        """Those of all classes for the next step, [N, channels, H, W]; of several processes each reads those of its own."""
        index = self.sampler.indices(world().share(len(self._counts)), max(self._counts), "statistics", *state.moment)
        here = self.sampler.images_at(torch.cat(index)) if index else state.stored.new_empty(0, *self.sampler.data.images.shape[1:])
        return world().joined(here, self._counts)

    def keep(self, state: State) -> None:
        """After a step: let the state have them for the next one with this network."""
        if self.running:
            state.path |= {_KEPT + name: buffer.clone() for name, buffer in self._buffers.items()}
