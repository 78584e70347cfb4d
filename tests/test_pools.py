"""Pools: what networks learn between two steps, against plain scripts in float64; and runs that were stopped in their middle."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import needs_extension, noise_data, relative
from test_capture import Played
from tolerances import FLOAT32_ENGINES, FLOAT64_CLOSED_FORM, FLOAT64_ENGINES, WHOLE_SET_TRAINING
from torch import nn
from torch.nn.utils import parameters_to_vector

import fastdc
from fastdc.callbacks import CheckpointWritten, Event
from fastdc.data import ClassSampler, ImageData
from fastdc.data.k_means import medoids
from fastdc.engines import Sgd, make_engine
from fastdc.engines.capture import Graphs
from fastdc.errors import UsageError
from fastdc.loop.config import CondenseConfig, recipe_of, resolved
from fastdc.metrics.layout import ParameterLayout
from fastdc.models import build
from fastdc.models.network import NetworkFamily
from fastdc.recipe import AUGMENTATIONS, BATCHES, POOLS, ClassGroup, Pool, Problem
from fastdc.recipe.batches import RandomBatches
from fastdc.recipe.pools.pretrained import perturbed
from fastdc.recipe.state import State
from fastdc.runs import folder as run
from fastdc.runtime.seeding import derive_seed, make_generator
from fastdc.training import whole_set
from fastdc.training.augment import training_augmentation
from fastdc.training.by_batch import train_by_batch, whole_batches

pytestmark = pytest.mark.usefixtures("one_thread")
ENGINES = ["reference", "torch", "cuda", pytest.param("native", marks=needs_extension)]
MODEL = "convnet:width=8,activation=swish"
SHORT: dict[str, Any] = {"ipc": 1, "model": "mlp:width=8", "iterations": 3, "matching_steps": 3, "batch_real": 8, "progress": False}


def pool_on(data: ImageData, spec: str, engine: str = "torch", **options: Any) -> tuple[Pool, State, nn.Module]:
    """A pool in float64, the state with a network of it before its first step, and a module with the same weights."""
    config = resolved(CondenseConfig(ipc=1, model=MODEL, pool=spec, seed=5, **options))
    family = NetworkFamily(MODEL, data.channels, data.num_classes, data.image_size, torch.device("cpu"))
    module, sampler = family.fresh(0).double(), ClassSampler(data, 5, torch.float64)
    groups, augmentation = [ClassGroup.of(range(data.num_classes))], AUGMENTATIONS.make(config.augmentation or "none", 5)
    problem = Problem(recipe_of(config), 5, make_engine(engine, module), family, RandomBatches(sampler), augmentation, groups)
    assert config.pool is not None
    pool = POOLS.make(config.pool, problem)
    state = State(torch.zeros(data.num_classes, data.channels, *data.image_size, dtype=torch.float64), {})  # one image per class
    state.theta = pool.next(state).double()
    plain = family.fresh(0).double()
    problem.engine.layout.assign(plain, state.theta)
    return pool, state, plain


# Training on real images


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("images", [50, 1000])
def test_training_on_real_images_is_that_of_torch_with_momentum_kept_from_step_to_step(engine: str, images: int) -> None:
    data = noise_data([30, 50, 40])
    spec = f"fresh:train=real,images={images},batch=16,momentum=0.8,weight_decay=0.01"
    pool, state, plain = pool_on(data, spec, engine, lr_model=0.05)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.8, weight_decay=0.01)
    for step in range(3):
        drawn = torch.randperm(120, generator=make_generator(5, "training images", 0, step))[:images]
        for index in drawn.split(16):
            loss = F.cross_entropy(plain(data.normalised(index, torch.float64)), data.labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        pool.advance(state, state.stored, torch.arange(3))
        state.step += 1
    assert state.theta is not None
    assert relative(state.theta, parameters_to_vector(plain.parameters()).detach()) < FLOAT64_ENGINES


@pytest.mark.parametrize("engine", ENGINES)
def test_real_images_are_augmented_and_mixed_batch_by_batch(engine: str) -> None:
    data = noise_data([30, 50, 40])
    pool, state, plain = pool_on(data, "fresh:train=real,images=50,batch=16,augmentation=color+crop,cutmix=0.5", engine, lr_model=0.05)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    augment, generator = training_augmentation(["color", "crop"], "image", 0.5), make_generator(5, "training images", 0, 0)
    assert augment is not None
    for index in torch.randperm(120, generator=generator)[:50].split(16):
        images, labels = augment(data.normalised(index, torch.float64), data.labels[index], generator)
        optimizer.zero_grad()
        F.cross_entropy(plain(images), labels).backward()
        optimizer.step()
    pool.advance(state, state.stored, torch.arange(3))
    assert state.theta is not None
    assert relative(state.theta, parameters_to_vector(plain.parameters()).detach()) < FLOAT64_ENGINES


@pytest.mark.parametrize("operations", ["color+rotate", "siamese"])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_images_are_augmented_by_one_operation_for_each_batch(engine: str, operations: str) -> None:
    data = noise_data([30, 50, 40])
    sides = {"augmentation": "siamese:operations=color+rotate"} if operations == "siamese" else {}
    pool, state, plain = pool_on(data, f"fresh:train=synthetic,augmentation={operations}", engine, lr_model=0.05, model_epochs=4, **sides)
    flat, labels = torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=make_generator(0)), torch.tensor([0, 0, 1, 1, 2, 2])
    augment, generator = training_augmentation(["color", "rotate"], "batch"), make_generator(5, "training", 0, 0)
    assert augment is not None
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    for _ in range(4):
        order = torch.randperm(6, generator=generator)
        images, expected = augment(flat[order], labels[order], generator)
        optimizer.zero_grad()
        F.cross_entropy(plain(images), expected).backward()
        optimizer.step()
    pool.advance(state, flat, labels)
    assert state.theta is not None
    assert relative(state.theta, parameters_to_vector(plain.parameters()).detach()) < FLOAT64_ENGINES


def test_steps_on_real_images_are_captured_once_for_all_matching_steps() -> None:
    data, found = noise_data([30, 50, 40]), []
    for graphs in (Graphs(), Played(nn.Identity())):
        pool, state, _ = pool_on(data, "fresh:train=real,images=32,batch=16,augmentation=color+crop,cutmix=0.5", "cuda")
        pool.problem.engine.graphs = graphs
        for state.step in range(6):
            pool.advance(state, state.stored, torch.arange(3))
        found.append(state.theta)
    assert torch.equal(*found)
    assert graphs.launches == 6 * 2 - 2  # mixed and not mixed batches once each as they are


def test_by_default_a_step_learns_500_images_in_batches_of_64_with_momentum_and_decay() -> None:
    config = fastdc.condense("digits", pool="fresh:train=real", **{**SHORT, "iterations": 1}).provenance["config"]
    assert (
        config["pool"]
        == "fresh:train=real,images=500,batch=64,momentum=0.9,weight_decay=0.0005,augmentation=none,cutmix=0.0,networks=random"
    )
    assert config["model_epochs"] is None


def test_a_new_network_begins_without_the_velocity_of_the_one_before() -> None:
    pool, state, _ = pool_on(noise_data([30, 50, 40]), "fresh:train=real,images=20")
    first, images = state.theta.clone(), state.stored
    pool.advance(state, images, torch.arange(3))
    once, state.theta = state.theta, first
    pool.advance(state, images, torch.arange(3))
    assert not torch.equal(state.theta, once)
    state.theta, state.path = pool.next(state).double(), {}  # as the loop does at the end of an iteration
    pool.advance(state, images, torch.arange(3))
    assert torch.equal(state.theta, once)


# Networks that are trained beforehand


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where networks are kept."""
    monkeypatch.setattr(whole_set, "DEFAULT_CACHE", tmp_path / "networks")
    return tmp_path / "networks"


