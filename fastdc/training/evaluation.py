"""What an evaluation finds."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

MOST_CONFUSED = 100  # classes; the counts of more are many, and nobody reads them


@dataclass(frozen=True)
class Evaluation:
    """Test accuracies of several networks, each trained from scratch on the same images; fractions of 1, printed as percent.

    `protocol` and `epochs` say how they were trained, where it was by a protocol of `fastdc.evaluate`; `precision`, how products were
    rounded. `confusion` counts, over all networks, how often test images of each class (a row) were taken for each class (a column); None
    where nobody counted, or where classes are more than `MOST_CONFUSED`.

    >>> print(Evaluation((0.5, 0.52)))
    51.0% +- 1.0 (2 networks)
    """

    accuracies: tuple[float, ...]
    protocol: str | None = None
    epochs: int | None = None
    precision: str = "float32"
    confusion: tuple[tuple[int, ...], ...] | None = field(default=None, repr=False)

    @property
    def mean(self) -> float:
        """Mean over networks."""
        return torch.tensor(self.accuracies, dtype=torch.float64, device="cpu").mean().item()

    @property
    def std(self) -> float:
        """Standard deviation over networks, as the paper states it (not corrected by one)."""
        return torch.tensor(self.accuracies, dtype=torch.float64, device="cpu").std(correction=0).item()

    def __str__(self) -> str:
        plural = "s" if len(self.accuracies) > 1 else ""
        return f"{100 * self.mean:.1f}% +- {100 * self.std:.1f} ({len(self.accuracies)} network{plural})"
