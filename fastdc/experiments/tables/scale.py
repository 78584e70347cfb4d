"""Scales: how much of the paper's protocol a table spends, from seconds to the whole of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The sizes that a table can be made with; all else is as in `fastdc.condense` and `fastdc.evaluate`."""

    iterations: int | None
    """Random networks to match on, for each image set; None: those of each method's recipe."""
    batch_real: int | None
    """Real images of each class in a matching step; None: those of each method's recipe."""
    sets: int
    """Image sets that are made of each kind, with seeds one above the other."""
    networks: int
    """Networks trained and tested on each image set."""
    epochs: int | None
    """Epochs of training each of them; None: those of the protocol."""
    whole_set_epochs: int
    """Epochs of training a network on the whole set: for herding, k-center, forgetting and the whole set's accuracy."""
    width: int | None
    """Width of a ConvNet whose width is not given; None: the paper's 128."""
    recipes: str = "laptop"
    """The scale of the methods' recipes, where this one says nothing."""

    def __str__(self) -> str:
        iterations = "each recipe's" if self.iterations is None else self.iterations
        real = "each recipe's number of" if self.batch_real is None else self.batch_real
        epochs = "the protocol's epochs" if self.epochs is None else f"{self.epochs} epochs"
        return (
            f"{iterations} iterations, {real} real images per class and step, {self.sets} image set(s) x {self.networks} "
            f"network(s) of {epochs}, {self.whole_set_epochs} epochs on the whole set, ConvNet width {self.width or 128} unless given"
        )


SCALES: Mapping[str, Scale] = {
    "tiny": Scale(iterations=2, batch_real=8, sets=1, networks=2, epochs=2, whole_set_epochs=1, width=8),
    "laptop": Scale(iterations=100, batch_real=64, sets=1, networks=5, epochs=None, whole_set_epochs=5, width=32),
    "paper": Scale(iterations=None, batch_real=None, sets=5, networks=20, epochs=None, whole_set_epochs=300, width=None, recipes="paper"),
}