@pytest.mark.parametrize(
    ("options", "phases", "augment"),
    [
        ("", [(1, 0.01, 256), (1, 0.001, 256)], None),
        (",augmented=true", [(2, 0.01, 64)], training_augmentation(["color", "crop"], "image", 0.5)),
    ],
)
def test_a_pretrained_network_is_the_one_that_training_on_the_whole_set_gives(
    options: str, phases: list[tuple[int, float, int]], augment: Any, cache: Path
) -> None:
    data = noise_data([30, 50, 40])
    pool, state, _ = pool_on(data, f"pretrained:networks=1,epochs=2{options}", "reference")
    assert state.theta is not None
    problem, seed = pool.problem, derive_seed(5, "pretrained network", 0)
    ((_, first),) = pool._networks.values()
    theta, engine = first.clone(), make_engine("reference", problem.family.fresh(0))
    fetch = whole_batches(data, theta)
    sgd = [Sgd(epochs, lr, 0.9, 5e-4, batch) for epochs, lr, batch in phases]
    for _ in train_by_batch(engine, problem.family, theta, len(data), fetch, sgd, seed, "whole set", augment=augment):
        pass
    assert relative(state.theta - first, theta - first) < WHOLE_SET_TRAINING


def test_a_pretrained_network_is_drawn_in_each_iteration_and_stays_as_it_was(cache: Path) -> None:
    pool, state, _ = pool_on(noise_data([30, 50, 40]), "pretrained:networks=3,epochs=1")
    drawn = []
    for state.iteration in range(20):
        theta = pool.next(state)
        drawn.append(tuple(theta.tolist()))
        theta.zero_()
    assert len(set(drawn)) == len(list(cache.iterdir())) == 3
    assert 3 < sum(one != other for one, other in zip(drawn[1:], drawn[:-1], strict=True)) < 19
    again, _, _ = pool_on(noise_data([30, 50, 40]), "pretrained:networks=3,epochs=1")
    state.iteration = 7
    assert again.next(state).tolist() == list(drawn[7])


