"""The command `estimate`."""

from __future__ import annotations

from dataclasses import dataclass

from fastdc._estimate import estimate
from fastdc.cli.condense import Condense


@dataclass(frozen=True, kw_only=True)
class EstimateCommand(Condense):
    """Print the time, the memory and the disk that `fastdc condense` takes with the same options, from a few measured steps.

    Nothing is written. The evaluation that follows the condensation is not counted, and its options have no part here.
    """

    def run(self) -> None:
        """Measure, print."""
        options = self.checked()
        train, _ = self.data()
        print(estimate(train, **options, out=self.out))
