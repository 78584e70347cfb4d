"""The command `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from fastdc.cli.arguments import Common
from fastdc.cli.shared import Protocol, baseline_images, check_baseline, evaluate_all, read_condensed
from fastdc.data import load_dataset


@dataclass(frozen=True, kw_only=True)
class Evaluate(Common):
    """Train fresh networks on condensed images alone and test them on real ones."""

    condensed: tyro.conf.Positional[str]
    """A condensed dataset, the folder of a run, or a .pt file of the paper's authors (with --dataset)."""
    dataset: str | None = None
    """What to test on; None: the dataset that was condensed."""
    data_root: str | None = None
    """Where datasets are kept and downloaded to; None: ~/.cache/fastdc/data."""
    model: str = "convnet"
    """Network to train."""
    networks: int = 20
    """How many to train."""
    epochs: int | None = None
    """Epochs of training; None: the paper's 300, and 1000 on mnist."""
    seed: int = 0
    """Decides initial weights and the order of batches."""
    engine: str = "auto"
    """Who computes gradients: auto, native, torch or reference."""
    device: str = "auto"
    """Where: auto, cpu, cuda or cuda:N."""
    baseline: str = "none"
    """What to evaluate beside it: as many real images chosen by random, herding, k_center or forgetting (by the network of
    --model), or none."""

    def run(self) -> None:
        """Evaluate, print."""
        check_baseline(self.baseline)
        condensed, name = read_condensed(self.condensed, self.dataset, self.data_root)
        train, test = load_dataset(name, self.data_root)
        protocol = Protocol(self.model, self.networks, self.epochs, self.seed, self.engine, self.device)
        baseline = baseline_images(self.baseline, train, condensed.ipc, protocol, self.quiet)
        evaluate_all({"condensed": condensed, **baseline}, test, protocol, self.quiet, ())