def test_perturbation_adds_directions_whose_filters_are_as_long_as_those_of_the_weights() -> None:
    module = build(MODEL, 1, 10, (8, 8)).double()
    layout = ParameterLayout.of(module)
    trained = layout.flatten(module)
    shares = set()
    for seed in range(50):
        found = layout.views(perturbed(trained, trained, layout, make_generator(seed)) - trained)
        generator, plain = make_generator(seed), torch.zeros_like(trained)
        for _ in range(2):
            share, sign = 0.01 + 0.08 * torch.rand((), generator=generator).item(), [-1, 1][torch.randint(2, (), generator=generator)]
            direction = torch.randn(len(trained), generator=generator).double()
            for name, weight in layout.views(trained).items():
                random, change = layout.views(direction)[name], layout.views(plain)[name]
                if weight.dim() > 1:
                    for k in range(len(weight)):
                        change[k] += sign * share * random[k] * weight[k].norm() / random[k].norm()
            shares.add(sign * share)
        for name, change in layout.views(plain).items():
            assert relative(found[name], change) < FLOAT64_CLOSED_FORM
            if change.dim() == 1:
                assert not found[name].any()
            else:
                lengths = found[name].flatten(1).norm(dim=1) / layout.views(trained)[name].flatten(1).norm(dim=1)
                assert lengths.max() <= 0.18
    assert len(shares) == 100
    assert min(shares) < -0.08 < max(shares) - 0.16
    assert all(0.01 <= abs(share) <= 0.09 for share in shares)


def test_interpolation_gives_points_of_the_line_to_the_first_weights(cache: Path) -> None:
    pool, state, _ = pool_on(noise_data([30, 50, 40]), "pretrained:networks=1,epochs=1,change=interpolate")
    ((trained, first),) = [(trained.double(), first.double()) for trained, first in pool._networks.values()]
    shares = []
    for state.iteration in range(20):
        theta, way = pool.next(state).double(), first - trained
        share = torch.dot(theta - trained, way) / torch.dot(way, way)
        assert relative(theta, trained + share * way) < FLOAT32_ENGINES
        shares.append(share.item())
    assert 0 < min(shares) < 0.25
    assert 0.75 < max(shares) < 1


