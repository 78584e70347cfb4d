"""Scales: how much of the paper's protocol a search spends, from seconds to the whole of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastdc.experiments.scales import sizes_text
from fastdc.experiments.search.space import PAPER_SPACE


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The sizes that a search can be run with; all else is as in `architecture_search`."""

    networks: int | None
    """Networks drawn from the space; None: all."""
    widths: tuple[int, ...]
    """Of the networks in the space."""
    depths: tuple[int, ...]
    """Likewise."""
    epochs: int
    """Epochs of training on a proxy."""
    whole_set_epochs: int
    """Epochs of training on the whole set."""
    iterations: int | None
    """Random networks on which a method learns a proxy; None: those of its recipe."""
    batch_real: int | None
    """Real images of each class in a step of a method; None: those of its recipe."""
    coreset_epochs: int
    """Epochs of training the network by which a coreset chooses."""
    width: int | None
    """Width of a proxy's ConvNet whose width is not given; None: the paper's 128."""

    def __str__(self) -> str:
        return sizes_text(self)


SCALES: Mapping[str, Scale] = {
    "tiny": Scale(
        networks=4,
        widths=(8,),
        depths=(1, 2),
        epochs=2,
        whole_set_epochs=1,
        iterations=1,
        batch_real=8,
        coreset_epochs=1,
        width=8,
    ),
    "laptop": Scale(
        networks=60,
        widths=(8, 16, 32),
        depths=(1, 2, 3),
        epochs=100,
        whole_set_epochs=2,
        iterations=50,
        batch_real=64,
        coreset_epochs=5,
        width=32,
    ),
    "paper": Scale(
        networks=None,
        widths=PAPER_SPACE.widths,
        depths=PAPER_SPACE.depths,
        epochs=100,
        whole_set_epochs=100,
        iterations=None,
        batch_real=None,
        coreset_epochs=20,
        width=None,
    ),
}
