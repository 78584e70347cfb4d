"""The command `condense`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from fastdc._condense import condense
from fastdc.callbacks import Callback, EvaluateEvery, TensorBoard
from fastdc.cli.arguments import DatasetOptions
from fastdc.cli.shared import EvaluationOptions, as_json, baseline_images, check_baseline, evaluate_all, folder_for, json_text
from fastdc.data import ImageData, load_dataset
from fastdc.data.sources.named import load_share, load_test
from fastdc.loop.config import CondenseConfig, recipe_of, resolved
from fastdc.options.checks import check_count
from fastdc.options.ipc import least_to_most
from fastdc.parallel.world import world
from fastdc.recipe import needs_whole_set
from fastdc.report import accompany
from fastdc.runs.files import write_atomically

_OF_SHARES = ("random", "none")  # baselines that need no image of another process


@dataclass(frozen=True, kw_only=True)
class Condense(CondenseConfig, DatasetOptions):
    """Learn a few images per class that stand in for a dataset, evaluate them, and write them with a picture.

    The same command again continues an interrupted run.
    """

    shared: ClassVar[bool] = True

    dataset: str = "digits"
    """The dataset to condense."""
    data_root: str | None = None
    """The folder where datasets are kept and downloaded to. The default is ~/.cache/fastdc/data."""
    out: str | None = None
    """The folder for the result and all that belongs to it. The default is runs/DATASET-ipcN, or runs/DATASET-ipcLEAST-MOST."""
    networks: int = 5
    """For the evaluation, which follows the condensation: how many networks to train on the learned images and test."""
    protocol: str = "auto"
    """For the evaluation: how to train these networks, with options, as in dsa:operations=color+crop. With auto it is as the recipe
    says."""
    epochs: int | None = None
    """For the evaluation: for how many epochs to train each of these networks. The default is the protocol's.
    How long networks are trained while images are learned is --model-epochs."""
    baseline: str = "random"
    """For the evaluation: what to compare with, which is as many real images, chosen by a coreset; or none. A coreset that needs a
    network trains that of --model."""
    evaluate_every: int | None = None
    """Evaluate the images after every so many iterations as well, for a curve of accuracy in curve.jsonl. The result is the last images
    all the same. The default is to evaluate these alone."""
    tensorboard: bool = False
    """Write TensorBoard events into the folder of the run."""

    def run(self) -> None:
        """Condense, evaluate, report."""
        check_baseline(self.baseline)
        check_count("networks", self.networks)
        for name in ("epochs", "evaluate_every"):
            check_count(name, getattr(self, name), optional=True)
        train, test = self.data()
        out = folder_for(self.out, f"{self.dataset}-ipc{least_to_most(self.ipc, '-')}")
        leads = world().leads
        callbacks: list[Callback] = [TensorBoard(out / "tensorboard")] if self.tensorboard and leads else []
        evaluation, options = EvaluationOptions.of(self), self.checked()  # what cannot be used is refused before a baseline takes its time
        baseline = baseline_images(self.baseline, train, self.ipc, evaluation, self.quiet)
        curve = [] if self.evaluate_every is None else [EvaluateEvery(self.evaluate_every, test, **dataclasses.asdict(evaluation))]
        condensed = condense(train, **options, out=out, callbacks=[*callbacks, *curve], progress=not self.quiet)
        if self.budget is not None:
            took = condensed.provenance["config"]
            print(f"took {took['iterations']} iterations of {took['matching_steps']} steps, formation {took['formation']}", flush=True)
        evaluation = evaluation.for_set(condensed, test)
        subjects = {"condensed": condensed, **baseline}
        found = evaluate_all(subjects, test, evaluation, self.quiet, callbacks)
        results = {subject: as_json(found[subject], images) for subject, images in subjects.items()}
        content = {"dataset": train.name, **dataclasses.asdict(evaluation), "results": results}
        if leads:
            write_atomically(out / "evaluation.json", json_text(content).encode())
            accompany(out)
        print(f"written to {out}")

    def checked(self) -> dict[str, Any]:
        """The arguments of `fastdc.condense` that decide its result.

        Raises:
            UsageError: one that cannot be used.
        """
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(CondenseConfig)}
        resolved(CondenseConfig(**options))
        return options

    def data(self) -> tuple[ImageData, ImageData]:
        """The dataset, to learn from and to test on. Of several processes each reads of the images to learn from those of its own classes,
        where it can do with them."""
        recipe = recipe_of(resolved(CondenseConfig(**self.checked())))
        if world().size > 1 and self.classes is None and self.baseline in _OF_SHARES and not needs_whole_set(recipe):
            train = load_share(self.dataset, self.data_root, image_size=self.image_size)
            return train, load_test(self.dataset, train, self.data_root, image_size=self.image_size)
        return load_dataset(self.dataset, self.data_root, image_size=self.image_size, classes=self.classes)
