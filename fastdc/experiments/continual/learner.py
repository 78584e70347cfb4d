"""How a network learns one stage: from its training set and the memories of those before, keeping what it knew.

With distillation it is the scheme of Castro et al., "End-to-End Incremental Learning" (ECCV 2018): while it learns, what the network
before said of the same images is kept by `fastdc.engines.Distillation`, at temperature 2; then it is tuned, at a tenth of the learning
rate, on an equal number of images of every class: the memories, and as many real images of the new stage's classes, and keeps what it
said itself before that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastdc.condensed import CondensedDataset
from fastdc.engines import Distillation, Engine, Sgd, make_engine, resolve_engine
from fastdc.experiments.continual.growth import grow
from fastdc.experiments.continual.stages import Stage
from fastdc.models.network import NetworkFamily
from fastdc.parallel.devices import resolve_device
from fastdc.runtime.seeding import derive_seed
from fastdc.training.by_batch import Batch, train_by_batch
from fastdc.training.schedule import paper_training

_BLOCK = 1000  # images that the older network looks at at once
_TUNING_RATE = 0.1  # of the learning rate


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How the network of all stages is trained."""

    model: str
    epochs: int
    fine_tuning_epochs: int
    distill: bool
    ipc: int
    engine: str
    device: str
    seed: int


@dataclass(frozen=True, eq=False)
class _Lesson:
    """What one training learns from: real images, and images kept from the stages before."""

    stage: Stage
    real: Tensor
    """Which images of the stage's training set, positions [N]."""
    kept: Tensor
    """[M, channels, H, W], normalised."""
    kept_labels: Tensor
    """[M], as the network numbers them."""

    def __len__(self) -> int:
        return len(self.real) + len(self.kept)

    def fetch(self, index: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """The images and labels at positions [b] among the N + M."""
        real, kept = self.real[index[index < len(self.real)]], index[index >= len(self.real)] - len(self.real)
        train = self.stage.train
        images = torch.cat([train.normalised(real, like.dtype, like.device), self.kept[kept].to(like)])
        labels = torch.cat([train.labels[real] + self.stage.offset, self.kept_labels[kept]])
        return images, labels.to(like.device)


def learn_stage(
    learning: Learning, stages: Sequence[Stage], number: int, older: nn.Module | None, memories: Sequence[CondensedDataset]
) -> nn.Module:
    """The network after stage `number` (from 0), from the one before and the memories of the stages before."""
    stage, seed = stages[number], derive_seed(learning.seed, "continual", number)
    train = stage.train
    family = NetworkFamily(learning.model, train.channels, stage.seen, train.image_size, resolve_device(learning.device))
    module = family.fresh(derive_seed(seed, "network"))
    if older is not None:
        module = grow(module, older)
    engine = make_engine(resolve_engine(learning.engine, module), module)
    theta = engine.layout.flatten(module)
    kept, labels = _remembered(stages, memories, theta)
    lesson = _Lesson(stage, torch.arange(len(train)), kept, labels)
    taught = stages[number - 1].groups if older is not None else ()
    target = _logits_of(older, lesson, learning, theta) if older is not None and learning.distill else None
    _train(engine, family, theta, lesson, target, taught, paper_training(learning.epochs), seed, "stage")
    if target is not None and learning.fine_tuning_epochs:
        engine.layout.assign(module, theta)
        balanced = dataclasses.replace(lesson, real=_equal_number(stage, learning.ipc, seed))
        said = _logits_of(module, balanced, learning, theta)
        stretch = paper_training(1)[0]
        tuning = dataclasses.replace(stretch, epochs=learning.fine_tuning_epochs, lr=stretch.lr * _TUNING_RATE)
        _train(engine, family, theta, balanced, said, stage.groups, [tuning], seed, "fine-tuning")
    engine.layout.assign(module, theta)
    return module


def _train(
    engine: Engine,
    family: NetworkFamily,
    theta: Tensor,
    lesson: _Lesson,
    target: Tensor | None,
    groups: tuple[int, ...],
    stretches: Sequence[Sgd],
    seed: int,
    stream: str,
) -> None:
    """Train theta on a lesson; `target` holds the logits [N + M, sum of groups] that are to be kept."""

    def fetch(index: Tensor) -> Batch:
        index = index.sort().values  # real images first, as `_Lesson.fetch` gives them
        kept = Distillation(target[index].to(theta.device), groups) if target is not None else None
        return Batch(*lesson.fetch(index, theta), kept)

    for _ in train_by_batch(engine, family, theta, len(lesson), fetch, stretches, seed, stream):
        pass


def _remembered(stages: Sequence[Stage], memories: Sequence[CondensedDataset], like: Tensor) -> tuple[Tensor, Tensor]:
    """All images of the memories [M, channels, H, W], and their labels as the network numbers them [M]."""
    train = stages[0].train
    images = [like.new_zeros(0, train.channels, *train.image_size), *(memory.images.to(like) for memory in memories)]
    labels = [memory.labels + stage.offset for stage, memory in zip(stages, memories, strict=False)]
    return torch.cat(images), torch.cat([torch.zeros(0, dtype=torch.int64), *labels])


def _equal_number(stage: Stage, ipc: int, seed: int) -> Tensor:
    """Positions of `ipc` random images of each class of the stage's training set."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "balanced"))
    members = stage.train.class_members
    return torch.cat([some[torch.randperm(len(some), generator=generator)[:ipc]] for some in members])


def _logits_of(module: nn.Module, lesson: _Lesson, learning: Learning, like: Tensor) -> Tensor:
    """What a network says of all images of a lesson, [N + M, its classes]."""
    engine = make_engine(resolve_engine(learning.engine, module), module)
    theta = engine.layout.flatten(module)
    return torch.cat([engine.logits(theta, lesson.fetch(index, like)[0]).cpu() for index in torch.arange(len(lesson)).split(_BLOCK)])
