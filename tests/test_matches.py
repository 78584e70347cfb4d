"""Matches that compare class by class, each against a plain script through which autograd goes; and the cross-entropy that may be added."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import needs_extension, relative, stop_at
from test_methods import ALL, SHORT, digits_problem
from test_recipe_parts import HeadFirst
from tolerances import FLOAT32_ENGINES, FLOAT64_CLOSED_FORM, FLOAT64_ENGINES, UNROLLED_FINITE_DIFFERENCES
from torch import Tensor, nn
from torch.func import functional_call

import fastdc
from fastdc.engines import make_engine
from fastdc.errors import UsageError
from fastdc.recipe import Match
from fastdc.recipe.groups import class_groups
from fastdc.recipe.match.characteristic import characteristic_distance
from fastdc.recipe.state import State
from fastdc.runtime.seeding import make_generator

ENGINES = ["reference", "torch", "torch:memory=1", pytest.param("native", marks=needs_extension)]


# The plain scripts: the loss of one class


def plain_features(module: nn.Module, weights: dict[str, Tensor], images: Tensor) -> Tensor:
    own = {name.removeprefix("features."): value for name, value in weights.items() if name.startswith("features.")}
    return functional_call(module.features, own, (images,)).flatten(1)


def plain_gradients(module: nn.Module, weights: dict[str, Tensor], images: Tensor, c: int) -> list[Tensor]:
    loss = F.cross_entropy(functional_call(module, weights, (images,)), torch.full((len(images),), c))
    return list(torch.autograd.grad(loss, list(weights.values()), create_graph=True))


def of_means(module: nn.Module, weights: dict[str, Tensor], images: Tensor, real: Tensor, c: int) -> Tensor:
    return ((plain_features(module, weights, images).mean(0) - plain_features(module, weights, real).mean(0)) ** 2).sum()


def of_characteristics(count: int, amplitude: float) -> Callable[..., Tensor]:
    def distance(module: nn.Module, weights: dict[str, Tensor], images: Tensor, real: Tensor, c: int) -> Tensor:
        sides = [F.normalize(plain_features(module, weights, side), dim=1) for side in (images, real)]
        frequencies = torch.randn(count, sides[0].shape[1], generator=make_generator(0, "frequencies", 0, 0)).double()
        return plain_characteristic(*sides, frequencies, amplitude)

    return distance


def plain_characteristic(units: Tensor, real: Tensor, frequencies: Tensor, amplitude: float) -> Tensor:
    phi, psi = (torch.exp(1j * (frequencies @ side.T)).mean(1) for side in (units, real))  # [F]
    by_amplitude, by_phase = (phi.abs() - psi.abs()) ** 2, 2 * (phi.abs() * psi.abs() - (phi * psi.conj()).real)
    return 300 * (amplitude * by_amplitude + (1 - amplitude) * by_phase).sqrt().mean()


def of_gradients(norm: Callable[[Tensor], Tensor], least: int) -> Callable[..., Tensor]:
    """The sum over all elements of parameters of `least` dimensions or more; least = 3: as IDC compares convolutions."""

    def distance(module: nn.Module, weights: dict[str, Tensor], images: Tensor, real: Tensor, c: int) -> Tensor:
        pairs = zip(plain_gradients(module, weights, images, c), plain_gradients(module, weights, real, c), strict=True)
        return torch.stack([norm(one - other.detach()).sum() for one, other in pairs if one.dim() >= least]).sum()

    return distance


# a match to which an option may be added, distance, the same as a plain script
PLAIN: dict[str, tuple[str, str, Callable[..., Tensor]]] = {
    "features": ("features:", "mse", of_means),
    "characteristic": ("characteristic:frequencies=64,", "mse", of_characteristics(64, 0.5)),
    "characteristic, phases": ("characteristic:frequencies=33,amplitude=0.1,", "mse", of_characteristics(33, 0.1)),
    "characteristic, amplitudes": ("characteristic:frequencies=33,amplitude=1,", "mse", of_characteristics(33, 1.0)),
    "gradients, l1 of convolutions": ("gradients:", "l1:rows=convolutions", of_gradients(torch.abs, 3)),
    "gradients, mse of convolutions": ("gradients:", "mse:rows=convolutions", of_gradients(torch.square, 3)),
    "gradients, mse": ("gradients:", "mse", of_gradients(torch.square, 2)),
}


def plain_step(learner: Match, state: State, distance: Callable[..., Tensor], weight: float) -> tuple[Tensor, Tensor]:
    module = learner.problem.engine.module
    weights = {name: view.clone().requires_grad_() for name, view in learner.problem.engine.layout.views(state.theta).items()}
    images, real = state.stored.clone().requires_grad_(), learner.problem.real_images(ALL, *state.moment)
    losses = []
    for c in range(10):
        entropy = F.cross_entropy(functional_call(module, weights, (images[c],)), torch.full((len(images[c]),), c))
        losses.append(distance(module, weights, images[c], real[c], c) + weight * entropy)
    return torch.stack(losses).detach(), torch.autograd.grad(torch.stack(losses).sum(), images)[0]


@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("match", "metric", "distance"), PLAIN.values(), ids=PLAIN)
def test_a_step_is_that_of_a_plain_script(match: str, metric: str, distance: Callable[..., Tensor], engine: str, weight: float) -> None:
    learner, state = digits_problem("dc", match=f"{match}cross_entropy={weight}", distance=metric, engine=engine)
    losses, gradient = learner.step(state, state.stored, ALL)
    expected, by_images = plain_step(learner, state, distance, weight)
    assert relative(losses, expected) < FLOAT64_ENGINES
    assert relative(gradient, by_images) < FLOAT64_ENGINES


def test_characteristic_functions_have_the_same_bits_for_any_number_of_threads(one_thread: None) -> None:
    learner, state = digits_problem("dc", match="characteristic:frequencies=2000")
    features = torch.randn(2, 10, 300, 500)
    found, real = features[0, :, :7], features[1]
    for classes in (10, 1):
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(learner.compare_features(state, found[:classes], real[:classes]))
        for other in results[1:]:
            assert all(torch.equal(*pair) for pair in zip(results[0], other, strict=True))


# The cross-entropy


MATCHES = ["gradients:", "features:", "characteristic:frequencies=50,"]  # to which an option may be added


@pytest.mark.parametrize("match", MATCHES)
def test_the_cross_entropy_is_computed_only_where_it_is_asked_for(match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Tensor:
        raise AssertionError("logits were asked for")

    learner, state = digits_problem("dc", match=match)
    monkeypatch.setattr(learner.problem.engine, "logits", refuse)
    learner.step(state, state.stored, ALL)


@pytest.mark.parametrize("match", MATCHES)
def test_a_group_of_classes_gets_what_it_gets_among_all(match: str) -> None:
    learner, state = digits_problem("dc", match=match + "cross_entropy=2")
    losses, gradient = learner.step(state, state.stored, ALL)
    for group in class_groups([8] * 10, 3):
        some, by_images = learner.step(state, state.stored[group.classes], group)
        assert relative(some, losses[group.classes]) < FLOAT64_ENGINES
        assert relative(by_images, gradient[group.classes]) < FLOAT64_ENGINES


class Bounded(HeadFirst):
    """Its logits are not what its last linear layer gives."""

    def forward(self, images: Tensor) -> Tensor:
        return 3 * super().forward(images).tanh()


@pytest.mark.parametrize("engine", ["reference", "torch", "torch:memory=1"])
def test_logit_gradients_are_those_of_the_logits_whatever_follows_the_last_layer(engine: str) -> None:
    module = Bounded(1, 10, (8, 8)).double()
    images, cotangent = torch.randn(70, 1, 8, 8, dtype=torch.float64), torch.randn(70, 10, dtype=torch.float64)
    made = make_engine(engine, module)
    leaf = images.clone().requires_grad_()
    expected = torch.autograd.grad((module(leaf) * cotangent).sum(), leaf)[0]
    found = made.logit_gradients(made.layout.flatten(module), images, cotangent)
    assert relative(found, expected) < FLOAT64_ENGINES
    assert not found.requires_grad


# Characteristic functions


def rows(count: int, seed: int, size: int = 6) -> Tensor:
    return torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("amplitude", [0.0, 0.3, 0.5, 1.0])
def test_the_gradient_of_the_distance_is_its_slope(amplitude: float) -> None:
    found, real, frequencies = rows(3, 0), rows(7, 1), rows(20, 2)
    distance, gradient = characteristic_distance(found, real, frequencies, amplitude)
    assert distance > 1
    for seed in range(3, 6):
        move, step = rows(3, seed), 1e-5
        ahead, behind = (characteristic_distance(found + sign * step * move, real, frequencies, amplitude)[0] for sign in (1, -1))
        assert abs((ahead - behind) / (2 * step) - (gradient * move).sum()) < UNROLLED_FINITE_DIFFERENCES * gradient.norm() * move.norm()


@pytest.mark.parametrize("amplitude", [0.0, 0.3, 0.5, 1.0])
def test_the_length_of_features_does_not_count(amplitude: float) -> None:
    found, real, frequencies = rows(3, 0), rows(7, 1), rows(20, 2)
    distance, gradient = characteristic_distance(found, real, frequencies, amplitude)
    longer, by_longer = characteristic_distance(4 * found, 0.1 * real, frequencies, amplitude)
    assert relative(longer, distance) < FLOAT64_CLOSED_FORM
    assert relative(4 * by_longer, gradient) < FLOAT64_CLOSED_FORM
    assert (gradient * found).sum(1).abs().max() < FLOAT64_CLOSED_FORM * gradient.norm() * found.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("amplitude", [0.0, 0.3, 0.5, 1.0])
def test_equal_features_are_no_distance_apart_and_stay(amplitude: float, dtype: torch.dtype) -> None:
    some, frequencies = rows(5, 0).to(dtype), rows(20, 2).to(dtype)
    distance, gradient = characteristic_distance(some, some.clone(), frequencies, amplitude)
    assert distance == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("amplitude", [0.0, 0.1, 0.5, 1.0])
def test_nearly_equal_features_have_a_finite_gradient(amplitude: float, dtype: torch.dtype) -> None:
    """So near that what is under the root is as small as its rounding."""
    some, frequencies = rows(5, 0).to(dtype), rows(500, 2).to(dtype)
    near = some + 10 * torch.finfo(dtype).eps * rows(5, 1).to(dtype)
    distance, gradient = characteristic_distance(some, near, frequencies, amplitude)
    assert distance < 1
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("amplitude", [0.0, 0.5, 1.0])
def test_features_without_a_direction_stay_and_spoil_no_other(amplitude: float, dtype: torch.dtype) -> None:
    found, real, frequencies = rows(3, 0).to(dtype), rows(7, 1).to(dtype), rows(20, 2).to(dtype)
    found[1], real[4] = 0, 0
    distance, gradient = characteristic_distance(found, real, frequencies, amplitude)
    assert distance.isfinite()
    assert gradient.isfinite().all()
    assert (gradient[1] == 0).all()
    assert (gradient[[0, 2]] != 0).all()
    units = F.normalize(found.double()), F.normalize(real.double())
    assert relative(distance, plain_characteristic(*units, frequencies.double(), amplitude)) < FLOAT32_ENGINES


@pytest.mark.parametrize("amplitude", [0.0, 0.3, 0.5, 1.0])
def test_waves_that_cancel_have_a_finite_gradient(amplitude: float) -> None:
    """Two phases that differ by pi: the mean of the waves is 0 but for rounding, and for every twentieth frequency 0."""
    first = torch.linspace(0.1, 3, 4001, dtype=torch.float64)
    frequencies = torch.stack([first, first + torch.pi], 1)  # [4001, 2]
    found, real = torch.eye(2, dtype=torch.float64), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    distance, gradient = characteristic_distance(found, real, frequencies, amplitude)
    assert abs(distance / 300 - amplitude**0.5) < FLOAT32_ENGINES  # the amplitudes are 0 and 1
    assert gradient.isfinite().all()


def test_what_is_no_number_is_kept() -> None:
    found = rows(3, 0)
    found[1, 2] = float("nan")
    distance, gradient = characteristic_distance(found, rows(7, 1), rows(20, 2), 0.5)
    assert distance.isnan()
    assert gradient.isnan().all()


def losses_at(iteration: int, step: int, seed: int = 0) -> Tensor:
    learner, state = digits_problem("dc", match="characteristic:frequencies=16")
    learner.problem = dataclasses.replace(learner.problem, seed=seed)
    state.iteration, state.step = iteration, step
    return learner.compare_features(state, rows(4, 0)[None], rows(9, 1)[None])[0]


def test_each_step_draws_frequencies_of_its_own_and_the_same_ones_again() -> None:
    first = losses_at(2, 1)
    assert torch.equal(losses_at(2, 1), first)
    for other in (losses_at(2, 2), losses_at(1, 1), losses_at(2, 1, seed=1)):
        assert not torch.equal(other, first)


# Whole runs


@pytest.mark.parametrize(
    "match", ["characteristic:frequencies=50,cross_entropy=0.5", "features:cross_entropy=0.5", "gradients:cross_entropy=0.5"]
)
def test_a_run_interrupted_in_the_middle_ends_in_the_same_bits(match: str, tmp_path: Path) -> None:
    options = {**SHORT, "match": match, "out": tmp_path / "cut"}
    whole = fastdc.condense("digits", **{**options, "out": tmp_path / "whole"})
    with pytest.raises(InterruptedError):
        fastdc.condense("digits", callbacks=[stop_at(iteration=2)], **options)
    assert torch.equal(fastdc.condense("digits", **options).images, whole.images)
    assert not torch.equal(fastdc.condense("digits", **{**SHORT, "match": match.replace("0.5", "0")}).images, whole.images)


# What cannot be used


@pytest.mark.parametrize(
    ("match", "message"),
    [
        *((f"{name}cross_entropy=-1", "cross_entropy is -1.0; expected a finite number of 0 or more") for name in MATCHES),
        ("characteristic:cross_entropy=inf", "cross_entropy is inf; expected a finite number of 0 or more"),
        ("characteristic:cross_entropy=nan", "cross_entropy is nan; expected a finite number of 0 or more"),
        ("features:cross_entropy=much", "cross_entropy=much in 'features:cross_entropy=much' is not a number"),
        ("characteristic:frequencies=0", "frequencies is 0; expected a whole number of 1 or more"),
        ("characteristic:amplitude=1.5", "amplitude is 1.5; expected a number from 0 to 1"),
        ("characteristic:amplitude=nan", "amplitude is nan; expected a number from 0 to 1"),
        ("features:frequencies=8", "unknown option of 'features' 'frequencies'.*cross_entropy"),
    ],
)
def test_options_that_cannot_be_used(match: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fastdc.condense("digits", **{**SHORT, "match": match})
