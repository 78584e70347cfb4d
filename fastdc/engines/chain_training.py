"""SGD of the cuda engine: steps that can be captured, of one network or of several side by side."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdc.engines.augmentation import Augmentation, DrawnAugmentation
from fastdc.engines.base import Batch, Distillation, Fetch, Sgd, Training
from fastdc.engines.capture import Place
from fastdc.engines.draws import Draws, of_networks
from fastdc.parallel.devices import to_device
from fastdc.runtime.stopping import stop_point

if TYPE_CHECKING:
    from fastdc.engines.cuda import CudaEngine


class ChainTraining(Training):
    """SGD by the same passes; where a norm follows the batch, the whole batch goes through at once.

    All batches of a run, and what augmentation does to them, are drawn beforehand, a block of epochs at a time, and lie on the device: a
    step reads its number from there, and is one graph for all full batches, one for the last of each epoch if it is smaller, and others
    where augmentation does something else. Steps whose augmentation draws by looking at the batch, and steps on what is not on the
    device, are launched kernel by kernel.
    """

    def __init__(self, engine: CudaEngine, theta: Tensor, sgd: Sgd) -> None:
        super().__init__(engine.module, theta, sgd)
        self._engine = engine

    def run(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        augment: Augmentation | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        if not len(images) or not (augment is None or isinstance(augment, DrawnAugmentation)):
            super().run(images, labels, generator, augment, distillation)
            return
        self.velocity.zero_()
        classes = None if augment is None or labels.dim() == 2 else int(labels.max()) + 1

        def batch(index: Tensor, kind: Hashable, numbers: Tensor, images: Tensor, labels: Tensor, *known: Tensor) -> Batch:
            some = None if distillation is None else dataclasses.replace(distillation, logits=known[0].index_select(0, index))
            learned = Batch(images.index_select(0, index), labels.index_select(0, index), some)
            return _augmented(learned, augment, kind, numbers, classes)

        name = (augment, classes, distillation and (distillation.groups, distillation.temperature))
        known = [] if distillation is None else [distillation.logits]
        draws = Draws(self._orders(len(images), [generator]), len(images), self.sgd, 1, augment, images.shape[-2:], generator)
        place = self._place(name, draws, [images, labels, *known])
        try:
            for _ in self._steps_at(place, draws, batch):
                pass
        finally:
            place.unload([self.theta, self.velocity])
        self.velocity.zero_()

    def run_side_by_side(self, images: Tensor, labels: Tensor, generators: Sequence[torch.Generator]) -> None:
        """As `run`, each network of the engine by the order of its own generator."""

        def batch(index: Tensor, kind: Hashable, numbers: Tensor, images: Tensor, labels: Tensor) -> Batch:
            """Of positions [b, networks]."""
            some = images.index_select(0, index.flatten()).view(len(index), -1, *images.shape[2:])  # [b, networks * channels, H, W]
            return Batch(some, labels.index_select(0, index.flatten()).unflatten(0, index.shape))

        draws = Draws(self._orders(len(images), generators), len(images), self.sgd, len(generators))
        place = self._place(None, draws, [images, labels])
        try:
            for _ in self._steps_at(place, draws, batch):
                pass
        finally:
            place.unload([self.theta])

    def run_augmented_side_by_side(
        self, images: Tensor, labels: Tensor, generators: Sequence[torch.Generator], augment: DrawnAugmentation
    ) -> None:
        """As `run_side_by_side`, where in each step something else is done to the batch of each network: the batches are made one after
        another, in a place that a step of all networks reads."""
        networks, count, size = len(generators), len(images), images.shape[-2:]
        shares = labels if labels.dim() == 2 else F.one_hot(labels).to(images.dtype)
        draws = [Draws(self._orders(count, [each]), count, self.sgd, 1, augment, size, each) for each in generators]
        lengths = draws[0].lengths
        made = [values.new_zeros(networks, lengths[0], *values.shape[1:]) for values in (images, shares)]
        turn = torch.zeros(1, dtype=torch.int64, device=images.device)  # of a network in a step
        drawn = [turn.new_zeros(networks * len(empty), *empty.shape[1:], dtype=empty.dtype) for empty in draws[0].empty()]
        name = ("train", dataclasses.replace(self.sgd, epochs=1), augment)
        place = self._engine.graphs.place(name, [self.theta, self.velocity, *made, turn, *drawn, images, shares])
        do = functools.partial(self._engine.graphs.do, place)
        try:
            for kinds, *some in of_networks(draws):
                place.tensors[4].zero_()
                _bring(some, place.tensors[5:7])
                for of_each, length in zip(kinds, itertools.cycle(lengths), strict=False):
                    stop_point()
                    for kind in of_each:
                        do((length, kind), functools.partial(self._make_batch, length, kind, augment))
                    do(length, functools.partial(self._learn_batches, length))
        finally:
            place.unload([self.theta])

    @staticmethod
    def _make_batch(length: int, kind: Hashable, augment: DrawnAugmentation, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The batch of the network whose turn it is, after which it is the turn of the next one."""
        _, _, *made, turn, orders, numbers, images, shares = tensors
        index, some = (drawn.index_select(0, turn)[0, :length] for drawn in (orders, numbers))
        learned = images.index_select(0, index.squeeze(1)), shares.index_select(0, index.squeeze(1))
        for place, values in zip(made, augment.apply(*learned, kind, some), strict=True):
            place[:, :length].index_copy_(0, turn % len(place), values[None])
        turn += 1
        return ()

    def _learn_batches(
        self, length: int, theta: Tensor, velocity: Tensor, made: Tensor, made_shares: Tensor, *_: Tensor
    ) -> tuple[Tensor, ...]:
        """A step of all networks with the batches that were made."""
        images, shares = (values[:, :length].transpose(0, 1) for values in (made, made_shares))
        self._move(theta, velocity, images.flatten(1, 2), shares, None)
        return ()

    def _orders(self, count: int, generators: Sequence[torch.Generator]) -> Iterator[Tensor]:
        """For each epoch all positions in random order, [count, networks]."""
        for _ in range(self.sgd.epochs):
            yield torch.stack([torch.randperm(count, generator=generator) for generator in generators], 1)

    def steps(
        self, orders: Iterable[Tensor], fetch: Fetch, augment: Augmentation | None = None, generator: torch.Generator | None = None
    ) -> Iterator[None]:
        if fetch.device != self.theta.device or not (augment is None or isinstance(augment, DrawnAugmentation)):
            yield from super().steps(orders, fetch, augment, generator)
            return

        def batch(index: Tensor, kind: Hashable, numbers: Tensor) -> Batch:
            return _augmented(fetch.batch(index), augment, kind, numbers, fetch.classes)

        later = iter(orders)
        first = next(later)
        columns = (order[:, None] for order in itertools.chain([first], later))
        draws = Draws(columns, len(first), self.sgd, 1, augment, fetch.image_size, generator)
        place = self._place((fetch, augment), draws, [])
        for number, _ in enumerate(self._steps_at(place, draws, batch), 1):
            if number % len(draws.lengths) == 0:
                place.unload([self.theta, self.velocity])
            yield

    def _place(self, name: Hashable, draws: Draws, tensors: Sequence[Tensor]) -> Place:
        """Where images are learned: theta, velocity, at which step, what is drawn for the steps of some epochs, and what makes batches,
        whose name says how it does."""
        step = torch.zeros(1, dtype=torch.int64, device=self.theta.device)
        drawn = [torch.zeros_like(empty, device=step.device) for empty in draws.empty()]
        alike = dataclasses.replace(self.sgd, epochs=1)  # a graph is one step
        return self._engine.graphs.place(("train", alike, name), [self.theta, self.velocity, step, *drawn, *tensors])

    def _steps_at(self, place: Place, draws: Draws, batch: Callable[..., Batch]) -> Iterator[None]:
        """All epochs; one item after each step. `batch` makes one of positions, [b] or [b, networks], of what augmentation does to it and
        by which numbers, and of what else is at the place."""
        step = place.tensors[2]
        for kinds, *drawn in draws:
            step.zero_()
            _bring(drawn, place.tensors[3:5])
            for kind, length in zip(kinds, itertools.cycle(draws.lengths), strict=False):
                stop_point()
                self._engine.graphs.do(place, (length, kind), functools.partial(self._step_as_drawn, length, kind, batch))
                yield

    def _step_as_drawn(
        self,
        length: int,
        kind: Hashable,
        batch: Callable[..., Batch],
        theta: Tensor,
        velocity: Tensor,
        step: Tensor,
        orders: Tensor,
        numbers: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        """A step with `length` images, after which it is the turn of the next one."""
        index, some = (drawn.index_select(0, step)[0, :length] for drawn in (orders, numbers))
        self._move(theta, velocity, *batch(index.squeeze(1), kind, some, *tensors))  # of one network [b]
        step += 1
        return ()

    def _step(self, images: Tensor, labels: Tensor, distillation: Distillation | None) -> None:
        stop_point()
        self._move(self.theta, self.velocity, images, labels, distillation)

    @torch.no_grad()
    def _move(self, theta: Tensor, velocity: Tensor, images: Tensor, labels: Tensor, distillation: Distillation | None) -> None:
        gradient = torch.zeros_like(theta)
        self._engine.add_loss_gradient(theta, gradient, images, labels, distillation)
        weights, gradients, velocities = (self._engine.trained_views(flat) for flat in (theta, gradient, velocity))
        torch._fused_sgd_(  # velocity = momentum * velocity + gradient + weight_decay * weight, weight -= lr * velocity
            weights,
            gradients,
            velocities if self.sgd.momentum else [],
            weight_decay=self.sgd.weight_decay,
            momentum=self.sgd.momentum,
            lr=self.sgd.lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
        )


def _bring(drawn: Sequence[Tensor], places: Sequence[Tensor]) -> None:
    """What was drawn for some steps, to the beginning of its places on the device."""
    for some, place in zip(drawn, places, strict=True):
        place[: len(some)].copy_(to_device(some, place.device))


def _augmented(batch: Batch, augment: DrawnAugmentation | None, kind: Hashable, numbers: Tensor, classes: int | None) -> Batch:
    if augment is None:
        return batch
    images, labels = augment.apply(batch.images, batch.labels, kind, numbers, classes)
    return batch._replace(images=images, labels=labels)
