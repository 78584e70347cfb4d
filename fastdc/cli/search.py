"""The command `fastdc search`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastdc.cli.arguments import Common
from fastdc.data import load_dataset
from fastdc.experiments.plots import can_plot
from fastdc.experiments.scales import changed, with_width
from fastdc.experiments.search.report import as_csv, markdown, plot_against_truth, ranking
from fastdc.experiments.search.result import SearchResult
from fastdc.experiments.search.search import Search, SearchConfig
from fastdc.experiments.search.space import PAPER_SPACE, ConvNetSpace
from fastdc.options.checks import check_count
from fastdc.options.specs import plain_name
from fastdc.parallel.workers import Helpers
from fastdc.runs.files import write_atomically
from fastdc.runs.folder import shared_folder
from fastdc.runtime.versions import versions


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The sizes that a search can be run with; all else is as in `architecture_search`."""

    networks: int | None
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    epochs: int
    whole_set_epochs: int
    iterations: int
    batch_real: int
    coreset_epochs: int
    width: int | None


SCALES: Mapping[str, Scale] = {
    "tiny": Scale(
        networks=4,
        widths=(8,),
        depths=(1, 2),
        epochs=2,
        whole_set_epochs=1,
        iterations=1,
        batch_real=8,
        coreset_epochs=1,
        width=8,
    ),
    "laptop": Scale(
        networks=60,
        widths=(8, 16, 32),
        depths=(1, 2, 3),
        epochs=100,
        whole_set_epochs=2,
        iterations=50,
        batch_real=64,
        coreset_epochs=5,
        width=32,
    ),
    "paper": Scale(
        networks=None,
        widths=PAPER_SPACE.widths,
        depths=PAPER_SPACE.depths,
        epochs=100,
        whole_set_epochs=100,
        iterations=1000,
        batch_real=256,
        coreset_epochs=20,
        width=None,
    ),
}


@dataclass(frozen=True, kw_only=True)
class SearchCommand(Common):
    """Rank ConvNets by training them on small proxies of a dataset, and compare with training them on all of it: the paper's table 4.

    The same command again continues, network by network; started several times, or with --workers, it is shared out.
    """

    dataset: str = "digits"
    """digits, mnist, fashion-mnist, svhn, cifar10, cifar100, usps, folder:PATH or npz:PATH."""
    data_root: str | None = None
    """Where datasets are kept and downloaded to; None: ~/.cache/fastdc/data."""
    out: str | None = None
    """Folder of the results; None: runs/search-DATASET-ipcN-SCALE."""
    proxies: tuple[str, ...] = ("random", "herding", "dc", "early_stopping")
    """What networks are trained on: coresets, methods, early_stopping."""
    ipc: int = 10
    """Images per class of the proxies."""
    scale: str = "laptop"
    """How much to spend: tiny, laptop or paper; the options below change a part of it."""
    networks: int | None = None
    """So many networks of the space, chosen at random; None: the scale's, as for the next seven."""
    widths: tuple[int, ...] | None = None
    """Widths in the space."""
    depths: tuple[int, ...] | None = None
    """Depths in the space."""
    epochs: int | None = None
    """Epochs of training on a proxy."""
    whole_set_epochs: int | None = None
    """Epochs of training on the whole set."""
    iterations: int | None = None
    """Of a method that learns a proxy."""
    batch_real: int | None = None
    """Real images of each class in a step of it."""
    coreset_epochs: int | None = None
    """Epochs of training the network by which a coreset chooses."""
    norms: tuple[str, ...] = PAPER_SPACE.norms
    """Norms in the space."""
    activations: tuple[str, ...] = PAPER_SPACE.activations
    """Activations in the space."""
    poolings: tuple[str, ...] = PAPER_SPACE.poolings
    """Poolings in the space."""
    truth: str = "top"
    """Which networks are also trained on the whole set: top, those that a proxy ranks first and some at random; or all."""
    top: int = 10
    """How many of each proxy's first."""
    random_truths: int = 10
    """How many others at random."""
    proxy_model: str = "convnet"
    """The network that proxies are learned with, or chosen by; a ConvNet without a width has the scale's."""
    seed: int = 0
    """Decides everything random."""
    engine: str = "auto"
    """Who computes gradients: auto, native, torch or reference."""
    device: str = "auto"
    """Where: auto, cpu, cuda or cuda:N."""
    workers: int = 1
    """Processes to share the work; each takes a part of the threads."""

    def run(self) -> None:
        """Search, print the table."""
        check_count("workers", self.workers)
        scale, name = changed(SCALES, self.scale, self)
        space = ConvNetSpace(
            widths=scale.widths, depths=scale.depths, norms=self.norms, activations=self.activations, poolings=self.poolings
        )
        config = SearchConfig(
            proxies=self.proxies,
            ipc=self.ipc,
            networks=scale.networks,
            epochs=scale.epochs,
            truth=self.truth,
            top=self.top,
            random_truths=self.random_truths,
            whole_set_epochs=scale.whole_set_epochs,
            proxy_model=with_width(self.proxy_model, scale.width),
            iterations=scale.iterations,
            batch_real=scale.batch_real,
            coreset_epochs=scale.coreset_epochs,
            seed=self.seed,
            engine=self.engine,
            device=self.device,
            progress=not self.quiet,
        )
        default = f"runs/{plain_name(f'search-{self.dataset}-ipc{self.ipc}-{self.scale}')}"
        out = Path(self.out if self.out is not None else default).expanduser()
        work = _Work(self.dataset, self.data_root, space, config, out)
        search = work.search()
        with Helpers(_help, work, self.workers, self.device):
            result = search.result(_say)
        caption = f"{search.train.name}, scale {name}: {_sizes(scale)}; seed {self.seed}, fastdc {versions()['fastdc']}."
        page = _write(result, out, caption)
        print(f"{page}\nwritten to {out}")


@dataclass(frozen=True)
class _Work:
    """What every process needs to take its share."""

    dataset: str
    data_root: str | None
    space: ConvNetSpace
    config: SearchConfig
    out: Path

    def search(self) -> Search:
        """The search, its data loaded."""
        train, test = load_dataset(self.dataset, self.data_root)
        return Search(train, test, self.space, self.config, self.out)


def _help(work: _Work) -> None:
    quiet = dataclasses.replace(work.config, progress=False)
    dataclasses.replace(work, config=quiet).search().result()


def _write(result: SearchResult, out: Path, caption: str) -> str:
    """Write all files; returns the page."""
    plot = "search.png" if can_plot() else None
    page = markdown(result, caption, plot)
    with shared_folder(out):
        if plot is not None:
            write_atomically(out / plot, plot_against_truth(result))
        write_atomically(out / "table.md", page.encode())
        write_atomically(out / "table.csv", as_csv(result).encode())
        write_atomically(out / "ranking.json", ranking(result).encode())
    return page


def _sizes(scale: Scale) -> str:
    values = dataclasses.asdict(scale)
    return ", ".join(
        f"{key} {' '.join(map(str, value)) if isinstance(value, tuple) else value}" for key, value in values.items() if value is not None
    )


def _say(line: str) -> None:
    print(line, flush=True)
