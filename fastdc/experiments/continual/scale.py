"""Scales: how much of the paper's protocol continual learning spends, from seconds to the whole of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastdc.experiments.scales import sizes_text


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The sizes that continual learning can be run with; all else is as in `continual_learning`."""

    iterations: int | None
    """Random networks on which a method learns a memory; None: those of its recipe."""
    batch_real: int | None
    """Real images of each class in a step of a method; None: those of its recipe."""
    epochs: int
    """Epochs of training on each stage."""
    fine_tuning_epochs: int
    """Epochs of tuning on balanced images."""
    whole_set_epochs: int
    """Epochs of training the network by which a coreset chooses."""
    seeds: int
    """How often everything is done."""
    width: int | None
    """Width of a ConvNet whose width is not given; None: the paper's 128."""

    def __str__(self) -> str:
        return sizes_text(self, leave_out=("seeds", "width"))


SCALES: Mapping[str, Scale] = {
    "tiny": Scale(iterations=1, batch_real=8, epochs=1, fine_tuning_epochs=1, whole_set_epochs=1, seeds=1, width=8),
    "laptop": Scale(iterations=30, batch_real=64, epochs=5, fine_tuning_epochs=30, whole_set_epochs=5, seeds=3, width=32),
    "paper": Scale(iterations=None, batch_real=None, epochs=40, fine_tuning_epochs=30, whole_set_epochs=20, seeds=5, width=None),
}
