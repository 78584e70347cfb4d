"""The reference engine: the paper in plain eager PyTorch, class by class. Obvious, never optimised: the yardstick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fastdc.engines.base import (
    Distillation,
    Engine,
    Sgd,
    Training,
    class_numbers,
    cross_entropy,
    gradients_of_products,
    stop_on_the_way_back,
    stopping_between_layers,
    weight_gradients,
    weight_leaves,
)
from fastdc.metrics.definitions import METRICS, Metric
from fastdc.metrics.layout import ParameterLayout, fewest_dimensions


class ReferenceEngine(Engine):
    """Double backward through `create_graph`, as the authors' scripts do it: the graph of a class is held while it is matched."""

    name: ClassVar[str] = "reference"

    def class_gradients(self, theta: Tensor, images: Tensor, classes: Tensor | None = None) -> Tensor:
        gradients = []
        for label, batch in zip(class_numbers(images, classes), images, strict=True):
            gradients.append(torch.cat([g.flatten() for g in self._gradients(theta, batch, label)]))
        return self.layout.clear_frozen_(torch.stack(gradients))

    def image_gradients(self, theta: Tensor, images: Tensor, cotangent: Tensor, classes: Tensor | None = None) -> Tensor:
        result = []
        for label, batch, vector in zip(class_numbers(images, classes), images, cotangent, strict=True):
            batch = batch.detach().requires_grad_()
            gradients = self._gradients(theta, batch, label, create_graph=True)
            result.append(gradients_of_products(gradients, [batch], self._vectors(vector))[0])
        return torch.stack(result)

    def hessian_products(self, theta: Tensor, images: Tensor, vector: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        weights, images = weight_leaves(self.layout, theta), images.detach().requires_grad_()
        labels = class_numbers(images, classes).repeat_interleave(images.shape[1])
        loss = F.cross_entropy(functional_call(self.module, weights, (images.flatten(0, 1),)), labels)
        gradients = weight_gradients(loss, weights, create_graph=True)
        *by_weights, by_images = gradients_of_products(gradients, [*weights.values(), images], self._vectors(vector))
        return self.layout.clear_frozen_(torch.cat([g.flatten() for g in by_weights])), by_images

    def match(self, theta: Tensor, synthetic: Tensor, real: Tensor, metric: str, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.layout.seen(Metric.of(metric).rows)  # refuses a choice of which there are none
        trained = [i for i, parameter in enumerate(self.layout.parameters) if not parameter.frozen]
        distances, result = [], []
        for label, batch, target in zip(class_numbers(synthetic, classes), synthetic, real, strict=True):
            batch = batch.detach().requires_grad_()
            gradients = self._gradients(theta, batch, label, create_graph=True)
            targets = list(self.layout.views(target).values())
            distance = plain_distance([gradients[i] for i in trained], [targets[i] for i in trained], metric)
            result.append(torch.autograd.grad(distance, batch)[0])
            distances.append(distance.detach())
        return torch.stack(distances), torch.stack(result)

    def training(self, theta: Tensor, sgd: Sgd) -> Training:
        return _PlainTraining(self.module, theta, sgd, self.layout)

    def logits(self, theta: Tensor, images: Tensor) -> Tensor:
        with torch.no_grad(), stopping_between_layers(self.module):
            return functional_call(self.module, self.layout.views(theta), (images,))

    def _vectors(self, vector: Tensor) -> list[Tensor]:
        """What a vector [P] says of each parameter; nothing of those that are frozen."""
        return list(self.layout.views(self.layout.trained_part(vector)).values())

    def _gradients(self, theta: Tensor, images: Tensor, label: Tensor, create_graph: bool = False) -> tuple[Tensor, ...]:
        weights = weight_leaves(self.layout, theta)
        stop_on_the_way_back(weights)
        with stopping_between_layers(self.module):
            logits = functional_call(self.module, weights, (images,))
        return weight_gradients(F.cross_entropy(logits, label.expand(len(images))), weights, create_graph)


class _PlainTraining(Training):
    """torch's own SGD on the cross-entropy of whole batches."""

    def __init__(self, module: nn.Module, theta: Tensor, sgd: Sgd, layout: ParameterLayout) -> None:
        super().__init__(module, theta, sgd)
        self._weights, velocities = weight_leaves(layout, theta), layout.views(self.velocity)
        stop_on_the_way_back(self._weights)
        self._trained = {p.name: self._weights[p.name] for p in layout.parameters if not p.frozen}
        self._optimizer = torch.optim.SGD(self._trained.values(), lr=sgd.lr, momentum=sgd.momentum, weight_decay=sgd.weight_decay)
        for name, weight in self._trained.items():
            self._optimizer.state[weight]["momentum_buffer"] = velocities[name]

    def _step(self, images: Tensor, labels: Tensor, distillation: Distillation | None) -> None:
        with stopping_between_layers(self.module):
            logits = functional_call(self.module, self._weights, (images,))
        loss = cross_entropy(logits, labels)
        if distillation is not None:
            loss = loss + distillation.loss(logits) / len(labels)
        self._optimizer.zero_grad()
        loss.backward()
        for weight in self._trained.values():
            if weight.grad is None:  # forward leaves it out; it decays as the others do
                weight.grad = torch.zeros_like(weight)
        self._optimizer.step()


def plain_distance(synthetic: Sequence[Tensor], real: Sequence[Tensor], metric: str) -> Tensor:
    """The definition of the distance, layer by layer, for autograd to differentiate: a scalar.

    Raises:
        UsageError: an unknown metric.
    """
    chosen = Metric.of(metric)
    definition, least = METRICS[chosen.name], fewest_dimensions(chosen.rows)
    pairs = [(a.flatten(1), b.flatten(1)) for a, b in zip(synthetic, real, strict=True) if a.dim() >= least]  # [rows, row_length] each
    if definition.joined:
        pairs = [(torch.cat([a.flatten() for a, _ in pairs])[None], torch.cat([b.flatten() for _, b in pairs])[None])]
    return torch.stack([definition.distance(a, b) for a, b in pairs]).sum()
