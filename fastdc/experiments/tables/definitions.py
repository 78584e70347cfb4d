"""The tables of the paper and its ablations (Zhao et al., ICLR 2021), by the names under which `fastdc table` knows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from fastdc.experiments.tables.cells import WHOLE_SET, Cell, Definition, ImageSet
from fastdc.metrics import METRICS
from fastdc.models.paper import PAPER_NETWORKS
from fastdc.models.parts import ACTIVATIONS, NORMS, POOLINGS, in_paper
from fastdc.options.specs import with_options

_LABELS = {"random": "Random", "herding": "Herding", "k_center": "K-Center", "forgetting": "Forgetting", "kmeans": "k-means", "dc": "DC"}
_WHOLE = "whole set"
_WIDTHS = (32, 64, 128, 256)
_DEPTHS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Setting:
    """What a table is defined for."""

    convnet: str
    """The spec of the ConvNet to use, or to vary."""
    channels: int
    """Of the images."""
    ipcs: tuple[int, ...]
    """Images per class."""
    columns: tuple[str, ...]
    """Coresets and methods, where a table has a choice of them."""
    recipes: str
    """The scale of the methods' recipes."""


@dataclass(frozen=True)
class TableKind:
    """A table that can be made: its definition for a setting, and the images per class where none are given."""

    define: Callable[[Setting], Definition]
    ipcs: tuple[int, ...]
    columns: tuple[str, ...] = ()
    """Coresets and methods that are compared where none are given; a table without has no choice of them."""


def _coresets(setting: Setting) -> Definition:
    cells = []
    for ipc in setting.ipcs:
        cells += _of_sources(ipc, setting)
    return Definition("Table 1: coresets, methods and the whole set", "images per class", tuple(cells), "coresets")


def _dd(setting: Setting) -> Definition:
    model = "lenet" if setting.channels == 1 else "alexcifarnet"
    cells = [Cell(str(ipc), source.upper(), ImageSet(source, model, ipc), model) for ipc in setting.ipcs for source in ("dd", "dc")]
    return Definition(f"Table 3: dataset distillation (DD) and gradient matching (DC), {model}", "images per class", tuple(cells), "dd")


def _cross_architecture(setting: Setting) -> Definition:
    def spec(model: str) -> str:
        return setting.convnet if model == "convnet" else model

    made = {network.name: spec(network.condensed_with) for network in PAPER_NETWORKS}
    tested = {network.name: spec(network.evaluated_with) for network in PAPER_NETWORKS}
    published = setting.recipes == "paper"  # rates are for as many iterations
    rates = {network.name: network.lr_images if published else None for network in PAPER_NETWORKS}
    title = "Table 2: condensed with the row, tested with the column"
    return Definition(title, "condensed with", _matrix(made, tested, setting.ipcs, rates), "cross-architecture")


def _by_ipc(setting: Setting) -> Definition:
    cells = []
    for ipc in setting.ipcs:
        cells += _of_sources(ipc, setting)
    title = "Figure 3: accuracy by images per class, absolute and relative to the whole set's"
    return Definition(title, "images per class", tuple(cells), "coresets", relative_to=_WHOLE)


def _variants(option: str, values: tuple[object, ...], setting: Setting) -> Definition:
    models = {str(value): with_options(setting.convnet, **{option: value}) for value in values}
    title = f"Ablation of the ConvNet's {option}: condensed with the row, tested with the column"
    return Definition(title, option, _matrix(models, models, setting.ipcs), option)


def _distances(setting: Setting) -> Definition:
    cells = [
        Cell(metric, f"ipc {ipc}", ImageSet("dc", setting.convnet, ipc, metric), setting.convnet)
        for metric in METRICS
        for ipc in setting.ipcs
    ]
    return Definition("Ablation of the distance of gradients", "distance", tuple(cells), "distance")


def _matrix(
    made: Mapping[str, str], tested: Mapping[str, str], ipcs: tuple[int, ...], rates: Mapping[str, float | None] | None = None
) -> tuple[Cell, ...]:
    """Every model of `made` condenses once for each ipc, at the rate that `rates` has for it, and every one of `tested` is trained on what
    it gives; one image is the rule."""
    return tuple(
        Cell(
            row if ipc == 1 else f"{row}, ipc {ipc}",
            column,
            ImageSet("dc", condensing, ipc, lr_images=None if rates is None else rates[row]),
            model,
        )
        for ipc in ipcs
        for row, condensing in made.items()
        for column, model in tested.items()
    )


def _of_sources(ipc: int, setting: Setting) -> list[Cell]:
    """A row: what each column gives, and the whole set."""
    cells = [
        Cell(str(ipc), _LABELS.get(source, source), ImageSet(source, setting.convnet, ipc), setting.convnet) for source in setting.columns
    ]
    return [*cells, Cell(str(ipc), _WHOLE, ImageSet(WHOLE_SET, setting.convnet, 0), setting.convnet)]


TABLES: Mapping[str, TableKind] = {
    "coresets": TableKind(_coresets, (1, 10, 50), ("random", "herding", "k_center", "forgetting", "untrained", "dc")),
    "dd": TableKind(_dd, (1, 10)),
    "cross-architecture": TableKind(_cross_architecture, (1,)),
    "ipc": TableKind(_by_ipc, (1, 10, 20, 30, 40, 50), ("untrained", "dc")),
    "activation": TableKind(partial(_variants, "activation", in_paper(ACTIVATIONS)), (1,)),
    "pooling": TableKind(partial(_variants, "pooling", in_paper(POOLINGS)), (1,)),
    "norm": TableKind(partial(_variants, "norm", in_paper(NORMS)), (1,)),
    "width": TableKind(partial(_variants, "width", _WIDTHS), (1,)),
    "depth": TableKind(partial(_variants, "depth", _DEPTHS), (1,)),
    "distance": TableKind(_distances, (1,)),
}
