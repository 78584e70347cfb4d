"""How a network learns one stage: from its training set and the memories of those before, keeping what it knew.

With distillation it is the scheme of Castro et al., "End-to-End Incremental Learning" (ECCV 2018). While the network learns, the
logits that it gave for the same images before the stage are kept by `fastdc.engines.Distillation`, at temperature 2. Then it is tuned,
at a tenth of the learning rate, on an equal number of images of every class: the memories, and as many real images of the new stage's
classes. The logits that it gives before the tuning are kept in the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastdc.condensed import CondensedDataset
from fastdc.engines import Distillation, Engine, Sgd, make_engine, resolve_engine
from fastdc.engines.base import Batch, Fetch
from fastdc.experiments.continual.growth import grow
from fastdc.experiments.continual.stages import Stage
from fastdc.models.network import NetworkFamily
from fastdc.parallel.devices import resolve_device
from fastdc.runtime.seeding import derive_seed
from fastdc.training.by_batch import check_finite, train_by_batch
from fastdc.training.schedule import paper_training

_BLOCK = 1000  # images that the older network looks at at once
_TUNING_RATE = 0.1  # of the learning rate


@dataclass(frozen=True, kw_only=True)
class LearningOptions:
    """How the network of all stages is trained."""

    model: str
    epochs: int
    fine_tuning_epochs: int
    distill: bool
    engine: str
    device: str
    seed: int


@dataclass(frozen=True, eq=False)
class _TrainingSet:
    """What a network is trained on: real images of a stage, and images kept from the stages before."""

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
    options: LearningOptions, stages: Sequence[Stage], number: int, older: nn.Module | None, memories: Sequence[CondensedDataset]
) -> nn.Module:
    """The network after stage `number` (from 0), from the one before and the memories of the stages before."""
    stage, seed = stages[number], derive_seed(options.seed, "continual", number)
    train = stage.train
    family = NetworkFamily(options.model, train.channels, stage.seen, train.image_size, resolve_device(options.device))
    module = family.fresh(derive_seed(seed, "network"))
    if older is not None:
        module = grow(module, older)
    engine = make_engine(resolve_engine(options.engine, module), module)
    theta = engine.layout.flatten(module)
    kept, labels = _memory_images(stages, memories, theta)
    training_set = _TrainingSet(stage, torch.arange(len(train)), kept, labels)
    old = None
    if older is not None and options.distill:
        old = Distillation(_logits_of(older, training_set, options, theta), stages[number - 1].groups)
    _train(engine, family, theta, training_set, old, paper_training(options.epochs), seed, "stage")
    if old is not None and options.fine_tuning_epochs:
        engine.layout.assign(module, theta)
        each = max(int(memory.labels.bincount().max()) for memory in memories)
        balanced = dataclasses.replace(training_set, real=_random_images(stage, each, seed))
        previous = Distillation(_logits_of(module, balanced, options, theta), stage.groups)
        phase = paper_training(1)[0]
        tuning = dataclasses.replace(phase, epochs=options.fine_tuning_epochs, lr=phase.lr * _TUNING_RATE)
        _train(engine, family, theta, balanced, previous, [tuning], seed, "fine-tuning")
    check_finite(theta, f"the network of stage {number + 1}")
    engine.layout.assign(module, theta)
    return module


def _train(
    engine: Engine,
    family: NetworkFamily,
    theta: Tensor,
    training_set: _TrainingSet,
    old: Distillation | None,
    phases: Sequence[Sgd],
    seed: int,
    stream: str,
) -> None:
    """Train theta on a training set; `old` holds the logits of its N + M images that are to be kept."""

    def batch(index: Tensor) -> Batch:
        index = index.sort().values  # real images first, as `_TrainingSet.fetch` gives them
        kept = dataclasses.replace(old, logits=old.logits[index].to(theta.device)) if old is not None else None
        return Batch(*training_set.fetch(index, theta), kept)

    fetch = Fetch(batch, torch.device("cpu"), family.image_size, family.num_classes)
    for _ in train_by_batch(engine, family, theta, len(training_set), fetch, phases, seed, stream):
        pass


def _memory_images(stages: Sequence[Stage], memories: Sequence[CondensedDataset], like: Tensor) -> tuple[Tensor, Tensor]:
    """All images of the memories [M, channels, H, W], and their labels as the network numbers them [M]."""
    train = stages[0].train
    images = [like.new_zeros(0, train.channels, *train.image_size), *(memory.images.to(like) for memory in memories)]
    labels = [memory.labels + stage.offset for stage, memory in zip(stages, memories, strict=False)]
    return torch.cat(images), torch.cat([torch.zeros(0, dtype=torch.int64), *labels])


def _random_images(stage: Stage, each: int, seed: int) -> Tensor:
    """Positions of `each` random images of each class of the stage's training set."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "balanced"))
    members = stage.train.class_members
    return torch.cat([some[torch.randperm(len(some), generator=generator)[:each]] for some in members])


def _logits_of(module: nn.Module, training_set: _TrainingSet, options: LearningOptions, like: Tensor) -> Tensor:
    """The logits of all images of a training set, [N + M, the module's classes]."""
    engine = make_engine(resolve_engine(options.engine, module), module)
    theta = engine.layout.flatten(module)
    return torch.cat(
        [engine.logits(theta, training_set.fetch(index, like)[0]).cpu() for index in torch.arange(len(training_set)).split(_BLOCK)]
    )
