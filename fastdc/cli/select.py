"""The command `select`."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any

from fastdc.cli.arguments import Common
from fastdc.cli.shared import folder_for, options_taken
from fastdc.coresets import SELECTIONS
from fastdc.coresets.whole_set import EPOCHS
from fastdc.data import load_dataset
from fastdc.errors import UsageError, unknown_name
from fastdc.runs.folder import open_run
from fastdc.runtime.versions import versions


@dataclass(frozen=True, kw_only=True)
class Select(Common):
    """Choose a few real images per class, and write them with a picture; `fastdc evaluate` tests them."""

    coreset: str
    """How: random, herding, k_center or forgetting."""
    ipc: int
    """Images per class to choose."""
    dataset: str = "digits"
    """digits, mnist, fashion-mnist, svhn, cifar10, cifar100, usps, folder:PATH or npz:PATH."""
    data_root: str | None = None
    """Where datasets are kept and downloaded to; None: ~/.cache/fastdc/data."""
    out: str | None = None
    """Folder for the result; None: runs/DATASET-CORESET-ipcN."""
    features: str = "network"
    """For herding and k_center: network (what its last linear layer reads), or pixels."""
    model: str = "convnet"
    """Network to train on the whole set, for the features or to see what it forgets."""
    epochs: int = EPOCHS
    """Epochs of training it."""
    seed: int = 0
    """Decides random choices, initial weights and the order of batches."""
    engine: str = "auto"
    """Who trains: auto, native, torch or reference."""
    device: str = "auto"
    """Where: auto, cpu, cuda or cuda:N."""
    cache: str | None = None
    """Folder where trained networks are kept; None: ~/.cache/fastdc/networks."""

    def run(self) -> None:
        """Choose, write."""
        if self.coreset not in SELECTIONS:
            raise unknown_name("coreset", self.coreset, SELECTIONS)
        options, surplus = self._options()
        if surplus:
            raise UsageError(f"coreset {self.coreset!r} takes no {', '.join(surplus)}; leave it out, or choose another coreset.")
        train, _ = load_dataset(self.dataset, self.data_root)
        config = {"dataset": train.name, "coreset": self.coreset, **options}
        origin = {"fingerprint": train.fingerprint, **versions()}
        with open_run(folder_for(self.out, f"{self.dataset}-{self.coreset}-ipc{self.ipc}")) as run:
            run.check(config, origin)
            unrecorded = options_taken(self.coreset, {"cache": self.cache, "progress": not self.quiet})
            chosen = SELECTIONS[self.coreset](train, **options, **unrecorded)
            run.claim(config, origin)
            chosen.save(run.result)
            chosen.save_grid(run.picture)
        print(chosen)
        print(f"written to {run.path}")

    def _options(self) -> tuple[dict[str, Any], list[str]]:
        """The options that decide the choice; and the names of those given that this coreset does not take."""
        of_any = {name for selection in SELECTIONS.values() for name in inspect.signature(selection).parameters}
        fields = [field for field in dataclasses.fields(self) if field.name in of_any]
        taken = options_taken(self.coreset, {field.name: getattr(self, field.name) for field in fields})
        surplus = [field.name for field in fields if field.name not in taken and getattr(self, field.name) != field.default]
        return {name: value for name, value in taken.items() if name != "cache"}, surplus
