"""The command `condense`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from fastdc._condense import condense
from fastdc.callbacks import Callback, TensorBoard
from fastdc.cli.arguments import Common
from fastdc.cli.shared import Protocol, as_json, baseline_images, check_baseline, evaluate_all, folder_for
from fastdc.data import load_dataset
from fastdc.loop.config import CondenseConfig, resolved
from fastdc.metrics import METRICS, ROWS
from fastdc.models.paper import evaluation_model
from fastdc.options.checks import check_count
from fastdc.runs.files import write_atomically


@dataclass(frozen=True, kw_only=True)
class Condense(CondenseConfig, Common):
    """Learn a few images per class that stand in for a dataset, evaluate them, and write them with a picture.

    The same command again continues an interrupted run.
    """

    dataset: str = "digits"
    """digits, mnist, fashion-mnist, svhn, cifar10, cifar100, usps, folder:PATH or npz:PATH."""
    data_root: str | None = None
    """Where datasets are kept and downloaded to; None: ~/.cache/fastdc/data."""
    out: str | None = None
    """Folder for the result and all that belongs to it; None: runs/DATASET-ipcN."""
    networks: int = 5
    """Networks to train and test on the result."""
    epochs: int | None = None
    """Epochs of training each of them; None: the paper's 300, and 1000 on mnist."""
    baseline: str = "random"
    """What to evaluate beside the result: as many real images chosen by random, herding, k_center or forgetting (by the network
    of --model), or none."""
    distance: Annotated[
        str | None,
        tyro.conf.arg(
            help=f"Distance of two gradients, or of two paths: {', '.join(METRICS)}; l1:rows=convolutions for its rows, "
            f"{' or '.join(ROWS)}; dc: layerwise_cosine."
        ),
    ] = None
    tensorboard: bool = False
    """Write TensorBoard events into the folder of the run."""

    def run(self) -> None:
        """Condense, evaluate, report."""
        check_baseline(self.baseline)
        check_count("networks", self.networks)
        check_count("epochs", self.epochs, optional=True)
        train, test = load_dataset(self.dataset, self.data_root)
        out = folder_for(self.out, f"{self.dataset}-ipc{self.ipc}")
        callbacks: list[Callback] = [TensorBoard(out / "tensorboard")] if self.tensorboard else []
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(CondenseConfig)}
        tested = evaluation_model(self.model)  # VGG and ResNet learn images with batch norm and are tested with instance norm
        protocol = Protocol(tested, self.networks, self.epochs, self.seed, self.engine, self.device)
        resolved(CondenseConfig(**options))  # what cannot be used is refused before a baseline takes its time
        baseline = baseline_images(self.baseline, train, self.ipc, protocol, self.quiet)
        condensed = condense(train, **options, out=out, callbacks=callbacks, progress=not self.quiet)
        evaluations = evaluate_all({"condensed": condensed, **baseline}, test, protocol, self.quiet, callbacks)
        content = {"dataset": train.name, **dataclasses.asdict(protocol), "results": {k: as_json(v) for k, v in evaluations.items()}}
        write_atomically(out / "evaluation.json", (json.dumps(content, indent=2) + "\n").encode())
        print(f"written to {out}")
