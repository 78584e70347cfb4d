"""The command `select`."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fastdc.cli.arguments import ComputeOptions, DatasetOptions
from fastdc.cli.shared import folder_for, options_taken
from fastdc.coresets import SELECTIONS
from fastdc.coresets.choice import check_ipc
from fastdc.data import load_dataset
from fastdc.errors import UsageError, unknown_name
from fastdc.options.ipc import least_to_most, one_or_each
from fastdc.parallel.world import world
from fastdc.runs.folder import RunFolder, open_run
from fastdc.runtime.versions import versions
from fastdc.training.whole_set import EPOCHS


def _opened(stack: contextlib.ExitStack, folder: Path, config: Mapping[str, Any], origin: Mapping[str, str]) -> RunFolder:
    """The folder of a choice, which holds no other one."""
    run = stack.enter_context(open_run(folder))
    run.check_config(config, origin)
    return run


@dataclass(frozen=True, kw_only=True)
class Select(ComputeOptions, DatasetOptions):
    """Choose a few real images per class, a coreset, and write them with a picture.

    `fastdc evaluate` trains networks on these images alone, and tests the networks.
    """

    shared: ClassVar[bool] = True

    coreset: str
    """The coreset, which is how the images are chosen."""
    ipc: int | tuple[int, ...]
    """The number of images to choose of each class; or a list with a number for each, as 10,1,5."""
    dataset: str = "digits"
    """The dataset to choose from."""
    out: str | None = None
    """The folder for the result. The default is runs/DATASET-CORESET-ipcN, or runs/DATASET-CORESET-ipcLEAST-MOST."""
    features: str = "network"
    """By which features herding and k_center compare images: network (the input of the network's last linear layer) or pixels."""
    model: str = "convnet"
    """The network to train on the whole set. It gives the features of herding and k_center, and the images that it forgets."""
    epochs: int = EPOCHS
    """For how many epochs to train this network."""
    seed: int = 0
    """The seed of random choices, initial weights and the order of batches."""
    cache: str | None = None
    """The folder where networks trained on the whole set are kept, for later use. The default is ~/.cache/fastdc/networks."""

    def run(self) -> None:
        """Choose, write."""
        if self.coreset not in SELECTIONS:
            raise unknown_name("coreset", self.coreset, SELECTIONS)
        options, surplus = self._options()
        if surplus:
            raise UsageError(f"coreset {self.coreset!r} takes no {', '.join(surplus)}; leave it out, or choose another coreset.")
        train, _ = load_dataset(self.dataset, self.data_root, image_size=self.image_size, classes=self.classes)
        options["ipc"] = one_or_each(list(check_ipc(train, self.ipc)))
        config = {"dataset": train.name, "coreset": self.coreset, **options}
        origin = {"fingerprint": train.fingerprint, **versions()}
        here, folder = world(), folder_for(self.out, f"{self.dataset}-{self.coreset}-ipc{least_to_most(self.ipc, '-')}")
        here.check_same({**config, **origin})
        with contextlib.ExitStack() as stack:
            run = here.led(lambda: _opened(stack, folder, config, origin))
            unrecorded = options_taken(self.coreset, {"cache": self.cache, "progress": not self.quiet})
            chosen = SELECTIONS[self.coreset](train, **options, **unrecorded)
            if run is not None:
                run.record_config(config, origin)
                chosen.save(run.result)
                chosen.save_grid(run.picture)
        print(chosen)
        print(f"written to {folder}")

    def _options(self) -> tuple[dict[str, Any], list[str]]:
        """The options that decide the choice; and the names of those given that this coreset does not take."""
        of_any = {name for selection in SELECTIONS.values() for name in inspect.signature(selection).parameters}
        fields = [field for field in dataclasses.fields(self) if field.name in of_any]
        taken = options_taken(self.coreset, {field.name: getattr(self, field.name) for field in fields})
        surplus = [field.name for field in fields if field.name not in taken and getattr(self, field.name) != field.default]
        return {name: value for name, value in taken.items() if name != "cache"}, surplus
