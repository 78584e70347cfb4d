"""The command `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tyro

from fastdc.cli.arguments import ComputeOptions
from fastdc.cli.shared import EvaluationOptions, baseline_images, check_baseline, evaluate_all, load_like, read_condensed


@dataclass(frozen=True, kw_only=True)
class Evaluate(ComputeOptions):
    """Train fresh networks on condensed images alone, and test them on real images."""

    shared: ClassVar[bool] = True

    condensed: tyro.conf.Positional[str]
    """The file of a condensed dataset, the folder of a run; or a file that another program wrote (.pt, .npz), or a folder of pictures by
    class, which need --dataset."""
    dataset: str | None = None
    """The dataset on whose test set the networks are tested. The default is the dataset that was condensed."""
    formation: str = "plain"
    """How what another program stored becomes images, where it is not images, as tiles:factor=2 for IDC and its kin."""
    protocol: str = "auto"
    """How to train the networks, with options, as in dsa:operations=color+crop. With auto it is as the recipe says by which the
    images were learned, and dc for other images."""
    model: str = "convnet"
    """The network to train. vgg11 and resnet18 with batch norm are trained with instance norm instead, as in the paper: a few images are
    too few for a batch norm."""
    networks: int = 20
    """How many networks to train, each from other random weights."""
    epochs: int | None = None
    """For how many epochs to train each network. The default is the protocol's."""
    seed: int = 0
    """The seed of initial weights and of the order of batches."""
    precision: str = "float32"
    """How products of float32 numbers are rounded in training: float32, exactly; tf32 or bfloat16, faster on a GPU."""
    baseline: str = "none"
    """What to compare with: as many real images, chosen by a coreset; or none. A coreset that
    needs a network trains that of --model."""

    pictures: bool = False
    """Test what pictures of the images hold as well, pixels cut to 0..1 and rounded to 256 levels."""

    def run(self) -> None:
        """Evaluate, print."""
        check_baseline(self.baseline)
        condensed, name = read_condensed(self.condensed, self.dataset, self.formation, self.data_root)
        train, test = load_like(condensed, name, self.data_root)
        options = EvaluationOptions.of(self).for_set(condensed, test)
        baseline = baseline_images(self.baseline, train, condensed.ipc, options, self.quiet)
        pictures = {"pictures": condensed.as_pictures()} if self.pictures else {}
        evaluate_all({"condensed": condensed, **pictures, **baseline}, test, options, self.quiet, ())
