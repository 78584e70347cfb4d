"""The configuration of a condensation: every choice that decides its result, for the API and the command line alike."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from fastdc.engines import check_engine
from fastdc.errors import UsageError, unknown_name
from fastdc.metrics import Metric
from fastdc.options.checks import check_count, check_rate
from fastdc.recipe import Recipe, check_choices, in_full, recipe_named, trains_networks
from fastdc.runtime.seeding import check_seed
from fastdc.training.schedule import paper_schedule

INITS = ("noise", "real")


@dataclass(frozen=True, kw_only=True)
class CondenseConfig:
    """What decides the result of `fastdc.condense`, data aside."""

    ipc: int
    """Images per class to learn."""
    model: str = "convnet"
    """Network to learn the images with, such as convnet:width=64,norm=batch or mlp."""
    method: str = "dc"
    """Name of the recipe: dc (gradient matching), dd, parameter_matching, curriculum; dd:unroll=20 for options of its parts. What is
    given below replaces that part of it; None: as the recipe says."""
    match: str | None = None
    """What is compared: gradients, dd, parameter_matching or curriculum."""
    pool: str | None = None
    """Whose networks: fresh; fresh:train=synthetic trains them on the images between two matching steps."""
    batches: str | None = None
    """Which real images: random."""
    augmentation: str | None = None
    """What is done to the images of both sides: none."""
    formation: str | None = None
    """How what is stored becomes images: plain."""
    iterations: int | None = None
    """Random networks to match on, one after another; dc: 1000."""
    matching_steps: int | None = None
    """Matching steps for each network; dc: the paper's number for this ipc."""
    model_epochs: int | None = None
    """Epochs of training the network between two matching steps; dc: the paper's number for this ipc."""
    init: str | None = None
    """Images to start from: noise, or real ones; dc: noise."""
    lr_images: float | None = None
    """Learning rate of the images; dc: 0.1."""
    lr_model: float | None = None
    """Learning rate of the network; dc: 0.01."""
    batch_real: int | None = None
    """Real images of each class in a matching step; dc: 256."""
    distance: str | None = None
    """Distance of two gradients, or of two paths; l1:rows=convolutions for its options; dc: layerwise_cosine."""
    engine: str = "auto"
    """Who computes gradients: auto, native, torch, reference; torch:memory=256,compile=true for its options."""
    device: str = "auto"
    """Where: auto, cpu, cuda or cuda:N."""
    seed: int = 0
    """Decides every random number of the run."""


def resolved(config: CondenseConfig, recipe: Recipe | None = None) -> CondenseConfig:
    """The configuration with what its recipe says in place of None, and every option written out.

    Args:
        config: what is given replaces that part of the recipe.
        recipe: None: the one that `config.method` names.

    Raises:
        UsageError: a value out of range, or an unknown name; the text says which.
    """
    check_count("ipc", config.ipc)
    check_engine(config.engine)
    check_seed(config.seed)
    base = recipe if recipe is not None else recipe_named(config.method)
    given = {name: value for name in _RECIPE_FIELDS if (value := getattr(config, name)) is not None}
    full = dataclasses.replace(base, **given)
    for name in ("iterations", "batch_real", "matching_steps", "model_epochs"):
        check_count(name, getattr(full, name), optional=name in ("matching_steps", "model_epochs"))
    for name in ("lr_images", "lr_model"):
        check_rate(name, getattr(full, name))
    if full.init not in INITS:
        raise unknown_name("init", full.init, INITS)
    distance = Metric.of(full.distance)
    check_choices(full)
    steps, epochs = paper_schedule(config.ipc)
    if not trains_networks(full) and full.model_epochs is not None:
        raise UsageError(
            f"model_epochs is {full.model_epochs}, but pool {full.pool!r} trains no network between matching steps; leave it out."
        )
    full = dataclasses.replace(
        in_full(full),
        distance=str(distance),
        matching_steps=steps if full.matching_steps is None else full.matching_steps,
        model_epochs=epochs if full.model_epochs is None and trains_networks(full) else full.model_epochs,
    )
    return dataclasses.replace(config, **{name: getattr(full, name) for name in _RECIPE_FIELDS})


def recipe_of(config: CondenseConfig) -> Recipe:
    """The recipe of a resolved configuration."""
    return Recipe(**{name: getattr(config, name) for name in _RECIPE_FIELDS})


_RECIPE_FIELDS = tuple(field.name for field in dataclasses.fields(Recipe))
