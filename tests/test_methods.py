"""Ways of learning the images: their gradients, their runs, what is kept of them, and methods of a user's own."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import VARIANTS, chunked, make_pair, needs_extension, noise_data, relative, stop_at
from tolerances import FLOAT32_ENGINES, FLOAT64_ENGINES, UNROLLED_FINITE_DIFFERENCES, UNROLLED_FLOAT64
from torch import Tensor
from torch.func import functional_call

import fastdc
from fastdc.callbacks import CheckpointWritten, Event, IterationDone
from fastdc.data import ClassSampler
from fastdc.engines import Engine, make_engine
from fastdc.errors import RunError, UsageError
from fastdc.loop.config import CondenseConfig, recipe_of, resolved
from fastdc.metrics import METRICS, layerwise_distance
from fastdc.models.network import NetworkFamily
from fastdc.recipe import MATCHES, POOLS, ClassGroup, Match, Pool, Problem
from fastdc.recipe.augmentations import NoAugmentation
from fastdc.recipe.batches import RandomBatches
from fastdc.recipe.groups import class_groups
from fastdc.recipe.match.unrolled import gradient_through_steps, unrolled_steps
from fastdc.recipe.state import State
from fastdc.runtime.seeding import make_generator

SMOOTH = "convnet:width=8,activation=swish"
SHORT = {"ipc": 2, "model": "convnet:width=8", "iterations": 3, "matching_steps": 3, "batch_real": 16, "progress": False}
RUNS = ["dc", "dc:cross_entropy=0.5", "dd:unroll=3", "dd:unroll=2,networks=fixed"]
RUNS += ["parameter_matching:unroll=2", "curriculum", "curriculum:unroll=2"]

ENGINES = ["reference", "torch", pytest.param("native", marks=needs_extension)]


ALL = ClassGroup.of(range(10))


def digits_problem(
    method: str, model: str = SMOOTH, engine: str = "torch", groups: Sequence[ClassGroup] = (ALL,), **options: Any
) -> tuple[Match, State]:
    """What a method compares, on digits in float64, and the state before the first step of its first network."""
    train, _ = fastdc.load_dataset("digits")
    config = resolved(CondenseConfig(ipc=2, model=model, method=method, batch_real=8, **options))
    family = NetworkFamily(model, 1, 10, (8, 8), torch.device("cpu"))
    module = family.fresh(3).double()
    images = torch.randn(10, 2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sampler, engine = ClassSampler(train, 2, torch.float64), make_engine(engine, module)
    problem = Problem(recipe_of(config), 0, engine, family, RandomBatches(sampler), NoAugmentation(0), groups)
    learner = MATCHES.make(config.match, problem)
    state = State(images, {}, learned=learner.learned())
    state.theta = pool_of(learner).next(state).double()
    learner.begin(state)
    return learner, state


def pool_of(learner: Match) -> Pool:
    spec = learner.problem.recipe.pool
    return POOLS.make(spec, learner.problem)


# Products with the Hessian


@pytest.mark.parametrize("spec", VARIANTS)
@pytest.mark.parametrize("chunk", [1, 5, 7, 100])
def test_hessian_products_equal_the_reference_for_any_chunk(spec: str, chunk: int) -> None:
    reference, module, theta = make_pair(spec)
    images, vector = torch.randn(3, 4, 1, 28, 28, dtype=torch.float64), torch.randn_like(theta)
    expected = reference.hessian_products(theta, images, vector)
    found = chunked(module, theta, images, chunk).hessian_products(theta, images, vector)
    for value, other in zip(found, expected, strict=True):
        assert value.shape == other.shape
        assert not value.requires_grad
        assert relative(value, other) < FLOAT64_ENGINES


@needs_extension
@pytest.mark.parametrize("spec", ["convnet:width=8", "convnet:width=8,norm=batch"])
def test_hessian_products_of_the_native_engine_equal_the_reference(spec: str) -> None:
    reference, module, theta = make_pair(spec)
    images, vector = torch.randn(3, 4, 1, 28, 28, dtype=torch.float64), torch.randn_like(theta)
    expected = reference.hessian_products(theta, images, vector)
    found = make_engine("native", module).hessian_products(theta, images, vector)
    assert all(relative(*pair) < FLOAT64_ENGINES for pair in zip(found, expected, strict=True))


def test_hessian_products_are_derivatives_of_class_gradients() -> None:
    reference, _, theta = make_pair(SMOOTH, (1, 8, 8))
    images, vector, move = torch.randn(3, 4, 1, 8, 8).double(), torch.randn_like(theta), torch.randn(3, 4, 1, 8, 8).double()
    step = 1e-5
    by_weights, by_images = reference.hessian_products(theta, images, vector)
    ahead, behind = (reference.class_gradients(theta + sign * step * vector, images).mean(0) for sign in (1, -1))
    assert relative(by_weights, (ahead - behind) / (2 * step)) < UNROLLED_FINITE_DIFFERENCES
    ahead, behind = (reference.class_gradients(theta, images + sign * step * move).mean(0) for sign in (1, -1))
    assert relative((by_images * move).sum(), (ahead - behind).dot(vector) / (2 * step)) < UNROLLED_FINITE_DIFFERENCES


def test_hessian_products_in_float32_agree_with_float64() -> None:
    reference, module, theta = make_pair(SMOOTH)
    images, vector = torch.randn(3, 4, 1, 28, 28, dtype=torch.float64), torch.randn_like(theta)
    expected = reference.hessian_products(theta, images, vector)
    found = make_engine("torch", module.float()).hessian_products(theta.float(), images.float(), vector.float())
    assert all(relative(value.double(), other) < FLOAT32_ENGINES for value, other in zip(found, expected, strict=True))


# The way back through the training


def plain_unroll(engine: Engine, theta: Tensor, images: Tensor, rates: Tensor) -> Tensor:
    """The weights after SGD on the images, as a graph that autograd goes back through."""
    labels = torch.arange(len(images)).repeat_interleave(images.shape[1])
    for rate in rates:
        loss = F.cross_entropy(functional_call(engine.module, engine.layout.views(theta), (images.flatten(0, 1),)), labels)
        theta = theta - rate * torch.autograd.grad(loss, theta, create_graph=True)[0]
    return theta


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        *((spec, name) for spec in ("convnet:width=8", "convnet:width=8,norm=batch", "mlp:width=16") for name in ("reference", "torch")),
        pytest.param("convnet:width=8", "native", marks=needs_extension),
        pytest.param("convnet:width=8,norm=batch", "native", marks=needs_extension),
    ],
)
@pytest.mark.parametrize("steps", [1, 4])
def test_the_way_back_equals_double_backward_through_the_unrolled_training(spec: str, name: str, steps: int) -> None:
    _, module, theta = make_pair(spec, (1, 8, 8))
    engine = make_engine(name, module)
    images, rates = torch.randn(10, 3, 1, 8, 8, dtype=torch.float64), torch.rand(steps, dtype=torch.float64)
    cotangent = torch.randn_like(theta)
    leaves = images.clone().requires_grad_(), rates.clone().requires_grad_()
    last = plain_unroll(engine, theta.clone().requires_grad_(), *leaves)
    expected = torch.autograd.grad(last, leaves, cotangent)
    groups = class_groups([4] * len(images), 2)
    thetas = unrolled_steps(engine, theta, images, rates, groups)
    found = gradient_through_steps(engine, thetas, images, rates, cotangent, groups)
    assert relative(thetas[-1], last.detach()) < UNROLLED_FLOAT64
    for value, other in zip(found, expected, strict=True):
        assert not value.requires_grad
        assert relative(value, other) < UNROLLED_FLOAT64


def of_unit_size(value: Tensor) -> Tensor:
    return value / value.square().mean().sqrt()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_of_dd_is_double_backward_of_the_real_loss(engine: str) -> None:
    learner, state = digits_problem("dd:unroll=4,step_size=0.3,lr_step_sizes=0.5", engine=engine, iterations=8)
    state.iteration = 2  # a quarter is behind, three quarters of the step are left
    logs = state.learned["log_step_sizes"].add_(torch.linspace(-1, 1, 4)).clone().requires_grad_()
    images = state.stored.clone().requires_grad_()
    real = learner.problem.real_images(ALL, *state.moment)  # [10, 8, 1, 8, 8]
    theta = plain_unroll(learner.problem.engine, state.theta.clone().requires_grad_(), images, logs.exp())
    views = learner.problem.engine.layout.views(theta)
    loss = F.cross_entropy(functional_call(learner.problem.engine.module, views, (real.flatten(0, 1),)), ALL.classes.repeat_interleave(8))
    by_images, by_logs = torch.autograd.grad(loss, (images, logs))
    losses, gradient = learner.step(state, state.stored, ALL)
    assert losses.shape == (10,)
    assert relative(losses.sum(), loss.detach()) < UNROLLED_FLOAT64
    assert relative(gradient, 0.75 * of_unit_size(by_images)) < UNROLLED_FLOAT64
    assert relative(state.learned["log_step_sizes"], logs.detach() - 0.5 * 0.75 * of_unit_size(by_logs)) < UNROLLED_FLOAT64
    assert torch.equal(images.detach(), state.stored)


@pytest.mark.parametrize("distance", METRICS)
@pytest.mark.parametrize(
    ("method", "step"),
    [
        ("parameter_matching:unroll=3", 0),
        ("parameter_matching:unroll=3,compare=parameters", 0),
        ("curriculum:unroll=2", 2),
        ("curriculum:unroll=2,compare=parameters", 2),
    ],
)
def test_matching_of_paths_has_the_gradient_of_finite_differences(method: str, step: int, distance: str) -> None:
    learner, state = digits_problem(method, distance=distance, lr_model=0.3)
    for _ in range(step):
        learner.step(state, state.stored, ALL)
        state.step += 1

    def loss_at(images: Tensor) -> tuple[Tensor, Tensor]:
        return learner.step(dataclasses.replace(state, path=dict(state.path)), images, ALL)

    loss, gradient = loss_at(state.stored)
    assert loss.shape == ()
    for seed in range(3):
        move = torch.randn(state.stored.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        size = 1e-6 if distance == "l1" else 1e-4  # a longer step meets kinks
        slope = (loss_at(state.stored + size * move)[0] - loss_at(state.stored - size * move)[0]) / (2 * size)
        error = (gradient * move).sum() - 20 * slope  # the gradient is multiplied by the number of images
        assert abs(error) < UNROLLED_FINITE_DIFFERENCES * gradient.norm()


def test_parameter_matching_of_one_step_is_gradient_matching_of_all_classes_at_once() -> None:
    learner, state = digits_problem("parameter_matching:unroll=1")
    engine, theta = learner.problem.engine, state.theta
    target = engine.class_gradients(theta, learner.problem.real_images(ALL, *state.moment)).mean(0)
    loss, gradient = learner.step(state, state.stored, ALL)
    synthetic = engine.class_gradients(theta, state.stored).mean(0)
    distance, cotangent = layerwise_distance(synthetic[None], target[None], engine.layout)
    assert relative(loss, distance[0]) < UNROLLED_FLOAT64
    assert relative(gradient, 2 * engine.image_gradients(theta, state.stored, cotangent.expand(10, -1))) < UNROLLED_FLOAT64


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_of_dc_is_double_backward_of_the_rows_cosines(engine: str) -> None:
    learner, state = digits_problem("dc", engine=engine)
    real = learner.problem.real_images(ALL, *state.moment)  # [10, 8, 1, 8, 8]
    weights = {name: view.clone().requires_grad_() for name, view in learner.problem.engine.layout.views(state.theta).items()}
    images = state.stored.clone().requires_grad_()

    def rows(some: Tensor, c: int) -> list[Tensor]:
        loss = F.cross_entropy(functional_call(learner.problem.engine.module, weights, (some,)), torch.full((len(some),), c))
        return [g.flatten(1) for g in torch.autograd.grad(loss, list(weights.values()), create_graph=True) if g.dim() > 1]

    distances = []
    for c in range(10):
        pairs = zip(rows(images[c], c), rows(real[c], c), strict=True)
        distances.append(torch.cat([1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6) for a, b in pairs]).sum())
    expected = torch.stack(distances)
    losses, gradient = learner.step(state, state.stored, ALL)
    assert relative(losses, expected.detach()) < FLOAT64_ENGINES
    assert relative(gradient, torch.autograd.grad(expected.sum(), images)[0]) < FLOAT64_ENGINES


@pytest.mark.parametrize("method", RUNS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_by_groups_of_classes_is_that_of_all_at_once(method: str, engine: str) -> None:
    learner, state = digits_problem(method, engine=engine)
    losses, gradient = learner.step(state, state.stored, ALL)
    groups = class_groups([8] * 10, 3)
    assert [len(group) for group in groups] == [3, 3, 3, 1]
    learner, state = digits_problem(method, engine=engine, groups=groups)
    parts = [learner.step(state, state.stored[group.classes], group) for group in ([ALL] if learner.needs_all_classes else groups)]
    assert relative(torch.stack([part.sum() for part, _ in parts]).sum(), losses.sum()) < UNROLLED_FLOAT64
    assert relative(torch.cat([part for _, part in parts]), gradient) < UNROLLED_FLOAT64


def test_classes_of_unequal_size_give_all_they_have() -> None:
    data = noise_data((2, 9, 30, 5, 5, 5, 5, 5, 5, 5))
    counts = data.class_counts.clamp(max=8).tolist()
    learner, _ = digits_problem("dc", groups=class_groups(counts, 10))
    problem = dataclasses.replace(learner.problem, batches=RandomBatches(ClassSampler(data, 0, torch.float64)))
    assert [list(group.numbers) for group in problem.groups] == [[0], [1, 2], [3, 4, 5, 6, 7, 8, 9]]
    found = {number: some for group in problem.groups for number, some in zip(group.numbers, problem.real_images(group, 0, 0), strict=True)}
    for label, count in enumerate(counts):
        assert len(found[label]) == count
        own = {tuple(image.flatten().tolist()) for image in data.normalised(data.labels == label, torch.float64)}
        assert {tuple(image.flatten().tolist()) for image in found[label]} <= own


# The paths


def test_the_curriculum_takes_both_sides_further() -> None:
    learner, state = digits_problem("curriculum:unroll=2", lr_model=0.1)
    start = state.theta
    assert torch.equal(state.path["real"], start)
    lengths = []
    for _ in range(3):
        learner.step(state, state.stored, ALL)
        lengths.append([(side - start).norm().item() for side in (state.theta, state.path["real"])])
    assert all(later > earlier for a, b in itertools.pairwise(lengths) for earlier, later in zip(a, b, strict=True))
    assert torch.equal(state.path["start"], start)


def test_the_distance_is_of_mean_gradients_along_the_whole_path() -> None:
    learner, state = digits_problem("curriculum:unroll=2", lr_model=0.1, distance="mse")
    for steps in (2, 4, 6):
        loss, _ = learner.step(state, state.stored, ALL)
        state.step += 1
        difference = (state.theta - state.path["real"]) / (0.1 * steps)
        layout = learner.problem.engine.layout
        squares = torch.stack([layout.rows_of(difference, parameter).square().sum() for parameter in layout.seen()])
        assert relative(loss, squares.sum()) < UNROLLED_FLOAT64


def test_parameter_matching_trains_its_real_side_once() -> None:
    learner, state = digits_problem("parameter_matching:unroll=2")
    real, theta = [], state.theta.clone()
    for state.step in range(3):
        learner.step(state, state.stored, ALL)
        real.append(state.path["real"])
        assert torch.equal(state.theta, theta)
    assert real[0] is real[1] is real[2]


@pytest.mark.parametrize(("networks", "same"), [("random", False), ("fixed", True)])
def test_dd_takes_a_fresh_network_or_a_fixed_one(networks: str, same: bool) -> None:
    learner, state = digits_problem(f"dd:networks={networks}")
    weights = []
    for state.iteration in range(2):
        weights.append(pool_of(learner).next(state))
    assert torch.equal(*weights) == same


# Whole runs


@pytest.mark.parametrize(
    ("method", "iterations"), [("dc", 30), ("dd:unroll=5", 60), ("parameter_matching:unroll=3", 60), ("curriculum", 24)]
)
def test_every_method_learns_images_that_teach(method: str, iterations: int) -> None:
    train, test = fastdc.load_dataset("digits")
    losses = []

    def note(event: Event) -> None:
        if isinstance(event, IterationDone):
            losses.append(event.loss)

    options: dict[str, Any] = {"model": "convnet:width=16", "batch_real": 32, "progress": False}
    learned = fastdc.condense(train, 1, method=method, iterations=iterations, callbacks=[note], **options)
    start = fastdc.condense(train, 1, method="dc", iterations=1, lr_images=1e-30, **options)
    accuracies = [
        fastdc.evaluate(images, test, networks=2, epochs=100, model="convnet:width=16", progress=False).mean for images in (learned, start)
    ]
    assert accuracies[0] > accuracies[1] + 0.3
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", RUNS)
def test_engines_learn_the_same_images(method: str, engine: str) -> None:
    options = {**SHORT, "model": SMOOTH, "method": method, "iterations": 2, "matching_steps": 2}
    images, expected = (fastdc.condense("digits", engine=name, **options).images for name in (engine, "torch:memory=1"))
    assert relative(images, expected) < FLOAT32_ENGINES


@pytest.mark.parametrize("model", ["convnet:width=8", "convnet:width=8,norm=batch"])
@pytest.mark.parametrize("method", RUNS)
def test_a_run_interrupted_after_any_step_ends_in_the_same_bits(tmp_path: Path, every_step_kept: None, method: str, model: str) -> None:
    options = {**SHORT, "method": method, "model": model}
    whole = fastdc.condense("digits", **options)
    for _ in range(8):  # of nine steps, each in a call of its own
        with pytest.raises(InterruptedError):
            fastdc.condense("digits", out=tmp_path, callbacks=[stop_at(CheckpointWritten)], **options)
    again = fastdc.condense("digits", out=tmp_path, **options)
    assert torch.equal(again.images, whole.images)
    assert again.provenance == whole.provenance


@pytest.mark.parametrize("method", RUNS)
def test_classes_of_unequal_size_get_the_images_of_the_reference(method: str) -> None:
    options = {**SHORT, "method": method, "model": SMOOTH}
    found, expected = (fastdc.condense(noise_data((1, 9, 30)), engine=engine, **options).images for engine in ("auto", "reference"))
    assert relative(found, expected) < FLOAT32_ENGINES


def test_the_provenance_of_dd_holds_its_step_sizes_and_its_options_in_full() -> None:
    condensed = fastdc.condense("digits", **{**SHORT, "method": "dd:unroll=3", "matching_steps": None})
    assert len(condensed.provenance["step_sizes"]) == 3
    assert all(size > 0 and size != 0.1 for size in condensed.provenance["step_sizes"])
    config = condensed.provenance["config"]
    assert config["match"] == "dd:unroll=3,step_size=0.1,lr_step_sizes=0.01"
    assert config["pool"] == "fresh:train=none,networks=random"
    assert (config["matching_steps"], config["model_epochs"]) == (1, None)


def test_a_step_size_far_too_large_stops_the_run_with_advice() -> None:
    options = {**SHORT, "model": "mlp:width=8", "method": "dd:step_size=1e30"}
    with pytest.raises(RunError, match=r"not finite at iteration 1, step 1, class '0'\. Lower lr_images .* step_size \(1e\+30\)"):
        fastdc.condense("digits", **options)


def test_a_loss_of_all_classes_together_that_is_not_finite_blames_none_of_them() -> None:
    options = {**SHORT, "model": "mlp:width=8", "method": "parameter_matching", "lr_model": 1e38}
    with pytest.raises(RunError, match=r"not finite at iteration 1, step 1\. Lower lr_images .* lr_model \(1e\+38\)"):
        fastdc.condense("digits", **options)


# What cannot be used


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "ddd"}, "unknown method 'ddd'. Did you mean 'dd'.* Known: accdd, auto, curriculum, dance, dc, dd"),
        ({"method": "dc:unroll=3"}, "unknown option of 'dc' 'unroll'.*Known: .*cross_entropy.*networks, train"),
        ({"match": "gradient"}, "unknown match 'gradient'. Did you mean 'gradients'"),
        ({"match": "gradients:unroll=3"}, "unknown option of 'gradients' 'unroll'.*Known: cross_entropy"),
        ({"batches": "random:unroll=3"}, "batches 'random' takes no options; 'random:unroll=3' gives unroll"),
        ({"pool": "fresh:train=reel"}, "unknown train 'reel'. Did you mean 'real'.*none, real, synthetic"),
        ({"batches": "randoms"}, "unknown batches 'randoms'. Did you mean 'random'.*random, representatives"),
        ({"augmentation": "blurred"}, "unknown augmentation 'blurred'.*none, siamese"),
        ({"formation": 3}, "formation is 3; expected one of frequency, plain"),
        ({"pool": ["fresh"]}, r"pool is \['fresh'\]; expected one of fresh"),
        ({"distance": ["l1"]}, r"metric is \['l1'\]; expected one of cosine"),
        ({"method": "dd:unrol=3"}, "unknown option of 'dd' 'unrol'. Did you mean 'unroll'"),
        ({"method": "dd:unroll=0"}, "unroll is 0; expected a whole number of 1 or more"),
        ({"method": "dd:unroll=few"}, "unroll=few in 'dd:unroll=few' is not a whole number"),
        ({"method": "dd:step_size=small"}, "step_size=small in 'dd:step_size=small' is not a number"),
        ({"method": "dd:step_size=-1"}, "step_size is -1.0; expected a finite number above 0"),
        ({"method": "dd:lr_step_sizes=nan"}, "lr_step_sizes is nan; expected a finite number above 0"),
        ({"method": "dd:networks=fix"}, "unknown networks 'fix'. Did you mean 'fixed'"),
        ({"method": "curriculum:compare=weights"}, "unknown compare 'weights'.*displacement, parameters"),
        (
            {"method": "dd", "model_epochs": 5},
            "model_epochs is 5, but pool 'fresh' trains no network on the images between matching steps; leave it out",
        ),
        ({"method": 3}, "method is 3; expected one of accdd, auto, curriculum"),
    ],
)
def test_a_method_that_cannot_be_used(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        fastdc.condense("digits", **{**SHORT, **options})


# Recipes


def test_a_recipe_and_its_parts_given_one_by_one_are_the_method_of_that_name() -> None:
    expected = fastdc.condense("digits", **{**SHORT, "method": "curriculum:unroll=2"})
    for options in (
        {"method": dataclasses.replace(fastdc.RECIPES["curriculum"], match="curriculum:unroll=2")},
        {"method": "dc", "match": "curriculum:unroll=2", "pool": "fresh"},
    ):
        found = fastdc.condense("digits", **{**SHORT, **options})
        assert torch.equal(found.images, expected.images)
        assert {**found.provenance["config"], "method": ""} == {**expected.provenance["config"], "method": ""}


def test_what_is_given_replaces_that_part_of_a_recipe() -> None:
    recipe = fastdc.Recipe(iterations=2, matching_steps=2, batch_real=8, lr_images=0.3, init="real")
    found = fastdc.condense("digits", 1, method=recipe, model="mlp:width=8", lr_images=0.2, progress=False).provenance["config"]
    assert (found["method"], found["iterations"], found["lr_images"], found["init"]) == ("custom", 2, 0.2, "real")


def test_networks_that_are_trained_differ_from_those_that_are_not() -> None:
    trained = fastdc.condense("digits", **{**SHORT, "model_epochs": 2}).images
    assert not torch.equal(trained, fastdc.condense("digits", **{**SHORT, "pool": "fresh"}).images)
    assert torch.equal(trained, fastdc.condense("digits", **{**SHORT, "model_epochs": 2, "pool": "fresh:train=synthetic"}).images)


def test_the_way_of_version_0_1_to_a_method_of_ones_own_is_refused_with_the_new_one() -> None:
    from fastdc.methods import register

    with pytest.raises(UsageError, match=r"fastdc\.recipe\.MATCHES\.add\('mine', \.\.\.\), and give method=fastdc\.Recipe\(match='mine'\)"):
        register("mine", object)


# A match of one's own


@dataclasses.dataclass(frozen=True)
class DriftOptions:
    speed: float = 0.5


class Drift(Match):
    """Moves the images by what it has learned, kept and drawn."""

    Options = DriftOptions
    needs_all_classes = True

    def learned(self) -> dict[str, Tensor]:
        return {"count": torch.zeros(())}

    def begin(self, state: State) -> None:
        assert not state.path
        state.path = {"kept": torch.full((3,), float(state.iteration))}

    def step(self, state: State, images: Tensor, group: ClassGroup) -> tuple[Tensor, Tensor]:
        state.learned["count"] += self.options.speed
        state.path["kept"] += torch.rand((), generator=make_generator(self.problem.seed, "drift", *state.moment))
        return state.path["kept"].sum(), torch.full_like(images, (state.learned["count"].nan_to_num() + state.path["kept"][0]).item())


@pytest.fixture
def drift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MATCHES, "_entries", dict(MATCHES._entries))
    MATCHES.add("drift", Drift)


def test_a_match_that_was_added_runs_and_what_it_keeps_survives(tmp_path: Path, drift: None, every_step_kept: None) -> None:
    options = {**SHORT, "method": fastdc.Recipe(match="drift:speed=2")}
    whole = fastdc.condense("digits", **options)
    assert whole.provenance["config"]["match"] == "drift:speed=2.0"

    for _ in range(8):
        with pytest.raises(InterruptedError):
            fastdc.condense("digits", out=tmp_path, callbacks=[stop_at(CheckpointWritten)], **options)
    assert torch.equal(fastdc.condense("digits", out=tmp_path, **options).images, whole.images)
    assert not torch.equal(fastdc.condense("digits", **{**options, "match": "drift"}).images, whole.images)


def test_what_a_match_learns_must_stay_finite(drift: None) -> None:
    with pytest.raises(RunError, match=r"learns beside the images \(count\) is not finite at iteration 1, step 1\."):
        fastdc.condense("digits", **{**SHORT, "match": "drift:speed=nan"})


def test_adding_what_cannot_be_a_match_is_refused(drift: None) -> None:
    MATCHES.add("drift", Drift)  # again, as a notebook does
    for name, cls, match in (
        ("gradients", Drift, "'gradients' is a match of fastdc; choose another name than gradients, features, characteristic, dd"),
        ("my match", Drift, "the name of a match is 'my match'; expected a word"),
        ("mine", 3, "match 'mine' is 3; expected a class whose Options is a frozen dataclass"),
        ("mine", type("Mine", (Drift,), {"Options": dict}), "expected a class whose Options is a frozen dataclass"),
    ):
        with pytest.raises(UsageError, match=match):
            MATCHES.add(name, cls)
