"""What every coreset shares: the check of ipc, and the chosen images with where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastdc.condensed import CondensedDataset
from fastdc.data import ImageData, check_every_class
from fastdc.errors import UsageError
from fastdc.runtime.versions import versions
from fastdc.training.whole_set import TrainedNetwork


def check_ipc(real: ImageData, ipc: int) -> None:
    """Raise unless every class has `ipc` images to choose.

    Raises:
        UsageError: ipc below 1, or above what a class has.
        DataError: a class without an image.
    """
    check_every_class(real)
    fewest = int(real.class_counts.min())
    if isinstance(ipc, bool) or not isinstance(ipc, int) or not 1 <= ipc <= fewest:
        smallest = real.class_names[int(real.class_counts.argmin())]
        raise UsageError(f"ipc is {ipc!r}; expected a whole number from 1 to {fewest}, the number of images of class {smallest!r}.")


def chosen_images(
    real: ImageData,
    positions: Sequence[Tensor],
    *,
    coreset: str,
    ipc: int,
    seed: int,
    options: Mapping[str, Any] | None = None,
    network: TrainedNetwork | None = None,
) -> CondensedDataset:
    """The real images at `positions`, one int64 [ipc] for each class, in the order in which they were chosen."""
    chosen = torch.cat(list(positions))
    trained = {"origin": network.origin, "loss": network.losses[-1], "accuracy": network.accuracies[-1]} if network else None
    return CondensedDataset(
        real.normalised(chosen),
        real.labels[chosen],
        mean=real.mean,
        std=real.std,
        class_names=real.class_names,
        provenance={
            "dataset": real.name,
            "fingerprint": real.fingerprint,
            "coreset": coreset,
            "ipc": ipc,
            "seed": seed,
            "options": dict(options or {}),
            "network": trained,
            "versions": versions(),
            "positions": chosen.tolist(),
        },
    )
