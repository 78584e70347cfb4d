"""The verb `condense`: from arguments to a configuration, and to the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastdc.condensed import CondensedDataset
from fastdc.data import as_image_data, check_every_class
from fastdc.data.image_data import ImageData, what_classes_have
from fastdc.data.pictures import checked_size
from fastdc.data.sources.named import load_share
from fastdc.engines import resolve_engine
from fastdc.errors import UsageError
from fastdc.loop.config import CondenseConfig, as_plain, recipe_of, resolved
from fastdc.loop.events import Callback
from fastdc.loop.loop import Condensation
from fastdc.loop.plan import planned_iterations
from fastdc.loop.strip import ThumbnailStrip
from fastdc.metrics import Metric, ParameterLayout
from fastdc.models.network import NetworkFamily, check_learnable
from fastdc.models.registry import ModelFactory, describe
from fastdc.options.checks import seconds_of
from fastdc.options.ipc import checked_ipc, mean_ipc, of_each_class, one_or_each
from fastdc.parallel.devices import resolve_device
from fastdc.parallel.world import shared, world
from fastdc.recipe import MATCHES, RECIPES, Recipe, needs_whole_set, recipe_named
from fastdc.recipe.formation import chosen_formation, images_of_each
from fastdc.report import accompany
from fastdc.runs.folder import RunFolder, open_run
from fastdc.runs.progress import in_notebook
from fastdc.runtime.public import public
from fastdc.runtime.seeding import derive_seed
from fastdc.runtime.versions import versions


@public
@shared
def condense(
    data: Any,
    ipc: int | Sequence[int],
    *,
    method: str | Recipe = "dc",
    scale: str = "paper",
    model: str | ModelFactory | None = None,
    iterations: int | None = None,
    budget: str | None = None,
    matching_steps: int | None = None,
    model_epochs: int | None = None,
    init: str | None = None,
    lr_images: float | None = None,
    optimizer: str | None = None,
    schedule: str | None = None,
    lr_model: float | None = None,
    batch_real: int | None = None,
    distance: str | None = None,
    match: str | None = None,
    pool: str | None = None,
    batches: str | None = None,
    augmentation: str | None = None,
    formation: str | None = None,
    precision: str = "float32",
    engine: str = "auto",
    device: str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    image_size: int | tuple[int, int] | None = None,
    progress: bool = True,
) -> CondensedDataset:
    """Learn `ipc` images per class with which a network trained from scratch does nearly as well as with all of `data`.

    By gradient matching: in each iteration a fresh random network theta; in each of its matching steps, for every class c::

        images_c  <-  images_c - lr_images * d/d images_c  D(grad L(theta, images_c), grad L(theta, real images of c))

    with momentum 0.5; and between two steps theta is trained on the images (batch 256).

    Args:
        data: the name of a dataset | ImageData | (images, labels), arrays or tensors, images uint8 or float in 0..1, as NCHW, NHWC or
            NHW, labels numbers or names | a map-style Dataset of (image, label), or of dicts with both.
        ipc: images per class: one number for all classes, or a list, array or tensor with a number for each. Where images start from
            real ones, a class with fewer than the one number for all gives as many as it has. dd, parameter_matching and
            curriculum need one number for all.
        method: the name of a recipe in `fastdc.RECIPES`: "dc", gradient matching; "dd", Dataset Distillation; "parameter_matching";
            "curriculum"; "dsa", "dm", "idc", "dream", "accdd", "dance", "ncfm", the later methods of the family; "auto", for a
            time that is given as `budget`; "untrained", what that starts from; with options of its parts as in
            "dd:unroll=20,networks=fixed"; or a `fastdc.Recipe`. What is given beside it replaces that part of the recipe; None anywhere
            below means what the recipe says, in brackets for dc.
        scale: how much of a named recipe to spend: "paper" is as published; "laptop" has fewer steps, larger rates and narrower
            networks, for two cores.
        model: a name, such as "convnet:width=64", or a function (channels, num_classes, (height, width)) -> nn.Module ("convnet").
        iterations: K, the number of random networks; 0 gives what a run starts from (1000).
        budget: the time to take, as "90s", "30min" or "2h": as many iterations are planned as fit into it, from the time of a few steps.
            What was planned stands in the provenance, and in the folder `out`, where a later call takes it from. Nothing is planned
            where `iterations` are given as well, as in the configuration of a run that was planned.
        matching_steps: T, matching steps with each of them (the paper's number for this ipc, (1, 10, 20, 30, 40, 50) for ipc
            (1, 10, 20, 30, 40, 50), interpolated linearly between them, 50 above; for a list by its mean).
        model_epochs: epochs of training the network between two matching steps, where the pool trains (the paper's number,
            (1, 50, 25, 20, 15, 10) for the same ipc, interpolated linearly and rounded between them, 10 above).
        init: "noise", standard normal; or copies of real images, different ones within a class: "real", random ones, or "kmeans",
            those nearest to the centres of the k-means of their class ("noise").
        lr_images: learning rate of what is stored, which is the images unless a formation says otherwise (0.1).
        optimizer: "sgd" with momentum, or "adam", with which a value moves by about `lr_images` in a step ("sgd:momentum=0.5").
        schedule: how `lr_images` falls over the run: "constant", "linear" or "cosine", to zero ("constant").
        lr_model: learning rate of the network (0.01); not of dd, which learns its step sizes.
        batch_real: real images of each class in a matching step; a class that has fewer gives all it has (256).
        distance: a name in `fastdc.metrics.METRICS` ("layerwise_cosine"); "l1:rows=convolutions" looks at the convolutions alone; dd
            has no use for it.
        match: what is compared ("gradients"); see `fastdc.recipe.MATCHES`, and likewise for the next four.
        pool: whose networks ("fresh:train=synthetic").
        batches: which real images ("random").
        augmentation: what is done to the images of both sides ("none"). "siamese" mirrors no digits unless its operations say so.
        formation: how what is stored becomes images ("plain").
        precision: how products of float32 numbers are rounded: "float32", exactly; "tf32" or "bfloat16", as the tensor cores of a GPU
            do it, which is faster and gives other images. Sums, norms and distances are float32 always. It takes the engine "cuda", or
            for "bfloat16" the engine "native" on a processor with AVX-512 BF16.
        engine: "auto", "native", "cuda", "torch" or "reference"; "torch:memory=256,compile=true" sets the torch engine's options.
        device: "auto", "cpu", "cuda" or "cuda:N".
        seed: decides every random number: same seed, machine and engine, same images to the last bit.
        out: a folder for config.json, metrics.jsonl, checkpoint.safetensors, condensed.safetensors, condensed.png, thumbnails/ and
            report.html. A call with the same arguments continues the run that is there, and ends in the same bits as one never
            interrupted; with more `iterations` it goes on from there.
        image_size: to bring the middle of each image of `data` to, N or (height, width); None: images stay as they are, and all have one
            size.
        callbacks: called with every event (see `fastdc.callbacks`).
        progress: say on stderr how far the work is.

    Returns:
        The learned images, normalised as the training images are, with provenance.

    Raises:
        UsageError: an argument that cannot be used, or `out` holds a run with other arguments.
        DataError: data or a checkpoint that cannot be used.
        RunError: `out` cannot be written or is in use; or a distance or gradient is not finite.
        Interrupted: SIGINT or SIGTERM arrived while `out` was given; the checkpoint is written.

    Example:
        >>> condensed = condense("digits", ipc=1, model="convnet:width=8", iterations=2, batch_real=16)
        >>> condensed.images.shape
        torch.Size([10, 1, 8, 8])
    """
    began = time.monotonic()
    prepared = prepare(
        data,
        ipc,
        method=method,
        model=model,
        out=out,
        callbacks=callbacks,
        image_size=image_size,
        progress=progress,
        scale=scale,
        match=match,
        pool=pool,
        batches=batches,
        augmentation=augmentation,
        formation=formation,
        iterations=iterations,
        budget=budget,
        matching_steps=matching_steps,
        model_epochs=model_epochs,
        init=init,
        lr_images=lr_images,
        optimizer=optimizer,
        schedule=schedule,
        lr_model=lr_model,
        batch_real=batch_real,
        distance=distance,
        precision=precision,
        engine=engine,
        device=device,
        seed=seed,
    )
    here, started = world(), time.monotonic()
    condensation = prepared.condensation()  # which refuses what does not fit into memory, before anything is written
    built = time.monotonic() - started
    with contextlib.ExitStack() as stack:
        run = here.led(lambda: stack.enter_context(open_run(out)) if out is not None else None)
        if prepared.planned:
            assert budget is not None
            known = here.first(lambda: run.recorded("iterations") if run is not None else None)
            end = began + seconds_of(budget)
            found = known if type(known) is int and known > 0 else planned_iterations(condensation, built, end)
            del condensation
            condensation = prepared.condensation(found)
        protocol = prepared.protocol
        del prepared  # of whose data the condensation may keep a part
        condensed = condensation.result(run, protocol)
        here.led(lambda: accompany(run.path) if run is not None else None)
        return condensed


@dataclass(frozen=True, eq=False)
class Prepared:
    """A run before its first step: what the arguments of `condense` come to."""

    config: CondenseConfig
    """Resolved, with the engine, the device and the numbers of images that the data came to."""
    real: ImageData
    family: NetworkFamily
    protocol: str
    """By which its images are to be evaluated."""
    planned: bool
    """Whether the iterations are still to be planned, for a budget."""
    callbacks: Sequence[Callback]
    progress: bool

    def condensation(self, iterations: int | None = None) -> Condensation:
        """The run; with so many iterations, where they were planned."""
        config = self.config if iterations is None else dataclasses.replace(self.config, iterations=iterations)
        strip = [ThumbnailStrip()] if self.progress and in_notebook() else []
        return Condensation(config, self.real, self.family, [*self.callbacks, *strip], self.progress)


def prepare(
    data: Any,
    ipc: int | Sequence[int],
    *,
    method: str | Recipe,
    model: str | ModelFactory | None,
    out: str | Path | None,
    callbacks: Sequence[Callback],
    image_size: int | tuple[int, int] | None,
    progress: bool,
    **options: Any,
) -> Prepared:
    """The arguments of `condense`, checked, with the data read; nothing is written.

    Args:
        options: those that `CondenseConfig` holds as they are given.

    Raises:
        UsageError: an argument that cannot be used.
        DataError: data that cannot be used.
    """
    recipe = method if isinstance(method, Recipe) else None
    given = CondenseConfig(
        ipc=checked_ipc(ipc),
        method=method if not isinstance(method, Recipe) else next((name for name, known in RECIPES.items() if known == method), "custom"),
        model=describe(model) if model is not None else None,
        **options,
    )
    size, config = checked_size(image_size), resolved(given, recipe)
    if not isinstance(callbacks, tuple | list) or not all(map(callable, callbacks)):
        raise UsageError(f"callbacks is {callbacks!r}; expected a list of functions of one event.")
    if not isinstance(out, str | Path | None):
        raise UsageError(f"out is {out!r}; expected the path of a folder, or None.")
    where = resolve_device(given.device)
    real = _real_images(data, size, config)
    check_every_class(real)
    config = _of_dataset(config, resolved(given, recipe, real.name), out)
    protocol = (recipe if recipe is not None else recipe_named(config.method, config.scale, mean_ipc(config.ipc))).protocol
    numbers, formation = _numbers_and_formation(config, real)
    assert config.model is not None
    family = NetworkFamily(model if model is not None else config.model, real.channels, real.num_classes, real.image_size, where)
    network = family.fresh(derive_seed(given.seed, "network", 0))
    assert config.distance is not None
    ParameterLayout.of(network).seen(Metric.of(config.distance).rows)  # refuses a choice of which there are none
    engine = resolve_engine(given.engine, network, given.precision)
    assert config.match is not None
    if config.iterations != 0 and (times := MATCHES.entry(config.match).differentiates):
        some = torch.randn(2, real.channels, *real.image_size, generator=torch.Generator().manual_seed(0)).to(where)
        check_learnable(network, some, twice=times == 2)
    config = dataclasses.replace(config, engine=engine, device=str(where), ipc=one_or_each(numbers), formation=formation)
    here = world()
    if here.size > 1:
        plain = as_plain(dataclasses.replace(config, device=where.type))  # each has a GPU of its own
        here.check_same({"dataset": real.name, "fingerprint": real.fingerprint, **plain, **versions()})
    return Prepared(config, real, family, protocol, given.budget is not None and given.iterations is None, callbacks, progress)


def _real_images(data: Any, size: tuple[int, int] | None, config: CondenseConfig) -> ImageData:
    """The training set; of several processes that can do with the images of their own classes each reads those alone."""
    if isinstance(data, str) and world().size > 1 and not needs_whole_set(recipe_of(config)):
        return load_share(data, image_size=size)
    return as_image_data(data, image_size=size)


def _of_dataset(config: CondenseConfig, chosen: CondenseConfig, out: str | Path | None) -> CondenseConfig:
    """The configuration that was chosen for a dataset; or that without a choice, by which earlier versions began the run in `out`."""
    if out is None or chosen == config:
        return chosen
    begun = world().first(lambda: RunFolder(Path(out).expanduser()).recorded("augmentation"))
    return config if begun == config.augmentation else chosen


def _numbers_and_formation(config: CondenseConfig, real: ImageData) -> tuple[tuple[int, ...], str]:
    """How many are learned of each class, and the formation for so many. Where they start from real images, a class with fewer than one
    number for all gives those that it has."""
    assert config.formation is not None
    assert config.match is not None
    numbers, counts = of_each_class(config.ipc, real.num_classes), real.class_counts.tolist()
    formation = chosen_formation(config.formation, real, numbers)
    each = images_of_each(formation)
    whole = config.init == "noise" or MATCHES.entry(config.match).needs_all_classes  # no class has fewer
    if whole or not isinstance(config.ipc, int) or config.ipc * each > max(counts):
        return numbers, formation
    return what_classes_have(real, config.ipc, each), formation