def test_networks_are_made_when_they_are_drawn_and_shared_by_runs(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**SHORT, "iterations": 8, "pool": "pretrained:networks=3,epochs=1"}
    made, train = [], whole_set._Training.result

    def interrupted_at_the_second(self: Any, origin: Any) -> Any:
        made.append(origin)
        if len(made) == 2:
            raise KeyboardInterrupt
        return train(self, origin)

    monkeypatch.setattr(whole_set._Training, "result", interrupted_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        fastdc.condense("digits", **options)
    assert len(list(cache.iterdir())) == 1
    first = fastdc.condense("digits", **options)
    assert len(made) == 4  # the second again, and the third
    assert torch.equal(fastdc.condense("digits", **options).images, first.images)
    assert len(made) == 4
    fastdc.condense("digits", seed=1, **options)
    assert len(made) == 7


# Representatives


def test_representatives_are_the_nearest_to_the_centres_of_the_features_of_their_class() -> None:
    data, module = noise_data([30, 5, 40]), build(MODEL, 1, 3, (8, 8)).double()
    engine, sampler, images = make_engine("torch", module), ClassSampler(data, 5, torch.float64), torch.zeros(3, 1, 1, 8, 8)
    state = State(images, {}, theta=engine.layout.flatten(module), iteration=2)
    batches = BATCHES.make("representatives:sample=25,every=3", sampler)
    drawn = []
    for state.step in range(5):
        batches.prepare(state, engine, 8)
        drawn.append([batches.draw(ClassGroup.of(range(c, c + 1)), 8, 2, state.step, 0)[0] for c in range(3)])
    for step, number in itertools.product((0, 3), range(3)):
        (sample,) = sampler.indices([number], 25, "representatives sample", 2, step)
        pixels = data.normalised(sample, torch.float64)
        features = module.features(pixels).flatten(1).detach()
        expected = pixels[medoids(features, min(8, len(sample)), make_generator(5, "representatives", 2, step, number))]
        assert torch.equal(drawn[step][number], expected)
    assert [len(some) for some in drawn[0]] == [8, 5, 8]
    for step, other, alike in ((0, 1, True), (0, 2, True), (2, 3, False), (3, 4, True)):
        assert torch.equal(drawn[step][2], drawn[other][2]) == alike


def test_representatives_show_every_group_of_a_class() -> None:
    data = noise_data([40, 40])
    groups = torch.arange(len(data)) % 4
    images = data.images // 16
    for number, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):  # one corner bright in each
        images[groups == number, :, row : row + 4, column : column + 4] += 200
    data, module = ImageData.of(images, data.labels), build("mlp:width=64", 1, 2, (8, 8))
    engine, sampler = make_engine("torch", module), ClassSampler(data, 0)
    state = State(torch.zeros(2, 1, 8, 8), {}, theta=engine.layout.flatten(module))
    batches = BATCHES.make("representatives", sampler)
    batches.prepare(state, engine, 4)
    drawn = batches.draw(ClassGroup.of(range(2)), 4, 0, 0, 0)  # [2, 4, 1, 8, 8]
    corners = [drawn[:, :, 0, row : row + 4, column : column + 4].mean((2, 3)) for row, column in ((0, 0), (0, 4), (4, 0), (4, 4))]
    assert torch.stack(corners, 2).argmax(2).sort(1).values.tolist() == 2 * [[0, 1, 2, 3]]


@pytest.mark.parametrize(("batches", "match"), [("representatives:sample=0", "sample is 0"), ("representatives:every=0", "every is 0")])
def test_options_of_representatives_that_cannot_be_used(batches: str, match: str) -> None:
    with pytest.raises(UsageError, match=f"{match}; expected a whole number of 1 or more"):
        fastdc.condense("digits", batches=batches, **SHORT)


