"""What every coreset shares: the check of ipc, and the chosen images with where they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastdc.condensed import CondensedDataset
from fastdc.data import ImageData, check_every_class
from fastdc.data.image_data import what_classes_have
from fastdc.errors import UsageError
from fastdc.options.ipc import listed_ipc, of_each_class, one_or_each
from fastdc.parallel.world import world
from fastdc.runs.progress import progress_bar
from fastdc.runtime.versions import versions
from fastdc.training.whole_set import TrainedNetwork


def check_ipc(real: ImageData, ipc: object) -> tuple[int, ...]:
    """How many images to choose of each class: as many as are wanted, or all where a class has fewer than one number for all classes.

    Raises:
        UsageError: a number below 1, or above what any class has; or a list of another length, or with more than a class has.
        DataError: a class without an image.
    """
    check_every_class(real)
    numbers = listed_ipc(ipc)
    if numbers is not None:
        for number, count, name in zip(of_each_class(numbers, real.num_classes), real.class_counts.tolist(), real.class_names, strict=True):
            if number > count:
                raise UsageError(
                    f"ipc is {number} for class {name!r}; expected a whole number from 1 to {count}, the number of its images."
                )
        return numbers
    most = int(real.class_counts.max())
    if isinstance(ipc, bool) or not isinstance(ipc, int) or not 1 <= ipc <= most:
        largest = real.class_names[int(real.class_counts.argmax())]
        raise UsageError(f"ipc is {ipc!r}; expected a whole number from 1 to {most}, the number of images of class {largest!r}.")
    return what_classes_have(real, ipc)


def choice_by_class(choose: Callable[[int], Tensor], ipc: Sequence[int], what: str, progress: bool) -> tuple[Tensor, ...]:
    """The positions [ipc of the class] that `choose` gives for each class by its number; of several processes each chooses for its own."""
    here = world()
    found = [torch.empty(0, dtype=torch.int64)]
    with progress_bar(len(ipc), what, "class", shown=progress and here.leads) as bar:
        for number in here.share(len(ipc)):
            found.append(choose(number))
            bar.update(here.size)
    return here.joined(torch.cat(found), ipc).split(list(ipc))


def chosen_images(
    real: ImageData,
    positions: Sequence[Tensor],
    *,
    coreset: str,
    seed: int,
    options: Mapping[str, Any] | None = None,
    network: TrainedNetwork | None = None,
) -> CondensedDataset:
    """The real images at `positions`, one int64 [ipc of the class] for each class, in the order in which they were chosen."""
    chosen = torch.cat(list(positions))
    trained = {"origin": network.origin, "loss": network.losses[-1], "accuracy": network.accuracies[-1]} if network else None
    return CondensedDataset(
        real.normalised_for_all(chosen),
        real.labels[chosen],
        mean=real.mean,
        std=real.std,
        class_names=real.class_names,
        provenance={
            "dataset": real.name,
            "fingerprint": real.fingerprint,
            "coreset": coreset,
            "ipc": one_or_each(list(map(len, positions))),
            "seed": seed,
            "options": dict(options or {}),
            **({"changes": list(real.changes)} if real.changes else {}),
            "network": trained,
            "versions": versions(),
            "positions": chosen.tolist(),
        },
        copy=False,
    )
