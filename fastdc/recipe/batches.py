"""Which real images a matching step sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastdc.data import ClassSampler
from fastdc.data.k_means import medoids
from fastdc.engines import Engine
from fastdc.options.checks import check_count
from fastdc.options.registry import NoOptions, Registry
from fastdc.parallel.world import world
from fastdc.recipe.groups import ClassGroup
from fastdc.recipe.state import State
from fastdc.runtime.seeding import make_generator

_POSITIONS = "representatives"  # their name in the path of a state


class Batches(ABC):
    """Draws the real images of some classes.

    Args:
        sampler: draws random images of each class.
        options: of the entry.
    """

    Options: ClassVar[type] = NoOptions

    def __init__(self, sampler: ClassSampler, options: Any = None) -> None:
        self.sampler, self.options = sampler, options

    @property
    def period(self) -> int:
        """After how many steps with one network `prepare` does the same again."""
        return 1

    def prepare(self, state: State, engine: Engine, count: int) -> None:  # noqa: B027  nothing to do is the rule
        """Look at the network `state.theta` before each step, for draws of `count` images; what is kept belongs into `state.path`."""

    @abstractmethod
    def draw(self, group: ClassGroup, count: int, *when: int) -> Tensor:
        """`count` images of each class, or all it has, [G, B, channels, H, W]; always the same ones for one moment of a run."""


class RandomBatches(Batches):
    """`random`: different random images of each class."""

    def draw(self, group: ClassGroup, count: int, *when: int) -> Tensor:
        """Drawn without replacement."""
        return self.sampler.draw(group.numbers, count, "real images", *when)


@dataclass(frozen=True)
class RepresentativesOptions:
    """Options of `representatives`: sample (random images of a class among which they are sought, or as many as they are where that is
    more) and every (for how many matching steps they serve)."""

    sample: int = 512
    every: int = 10

    def __post_init__(self) -> None:
        check_count("sample", self.sample)
        check_count("every", self.every)


class Representatives(Batches):
    """`representatives`: of each class the images nearest to the centres of the k-means of their features under the present network,
    sought anew for each network, and every so many steps (Liu et al., "DREAM", ICCV 2023)."""

    Options = RepresentativesOptions

    @property
    def period(self) -> int:
        """It seeks them so often."""
        return self.options.every

    def prepare(self, state: State, engine: Engine, count: int) -> None:
        """Seek them where it is time."""
        counts = self.sampler.data.class_counts.clamp(max=count).tolist()
        if state.step % self.options.every == 0:
            here = world()  # of several processes each seeks those of its own classes
            found = [self._of_class(number, state, engine, count) for number in here.share(self.sampler.data.num_classes)]
            state.path[_POSITIONS] = here.joined(torch.cat(found) if found else torch.empty(0, dtype=torch.int64), counts)
        self._positions = state.path[_POSITIONS].split(counts)

    def draw(self, group: ClassGroup, count: int, *when: int) -> Tensor:
        """Those that the last `prepare` left."""
        return self.sampler.images([self._positions[number] for number in group.numbers])

    def _of_class(self, number: int, state: State, engine: Engine, count: int) -> Tensor:
        """The positions [count, or all images of the class] of representatives."""
        sampler, theta = self.sampler, state.theta
        assert theta is not None
        (sample,) = sampler.indices([number], max(self.options.sample, count), "representatives sample", *state.moment)
        features = engine.features(theta, sampler.data.normalised(sample, sampler.dtype, sampler.device))  # [n, F]
        generator = make_generator(sampler.seed, "representatives", *state.moment, number)
        return sample[medoids(features, min(count, len(sample)), generator).cpu()]


BATCHES: Registry[Batches] = Registry("batches", {"random": RandomBatches, "representatives": Representatives})
