"""The configuration of a condensation: every choice that decides its result, for the API and the command line alike."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from fastdc.engines import check_engine
from fastdc.errors import UsageError, unknown_name
from fastdc.metrics import Metric
from fastdc.options.checks import check_count, check_duration, check_rate
from fastdc.options.ipc import checked_ipc, least_to_most, mean_ipc
from fastdc.recipe import MATCHES, Recipe, check_choices, in_full, recipe_named, trains_networks
from fastdc.runtime.seeding import check_seed
from fastdc.training.schedule import paper_schedule

INITS = ("noise", "real", "kmeans")


@dataclass(frozen=True, kw_only=True)
class CondenseConfig:
    """What decides the result of `fastdc.condense`, data aside."""

    ipc: int | tuple[int, ...]
    """The number of images to learn per class; or a list with a number for each class, as 10,1,5."""
    model: str | None = None
    """The network to learn the images with, with its options, as in convnet:width=64,norm=batch; for dc convnet."""
    method: str = "dc"
    """The recipe, with options of its parts, as in dd:unroll=20. Each option below replaces that part of it; without it, it is as the
    recipe says. The default dc is gradient matching."""
    scale: str = "paper"
    """How much of the recipe to spend: paper is as published; laptop has fewer steps, larger rates and narrower networks, for two
    cores."""
    match: str | None = None
    """What is compared between synthetic and real images."""
    pool: str | None = None
    """Which networks the images are matched on, and what these learn between two steps: fresh:train=synthetic trains random networks on
    the images."""
    batches: str | None = None
    """Which real images a step compares with."""
    augmentation: str | None = None
    """What is done to the images of both sides before they are compared. With siamese no digit is mirrored unless its operations say so."""
    formation: str | None = None
    """How what is stored becomes images."""
    iterations: int | None = None
    """The number of networks to match on, one after another; for dc 1000."""
    budget: str | None = None
    """The time to take, such as 90s, 30min or 2h: as many iterations as fit into it, from the time of a few steps. Nothing is planned
    where iterations are given as well, as in the configuration of a run that was planned."""
    matching_steps: int | None = None
    """The number of matching steps with each network; for dc what the paper takes for this ipc."""
    model_epochs: int | None = None
    """For how many epochs to train the network between two matching steps; for dc what the paper takes for this ipc."""
    init: str | None = None
    """What the images start from: noise, or copies of real ones, random ones or those nearest to the centres of k-means; for dc noise."""
    lr_images: float | None = None
    """The learning rate of what is stored; for dc 0.1."""
    optimizer: str | None = None
    """How what is stored moves against its gradient; for dc sgd:momentum=0.5. With adam the learning rate is about what a value moves by
    in a step."""
    schedule: str | None = None
    """How the learning rate of what is stored falls over the run: constant, linear or cosine, to zero; for dc constant."""
    lr_model: float | None = None
    """The learning rate of the network; for dc 0.01."""
    batch_real: int | None = None
    """The number of real images of each class in a matching step; for dc 256."""
    distance: str | None = None
    """The distance of two gradients, or of two paths, with the rows of the weights that it sees, as in l1:rows=convolutions; for dc
    layerwise_cosine."""
    engine: str = "auto"
    """The engine that computes gradients, with its options, as in torch:memory=256,compile=true. With auto it is the fastest that can."""
    precision: str = "float32"
    """How products of float32 numbers are rounded: float32, exactly; tf32 or bfloat16, faster on a GPU and other images. Sums, norms and
    distances are float32 always."""
    device: str = "auto"
    """The device to compute on: auto, cpu, cuda or cuda:N. With auto it is a GPU where there is one."""
    seed: int = 0
    """The seed that every random number of the run is made from."""


def resolved(config: CondenseConfig, recipe: Recipe | None = None, dataset: str = "data") -> CondenseConfig:
    """The configuration with what its recipe says in place of None, and every option written out.

    Args:
        config: what is given replaces that part of the recipe.
        recipe: None: the one that `config.method` names.
        dataset: the name of that which is condensed, for which operations are chosen that nothing names.

    Raises:
        UsageError: a value out of range, or an unknown name; the text says which.
    """
    config = dataclasses.replace(config, ipc=checked_ipc(config.ipc))
    check_engine(config.engine, config.precision)
    check_seed(config.seed)
    if recipe is not None and config.scale != CondenseConfig.scale:
        raise UsageError(
            f"scale is {config.scale!r}, but a Recipe has no scales, only the numbers that it was made with; leave it out, or give the "
            "name of a method."
        )
    base = recipe if recipe is not None else recipe_named(config.method, config.scale, mean_ipc(config.ipc))
    given = {name: value for name in _RECIPE_FIELDS if (value := getattr(config, name)) is not None}
    if base.lr_images_each is not None:
        base = dataclasses.replace(base, lr_images_each=None, lr_images=base.lr_images_each * mean_ipc(config.ipc))
    full = dataclasses.replace(base, **given)
    if config.budget is not None:
        check_duration("budget", config.budget)
        if config.iterations is None and full.iterations == 0:
            raise UsageError(f"budget is {config.budget!r}, but method {config.method!r} learns nothing; leave it out, or give iterations.")
    check_count("iterations", full.iterations, least=0)
    for name in ("batch_real", "matching_steps", "model_epochs"):
        check_count(name, getattr(full, name), optional=name in ("matching_steps", "model_epochs"))
    for name in ("lr_images", "lr_model"):
        check_rate(name, getattr(full, name))
    if full.init not in INITS:
        raise unknown_name("init", full.init, INITS)
    distance = Metric.of(full.distance)
    check_choices(full)
    if not isinstance(config.ipc, int) and len(set(config.ipc)) > 1 and MATCHES.entry(full.match).needs_all_classes:
        raise UsageError(
            f"match {full.match!r} trains on all classes at once and needs equally many images of each, but ipc goes from "
            f"{least_to_most(config.ipc, ' to ')}; give one number for all classes, or choose another match."
        )
    steps, epochs = paper_schedule(config.ipc)
    if not trains_networks(full) and full.model_epochs is not None:
        raise UsageError(
            f"model_epochs is {full.model_epochs}, but pool {full.pool!r} trains no network on the images between matching steps; "
            "leave it out."
        )
    full = dataclasses.replace(
        in_full(full, dataset),
        distance=str(distance),
        matching_steps=steps if full.matching_steps is None else full.matching_steps,
        model_epochs=epochs if full.model_epochs is None and trains_networks(full) else full.model_epochs,
    )
    return dataclasses.replace(config, **{name: getattr(full, name) for name in _RECIPE_FIELDS})


def as_plain(config: CondenseConfig) -> dict[str, Any]:
    """The configuration as files hold it: with lists in the place of tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(config).items()}


def recipe_of(config: CondenseConfig) -> Recipe:
    """The recipe of a resolved configuration."""
    return Recipe(**{name: getattr(config, name) for name in _RECIPE_FIELDS})


# All but the protocol of its evaluation, which decides no image, and the rate of which `lr_images` is made.
_RECIPE_FIELDS = tuple(field.name for field in dataclasses.fields(Recipe) if field.name not in ("protocol", "lr_images_each"))