# Runs that are stopped between two steps

STOPPED = [
    ("fresh:train=real,images=100", "random"),
    ("fresh:train=real,augmentation=color+crop,cutmix=0.5", "random"),
    ("fresh:train=real,images=100", "representatives:sample=20,every=2"),
    ("pretrained:networks=2,epochs=1,change=perturb", "representatives:sample=20"),
    ("pretrained:networks=2,epochs=1,change=interpolate,train=real,images=100", "random"),
]


@pytest.mark.parametrize(("pool", "batches"), STOPPED)
@pytest.mark.usefixtures("cache")
def test_a_run_stopped_between_any_two_steps_ends_in_the_same_bits(
    pool: str, batches: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_CHECKPOINT_SHARE", 1e9)  # a checkpoint after every step

    def stop(event: Event) -> None:
        if isinstance(event, CheckpointWritten):
            raise InterruptedError

    expected = fastdc.condense("digits", pool=pool, batches=batches, out=tmp_path / "whole", **SHORT)
    stops = 0
    while not (tmp_path / "run" / "condensed.safetensors").exists():
        try:
            fastdc.condense("digits", pool=pool, batches=batches, out=tmp_path / "run", callbacks=[stop], **SHORT)
        except InterruptedError:
            stops += 1
    assert stops == 9
    for file in ("condensed.safetensors", "condensed.png"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert torch.isfinite(expected.images).all()


# What cannot be used


@pytest.mark.parametrize(
    ("pool", "match"),
    [
        ("fresh:train=reel", "unknown train 'reel'. Did you mean 'real'.*none, real, synthetic"),
        ("fresh:images=100", "images is 100, but train=none has no use for it; leave it out, or give train=real"),
        ("fresh:train=synthetic,momentum=0.9", "momentum is 0.9, but train=synthetic has no use for it; leave it out, or give train=real"),
        ("fresh:train=real,images=0", "images is 0; expected a whole number of 1 or more"),
        ("fresh:train=real,batch=0", "batch is 0; expected a whole number of 1 or more"),
        ("fresh:train=real,batch=few", "batch=few in .* is not a whole number"),
        ("fresh:train=real,momentum=1.5", "momentum is 1.5; expected a number from 0 to 1"),
        ("fresh:train=real,momentum=nan", "momentum is nan; expected a number from 0 to 1"),
        ("fresh:train=real,weight_decay=-1", "weight_decay is -1.0; expected a number from 0 to 1"),
        ("fresh:train=synthetic,augmentation=siamese+color", "unknown operation 'siamese'"),
        ("fresh:train=real,augmentation=colour", "unknown operation 'colour'. Did you mean 'color'"),
        ("fresh:train=real,cutmix=2", "cutmix is 2.0; expected a number from 0 to 1"),
        ("fresh:train=synthetic,cutmix=0.5", "cutmix is 0.5, but train=synthetic has no use for it"),
        ("pretrained:networks=0", "networks is 0; expected a whole number of 1 or more"),
        ("pretrained:networks=fixed", "networks=fixed in .* is not a whole number"),
        ("pretrained:epochs=0", "epochs is 0; expected a whole number of 1 or more"),
        ("pretrained:change=perturbed", "unknown change 'perturbed'. Did you mean 'perturb'.*interpolate, none, perturb"),
        ("pretrained:images=100", "images is 100, but train=none has no use for it"),
        ("fresh:augmentation=color", "augmentation is 'color', but train=none has no use for it; leave it out, or give train=real"),
    ],
)
def test_options_that_cannot_be_used(pool: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        fastdc.condense("digits", pool=pool, **SHORT)


def test_epochs_on_the_images_have_no_meaning_where_real_ones_are_learned() -> None:
    with pytest.raises(UsageError, match="model_epochs is 3, but pool 'fresh:train=real' trains no network on the images"):
        fastdc.condense("digits", pool="fresh:train=real", model_epochs=3, **SHORT)
