"""Networks trained beforehand on the whole real set, each in many shapes: perturbed, or on the way from its first weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastdc.errors import unknown_name
from fastdc.metrics.layout import ParameterLayout
from fastdc.options.checks import check_count
from fastdc.parallel.devices import to_device
from fastdc.parallel.world import world
from fastdc.recipe.pools.training import TrainingOptions, TrainingPool
from fastdc.recipe.problem import Problem
from fastdc.recipe.state import State
from fastdc.runtime.seeding import derive_seed, make_generator
from fastdc.training.whole_set import WholeSetOptions, is_kept, seconds_of_training, train_on_whole_set

_LEAST, _MOST = 0.01, 0.09  # the share of a filter's norm that a perturbation adds along one direction


def unchanged(trained: Tensor, first: Tensor, layout: ParameterLayout, generator: torch.Generator) -> Tensor:
    """The trained weights."""
    return trained.clone()


def perturbed(trained: Tensor, first: Tensor, layout: ParameterLayout, generator: torch.Generator) -> Tensor:
    """The trained weights, and 0.01 to 0.09 of two random directions whose filters are as long as theirs (Zhang et al., "Accelerating
    Dataset Distillation via Model Augmentation", CVPR 2023); biases and norms stay."""
    result = trained.clone()
    for _ in range(2):
        share = _LEAST + (_MOST - _LEAST) * float(torch.rand((), generator=generator))
        sign = 2 * int(torch.randint(2, (), generator=generator)) - 1
        direction = to_device(torch.randn(len(trained), generator=generator), trained.device).to(trained.dtype)
        for parameter in layout.seen():
            rows, random = layout.rows_of(trained, parameter), layout.rows_of(direction, parameter)  # [rows, row_length]
            lengths = rows.norm(dim=1, keepdim=True) / random.norm(dim=1, keepdim=True)
            layout.rows_of(result, parameter).add_(random * lengths, alpha=sign * share)
    return result


def interpolated(trained: Tensor, first: Tensor, layout: ParameterLayout, generator: torch.Generator) -> Tensor:
    """A point of the line from the trained weights to those that their training began with, drawn evenly (Zhang et al., "DANCE", IJCAI
    2024)."""
    return torch.lerp(trained, first, float(torch.rand((), generator=generator)))


# How trained weights [P] change, given the first ones [P], where each filter lies, and what decides the draws; a new tensor.
CHANGES: dict[str, Callable[[Tensor, Tensor, ParameterLayout, torch.Generator], Tensor]] = {
    "none": unchanged,
    "perturb": perturbed,
    "interpolate": interpolated,
}


@dataclass(frozen=True, kw_only=True)
class PretrainedOptions(TrainingOptions):
    """Networks (5) trained for epochs (2), augmented (whether as by the protocol `idc`, each batch changed by color and crop; None: as
    for coresets); change (none; perturb; interpolate, with their first weights), drawn anew in each iteration; and the options of training
    between two steps."""

    networks: int = 5
    epochs: int = 2
    augmented: bool | None = None
    change: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("networks", self.networks)
        check_count("epochs", self.epochs)
        if self.change not in CHANGES:
            raise unknown_name("change", self.change, CHANGES)


class Pretrained(TrainingPool):
    """`pretrained`: in each iteration one of some networks trained on the whole real set.

    Each is trained when it is drawn first, so that whoever interrupts a run loses one at the most: those of a model with a name are kept
    (`fastdc.training.whole_set`), and shared by the runs of one seed.
    """

    Options = PretrainedOptions
    trained = True

    def __init__(self, problem: Problem, options: Any = None) -> None:
        super().__init__(problem, options)
        self._networks: dict[int, tuple[Tensor, Tensor]] = {}  # trained and first weights [P] of each
        self._seconds: list[float] = []  # that the training of each of them took

    @classmethod
    def needs_whole_set(cls, options: TrainingOptions) -> bool:
        """They have been trained on it."""
        return True

    def prepare(self) -> None:
        """Train all networks."""
        for number in range(self.options.networks):
            self._trained(number)

    def seconds_ahead(self) -> float:
        """By what each of those took that were trained in this run, or else from a few steps of training."""
        data, all_numbers = self.problem.batches.sampler.data, range(self.options.networks)
        missing = [number for number in all_numbers if number not in self._networks and not is_kept(data, self._training(number))]
        if not missing:
            return 0.0
        each = sum(self._seconds) / len(self._seconds) if self._seconds else seconds_of_training(data, self._training(missing[0]))
        return math.ceil(len(missing) / world().size) * each

    def stand_in(self) -> None:
        """Networks that were not trained."""
        for number in range(self.options.networks):
            if number not in self._networks:
                first = self.problem.family.fresh_weights(self._training(number).network_seed)
                self._networks[number] = first, first

    def next(self, state: State) -> Tensor:
        """The weights of the network that is drawn, changed."""
        generator, number = self._drawn(state)
        return CHANGES[self.options.change](*self._trained(number), self.problem.engine.layout, generator)

    def expert(self, state: State) -> Tensor | None:
        """The weights of that network as they were trained, where they are changed."""
        return None if self.options.change == "none" else self._trained(self._drawn(state)[1])[0]

    def _drawn(self, state: State) -> tuple[torch.Generator, int]:
        """What decides the change of an iteration's network, and its number."""
        generator = make_generator(self.problem.seed, "pretrained", state.iteration)
        return generator, int(torch.randint(self.options.networks, (), generator=generator))

    def _train_together(self) -> None:
        """Train all networks, each by one of the processes that there are."""
        here, count = world(), self.options.networks
        found = [torch.stack(self._made(number)) for number in here.share(count)]  # each [2, P]
        like = torch.empty(0, 2, self.problem.engine.layout.size, device=self.problem.family.device)
        both = here.joined(torch.stack(found) if found else like, [1] * count)
        self._networks = {number: (trained, first) for number, (trained, first) in enumerate(both)}

    def _trained(self, number: int) -> tuple[Tensor, Tensor]:
        if world().size > 1 and not self._networks:
            self._train_together()
        if number not in self._networks:
            self._networks[number] = self._made(number)
        return self._networks[number]

    def _training(self, number: int) -> WholeSetOptions:
        problem = self.problem
        return WholeSetOptions(
            model=problem.family.model,
            epochs=self.options.epochs,
            augmented=bool(self.options.augmented),
            seed=derive_seed(problem.seed, "pretrained network", number),
            engine=problem.engine.name,
            device=str(problem.family.device),
            progress=problem.progress,
        )

    def _made(self, number: int) -> tuple[Tensor, Tensor]:
        problem, options = self.problem, self._training(number)
        trained = train_on_whole_set(problem.batches.sampler.data, options)
        self._seconds.append(trained.seconds)
        return problem.engine.layout.flatten(trained.module), problem.family.fresh_weights(options.network_seed)
