"""The engine protocol: what condensation and evaluation ask of a network, on one flat vector of weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdc.metrics.layout import ParameterLayout
from fastdc.metrics.operator import layerwise_distance
from fastdc.parallel.devices import to_device

# Images [N, channels, H, W] and the generator of the training -> images of the same shape
Augmentation = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Sgd:
    """One phase of SGD at a constant learning rate, its momentum starting at zero."""

    epochs: int
    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch: int = 256


@dataclass(frozen=True, eq=False)
class Distillation:
    """The logits of an older network, which a newer one keeps while it learns; adds to the loss of each image

        - sum over groups of the old classes of < softmax(old logits / T), log softmax(new logits / T) >,

    the softmax within the group (Castro et al., "End-to-End Incremental Learning", ECCV 2018).
    """

    logits: Tensor
    """Of the older network, [N, K]: for the first K classes of the newer one."""
    groups: tuple[int, ...]
    """How many classes each group has, K in all."""
    temperature: float = 2.0

    def shares(self, index: Tensor | slice = slice(None)) -> Tensor:
        """The softmax within each group of the older network's logits / T, of the images at `index` [n, K]."""
        return torch.cat([old.softmax(1) for old in (self.logits[index] / self.temperature).split(self.groups, 1)], 1)

    def loss(self, logits: Tensor, index: Tensor | slice) -> Tensor:
        """Summed over those images at `index` that have these logits [n, K or more]."""
        found = (logits[:, : sum(self.groups)] / self.temperature).split(self.groups, 1)
        kept = self.shares(index).split(self.groups, 1)
        return torch.stack([F.cross_entropy(new, old, reduction="sum") for new, old in zip(found, kept, strict=True)]).sum()


class Engine(ABC):
    """Gradients, training and logits of one module whose weights are handed over as a flat vector theta [P].

    C classes, n images of each, P parameters. Losses are the mean cross-entropy over the n images of one class. The module
    gives the structure and the statistics of batch norm, which matching keeps frozen; its own weights are not touched.

    Args:
        module: any nn.Module from images [N, channels, H, W] to logits [N, num_classes].
    """

    name: ClassVar[str]

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval()
        self.layout = ParameterLayout.of(module)

    @classmethod
    def unsupported_reasons(cls, module: nn.Module) -> list[str]:
        """Why this engine cannot serve `module`, one sentence each; empty when it can."""
        return []

    @abstractmethod
    def class_gradients(self, theta: Tensor, images: Tensor, classes: Tensor | None = None) -> Tensor:
        """The gradient of each class's mean cross-entropy by the weights.

        Args:
            theta: weights [P].
            images: normalised images [C, n, channels, H, W].
            classes: the class of each of the C groups, int64 [C]; None: 0 to C - 1.

        Returns:
            Gradients [C, P].
        """

    @abstractmethod
    def image_gradients(self, theta: Tensor, images: Tensor, cotangent: Tensor) -> Tensor:
        """The gradient by the images of <cotangent, class_gradients(theta, images)>.

        Args:
            theta: weights [P].
            images: normalised images [C, n, channels, H, W]; the class is the position.
            cotangent: d distance / d class gradient [C, P].

        Returns:
            Gradients [C, n, channels, H, W].
        """

    @abstractmethod
    def hessian_products(self, theta: Tensor, images: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Second derivatives of the loss times a vector: what going back through a step of SGD asks for.

        With L the mean cross-entropy over all images, and g its gradient by the weights: the gradients of <vector, g>.

        Args:
            theta: weights [P].
            images: normalised images [C, n, channels, H, W]; the class is the position.
            vector: a direction among the weights [P].

        Returns:
            Its gradient by the weights, the Hessian times the vector [P]; and by the images [C, n, channels, H, W].
        """

    @abstractmethod
    def train(
        self,
        theta: Tensor,
        images: Tensor,
        labels: Tensor,
        sgd: Sgd,
        generator: torch.Generator,
        augment: Augmentation | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        """Train `theta` [P] in place by SGD on the mean cross-entropy of shuffled batches.

        Args:
            theta: weights [P], changed.
            images: normalised images [N, channels, H, W].
            labels: int64 [N].
            sgd: epochs, learning rate, momentum, weight decay and batch size.
            generator: gives the order of the batches.
            augment: changes the images of each batch before they are learned.
            distillation: the logits of an older network for the N images; its term is added to the cross-entropy of each.
        """

    @abstractmethod
    def logits(self, theta: Tensor, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of normalised images [N, channels, H, W]."""

    def match(self, theta: Tensor, synthetic: Tensor, real: Tensor, metric: str) -> tuple[Tensor, Tensor]:
        """The distance of the synthetic images' gradients from the real ones, and its gradient by the images.

        Args:
            theta: weights [P].
            synthetic: images [C, n, channels, H, W]; the class is the position.
            real: the real images' gradients [C, P].
            metric: as `layerwise_distance` takes it.

        Returns:
            The distance of each class [C], and d distance / d synthetic [C, n, channels, H, W].
        """
        gradients = self.class_gradients(theta, synthetic)  # [C, P]
        distance, cotangent = layerwise_distance(gradients, real, self.layout, metric)  # [C], [C, P]
        return distance, self.image_gradients(theta, synthetic, cotangent)

    def freeze_statistics(self, theta: Tensor, images: Tensor) -> None:
        """Set every batch norm's mean and variance to those of `images` [N, channels, H, W], for the passes that follow."""
        norms = batch_norms(self.module)
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0  # the statistics of this batch alone
            norm.train()
        with torch.no_grad():
            torch.func.functional_call(self.module, self.layout.views(theta), (images,))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The batch norms in a module: what makes the gradient of one image depend on the others."""
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


def batches(count: int, sgd: Sgd, generator: torch.Generator, device: torch.device | str = "cpu") -> Iterator[Tensor]:
    """The batches of all epochs as positions [<= batch] on `device`: every engine trains in this order."""
    for _ in range(sgd.epochs):
        yield from to_device(torch.randperm(count, generator=generator), device).split(sgd.batch)


def class_numbers(images: Tensor) -> Tensor:
    """The classes 0 to C - 1 of images [C, n, ...], on their device."""
    return torch.arange(len(images), device=images.device)
