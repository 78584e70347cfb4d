"""What a training draws, orders and augmentation, made beforehand for many steps: on a GPU these then take nothing from the host."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fastdc.engines.augmentation import DrawnAugmentation
from fastdc.engines.base import Sgd

_POSITIONS = 1 << 20  # of images in batches, drawn at once


class Draws:
    """All that is drawn for a training, some epochs at a time: in the order in which it would be drawn batch by batch.

    Args:
        orders: for each epoch the positions of its images, [count, networks].
        count: images of an epoch.
        sgd: epochs and batch size.
        networks: how many learn.
        augment: what is done to each batch, of one network.
        size: height and width of the images.
        generator: from which augmentation draws.
    """

    def __init__(
        self,
        orders: Iterable[Tensor],
        count: int,
        sgd: Sgd,
        networks: int,
        augment: DrawnAugmentation | None = None,
        size: Sequence[int] = (),
        generator: torch.Generator | None = None,
    ) -> None:
        self.orders, self.networks, self.augment, self.size, self.generator = orders, networks, augment, size, generator
        self.batch = sgd.batch
        self.lengths = [min(sgd.batch, count - first) for first in range(0, count, sgd.batch)]
        """Of the batches of an epoch."""
        self._each = 0 if augment is None else augment.numbers_each
        self._epochs = max(1, min(sgd.epochs, _POSITIONS // (count * (networks + self._each))))

    def empty(self) -> tuple[Tensor, Tensor]:
        """Room for what is drawn at once: positions [steps, batch, networks], and numbers of augmentation [steps, batch, numbers_each]."""
        shape = self._epochs * len(self.lengths), self.lengths[0]
        return torch.zeros(*shape, self.networks, dtype=torch.int64), torch.zeros(*shape, self._each, dtype=torch.float64)

    def __iter__(self) -> Iterator[tuple[list[Hashable], Tensor, Tensor]]:
        """For the steps of some epochs what augmentation does, positions and numbers; a shorter batch with zeros behind it."""
        batches, draws = list[Tensor](), list[tuple[Hashable, Tensor]]()
        for epoch, order in enumerate(self.orders, 1):
            batches += order.split(self.batch)
            draws += [self._drawn(length) for length in self.lengths]
            if epoch % self._epochs == 0:
                yield _padded(batches, draws)
                batches, draws = [], []
        if batches:
            yield _padded(batches, draws)

    def _drawn(self, length: int) -> tuple[Hashable, Tensor]:
        """What is done to a batch, and its numbers [length, numbers_each]."""
        if self.augment is None:
            return None, torch.zeros(length, 0, dtype=torch.float64)
        assert self.generator is not None
        height, width = self.size
        return self.augment.draw(length, height, width, self.generator)


def of_networks(draws: Sequence[Draws]) -> Iterator[tuple[list[tuple[Hashable, ...]], Tensor, Tensor]]:
    """What several networks draw for themselves: for each step what is done to the batch of each; and positions and numbers of network
    after network, step after step, [steps * networks, batch, ...]."""
    for blocks in zip(*draws, strict=True):
        kinds, orders, numbers = zip(*blocks, strict=True)
        yield list(zip(*kinds, strict=True)), torch.stack(orders, 1).flatten(0, 1), torch.stack(numbers, 1).flatten(0, 1)


def _padded(batches: list[Tensor], draws: list[tuple[Hashable, Tensor]]) -> tuple[list[Hashable], Tensor, Tensor]:
    """What augmentation does to each batch; their positions, and its numbers, in tensors [steps, batch, ...]."""
    kinds, numbers = zip(*draws, strict=True)
    return list(kinds), pad_sequence(batches, batch_first=True), pad_sequence(list(numbers), batch_first=True)
