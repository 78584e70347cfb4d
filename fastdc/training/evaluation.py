"""What an evaluation finds."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Evaluation:
    """Test accuracies of several networks, each trained from scratch on the same images; fractions of 1, printed as percent.

    `protocol` and `epochs` say how they were trained, where it was by a protocol of `fastdc.evaluate`; `precision`, how products were
    rounded.

    >>> print(Evaluation((0.5, 0.52)))
    51.0% +- 1.0 (2 networks)
    """

    accuracies: tuple[float, ...]
    protocol: str | None = None
    epochs: int | None = None
    precision: str = "float32"

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
