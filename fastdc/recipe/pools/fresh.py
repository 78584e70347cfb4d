"""Fresh networks: random weights, others in each iteration or always the same."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastdc.errors import unknown_name
from fastdc.recipe.pools.training import TrainingOptions, TrainingPool
from fastdc.recipe.state import State

_NETWORKS = ("random", "fixed")


@dataclass(frozen=True, kw_only=True)
class FreshOptions(TrainingOptions):
    """Those of training, and networks (random: another one in each iteration; fixed: always the same)."""

    networks: str = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.networks not in _NETWORKS:
            raise unknown_name("networks", self.networks, _NETWORKS)


class Fresh(TrainingPool):
    """`fresh`: random networks, kept as they are or trained between two steps."""

    Options = FreshOptions

    def next(self, state: State) -> Tensor:
        """A fresh network, or the one that is fixed."""
        return self.problem.fresh_weights(state.iteration if self.options.networks == "random" else 0)
