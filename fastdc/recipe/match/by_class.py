"""What all matches have in common that compare class by class: the cross-entropy of the images, which may be added.

DANCE (Zhang et al., IJCAI 2024) and NCFM (Wang et al., CVPR 2025) add it to their own distances, so that the images stay examples of
their class. With y(phi, s) the logits that a network phi gives for an image s, and w the option `cross_entropy`:

    loss of class c  =  distance of class c  +  w * mean over its n images s of  -log softmax(y(phi, s))[c]

Where the pool changes trained networks, as on the way from their first weights, phi is the network before the change, which knows the
classes; with batch norms it is theta, whose statistics they have.
First derivatives suffice for the second term: its derivative by the logits is w (softmax(y(phi, s)) - onehot(c)) / n.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from fastdc.engines import Engine
from fastdc.options.checks import check_weight
from fastdc.recipe.groups import ClassGroup
from fastdc.recipe.match.base import Match
from fastdc.recipe.problem import Problem
from fastdc.recipe.state import State


@dataclass(frozen=True)
class ClassMatchOptions:
    """Options of every match by class: cross_entropy, the weight of the cross-entropy of the images (None: it is left out)."""

    cross_entropy: float | None = None

    def __post_init__(self) -> None:
        check_weight("cross_entropy", self.cross_entropy, optional=True)


class ClassMatch(Match):
    """Compares the images of a class with its real ones, by `compare`."""

    Options = ClassMatchOptions

    def __init__(self, problem: Problem, options: ClassMatchOptions) -> None:
        super().__init__(problem, options)
        self.asks_expert = bool(options.cross_entropy)

    def step(self, state: State, images: Tensor, group: ClassGroup) -> tuple[Tensor, Tensor]:
        """What `compare` gives, and the weighted cross-entropy of the images where it is asked for."""
        losses, gradient = self.compare(state, images, group)
        weight = self.options.cross_entropy
        if weight:
            assert state.expert is not None
            entropies, by_images = cross_entropy(self.problem.engine, state.expert, images, group.classes)
            losses, gradient = losses + weight * entropies, gradient + weight * by_images
        return losses, gradient

    @abstractmethod
    def compare(self, state: State, images: Tensor, group: ClassGroup) -> tuple[Tensor, Tensor]:
        """How far the images [G, n, channels, H, W] are from real ones, class by class [G], and the gradient by the images."""


def cross_entropy(engine: Engine, theta: Tensor, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy of the images of each class, and its gradient by the images.

    Args:
        engine: computes logits and gradients.
        theta: weights [P].
        images: normalised images [G, n, channels, H, W].
        classes: the class of each of the G sets of images, int64 [G].

    Returns:
        Cross-entropies [G], and gradients [G, n, channels, H, W].
    """
    each, flat = images.shape[1], images.flatten(0, 1)
    labels = classes.repeat_interleave(each)  # [G * n]
    logits = engine.logits(theta, flat)  # [G * n, num_classes]
    entropies = F.cross_entropy(logits, labels, reduction="none").view(-1, each).mean(1)  # [G]
    cotangent = (logits.softmax(1) - F.one_hot(labels, logits.shape[1])) / each
    return entropies, engine.logit_gradients(theta, flat, cotangent).view(images.shape)
