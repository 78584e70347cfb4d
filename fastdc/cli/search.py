"""The command `fastdc search`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fastdc.cli.arguments import DatasetOptions, ExperimentOptions
from fastdc.cli.shared import command_line
from fastdc.data import ImageData, load_dataset
from fastdc.experiments.image_sets import with_common_numbers
from fastdc.experiments.processes import run_shared
from fastdc.experiments.scales import scale_from, with_width
from fastdc.experiments.search.report import write
from fastdc.experiments.search.scale import SCALES
from fastdc.experiments.search.search import Search, SearchConfig
from fastdc.experiments.search.space import PAPER_SPACE, ConvNetSpace
from fastdc.options.checks import check_count
from fastdc.options.specs import plain_name
from fastdc.runtime.versions import versions


@dataclass(frozen=True, kw_only=True)
class SearchCommand(ExperimentOptions, DatasetOptions):
    """Rank ConvNets by training them on small proxies of a dataset, and compare with training them on all of it: the paper's table 4.

    The same command again continues an interrupted one, network by network. Several processes that are given the same folder share the
    work: start the command several times, or with --workers.
    """

    dataset: str = "digits"
    """The dataset."""
    out: str | None = None
    """The folder for the results. The default is runs/search-DATASET-ipcN-SCALE."""
    proxies: tuple[str, ...] = ("random", "herding", "dc", "early_stopping")
    """What the networks are trained on to be ranked: the images of coresets or of methods such as dc; and early_stopping,
    which is the whole set for as many steps as a training on --ipc images per class takes."""
    ipc: int = 10
    """The number of images per class of each proxy."""
    networks: int | None = None
    """How many networks to draw at random from the space. The default is the scale's."""
    widths: tuple[int, ...] | None = None
    """The widths of the networks in the space. The default is the scale's."""
    depths: tuple[int, ...] | None = None
    """The depths of the networks in the space. The default is the scale's."""
    epochs: int | None = None
    """For how many epochs to train each network on a proxy. The default is the scale's."""
    protocol: str = "dc"
    """How to train each network on a proxy of images, with options, as in dsa:operations=color+crop."""
    whole_set_epochs: int | None = None
    """For how many epochs to train a network on the whole set. The default is the scale's."""
    iterations: int | None = None
    """The number of random networks on which a method learns a proxy. The default is the scale's, for paper that of each method's
    recipe."""
    budget: str | None = None
    """The time for each proxy of a method, such as 90s or 10min, in place of --iterations."""
    batch_real: int | None = None
    """The number of real images of each class in a step of a method. The default is the scale's, for paper that of each method's
    recipe."""
    coreset_epochs: int | None = None
    """For how many epochs to train the network by which a coreset chooses. The default is the scale's."""
    norms: tuple[str, ...] = PAPER_SPACE.norms
    """The normalisations of the networks in the space."""
    activations: tuple[str, ...] = PAPER_SPACE.activations
    """The activations of the networks in the space."""
    poolings: tuple[str, ...] = PAPER_SPACE.poolings
    """The poolings of the networks in the space."""
    truth: str = "top"
    """Which networks are also trained on the whole set: top, those that a proxy ranks first and some others at random; or all."""
    top: int = 10
    """With --truth top: how many of the networks that each proxy ranks first are trained on the whole set."""
    random_truths: int = 10
    """With --truth top: how many other networks, drawn at random, are trained on the whole set."""
    proxy_model: str = "convnet"
    """The network with which a method learns a proxy, or by which a coreset chooses it. A ConvNet without a width has the scale's."""
    seed: int = 0
    """The seed of everything random."""

    def run(self) -> None:
        """Search, print the table."""
        check_count("workers", self.workers)
        scale, name = scale_from(SCALES, self.scale, self)
        scale = with_common_numbers(scale, self.proxies)
        space = ConvNetSpace(
            widths=scale.widths, depths=scale.depths, norms=self.norms, activations=self.activations, poolings=self.poolings
        )
        config = SearchConfig(
            proxies=self.proxies,
            ipc=self.ipc,
            networks=scale.networks,
            epochs=scale.epochs,
            protocol=self.protocol,
            truth=self.truth,
            top=self.top,
            random_truths=self.random_truths,
            whole_set_epochs=scale.whole_set_epochs,
            proxy_model=with_width(self.proxy_model, scale.width),
            iterations=scale.iterations,
            budget=self.budget,
            batch_real=scale.batch_real,
            coreset_epochs=scale.coreset_epochs,
            seed=self.seed,
            engine=self.engine,
            device=self.device,
            progress=not self.quiet,
        )
        default = f"runs/{plain_name(f'search-{self.dataset}-ipc{self.ipc}-{self.scale}')}"
        out = Path(self.out if self.out is not None else default).expanduser()
        open_search = partial(
            _open_search, partial(load_dataset, self.dataset, self.data_root, image_size=self.image_size, classes=self.classes), space, out
        )
        search = open_search(config)
        silent = dataclasses.replace(config, progress=False)
        result = run_shared(search, partial(open_search, silent), self.workers, self.device)
        budget = f"; {self.budget} for each proxy of a method" if self.budget is not None else ""
        how = f"scale {name}: {scale}{budget}; protocol {search.config.protocol}; seed {self.seed}"
        caption = f"{search.train.said()}, {how}, fastdc {versions()['fastdc']}."
        page = write(out, result, caption, command_line("search", self))
        print(f"{page}\nwritten to {out}")


def _open_search(load: Callable[[], tuple[ImageData, ImageData]], space: ConvNetSpace, out: Path, config: SearchConfig) -> Search:
    train, test = load()
    return Search(train, test, space, config, out)
