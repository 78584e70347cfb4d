"""One step of each method beside a plain double-backward Dataset Distillation: its time, and its peak memory over images per class.

ConvNet of width 32, 10 classes, 28x28 grey images, 64 real ones per class, 10 steps of SGD where a method unrolls. `dd, plain` keeps
the graph of the whole training, as authors' scripts do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from processes import peak_mib
from torch import Tensor
from torch.func import functional_call

from fastdc.data import ClassSampler, ImageData
from fastdc.engines import make_engine
from fastdc.loop.config import CondenseConfig, recipe_of, resolved
from fastdc.models.network import NetworkFamily
from fastdc.recipe import MATCHES, POOLS, ClassGroup, Match, Problem
from fastdc.recipe.augmentations import NoAugmentation
from fastdc.recipe.batches import RandomBatches
from fastdc.recipe.match.unrolled import gradient_through_steps, unrolled_steps
from fastdc.recipe.state import State

MODEL, CLASSES, REAL, UNROLL, RATE = "convnet:width=32", 10, 64, 10, 0.1
ALL = ClassGroup.of(range(CLASSES))
METHODS = ["dc", f"dd:unroll={UNROLL}", f"parameter_matching:unroll={UNROLL}", "curriculum", "dd, plain"]
TOLERANCE = 1e-9  # in float64: in float32 a ReLU input near zero that changes sign changes all steps after it

STEP = """
import sys, torch
from bench_methods import problem, step_of
spec, ipc = sys.argv[1], int(sys.argv[2])
if ipc:
    step_of(spec, *problem(spec, ipc))()
"""


def problem(spec: str, ipc: int, dtype: torch.dtype = torch.float32) -> tuple[Match, State]:
    """A method by the engine that `auto` takes, and the state before its first step, on images of noise."""
    torch.manual_seed(0)
    data = ImageData.of(torch.randint(256, (CLASSES * REAL, 1, 28, 28), dtype=torch.uint8), torch.arange(CLASSES * REAL) % CLASSES)
    method = spec if spec != "dd, plain" else f"dd:unroll={UNROLL}"
    config = resolved(CondenseConfig(ipc=ipc, model=MODEL, method=method, batch_real=REAL))
    family = NetworkFamily(MODEL, 1, CLASSES, (28, 28), torch.device("cpu"))
    images = torch.randn(CLASSES, ipc, 1, 28, 28, dtype=dtype)
    engine, sampler = make_engine("auto", family.fresh(0).to(dtype)), ClassSampler(data, 0, dtype)
    problem = Problem(recipe_of(config), 0, engine, family, RandomBatches(sampler), NoAugmentation(0), [ALL])
    assert config.match is not None
    assert config.pool is not None
    learner = MATCHES.make(config.match, problem)
    state = State(images, {}, learned=learner.learned())
    state.theta = POOLS.make(config.pool, problem).next(state).to(dtype)
    learner.begin(state)
    return learner, state


def plain_gradients(learner: Match, state: State) -> tuple[Tensor, Tensor]:
    """The gradient of the real loss by the images and by the step sizes, by autograd through all steps at once."""
    engine, labels = learner.problem.engine, torch.arange(CLASSES)
    images, rates = state.stored.clone().requires_grad_(), torch.full((UNROLL,), RATE, dtype=torch.float64, requires_grad=True)
    assert state.theta is not None
    theta = state.theta.clone().requires_grad_()
    module, views = engine.module, engine.layout.views
    known = labels.repeat_interleave(images.shape[1])
    for rate in rates:
        loss = F.cross_entropy(functional_call(module, views(theta), (images.flatten(0, 1),)), known)
        theta = theta - rate * torch.autograd.grad(loss, theta, create_graph=True)[0]
    real = learner.problem.real_images(ALL, *state.moment).flatten(0, 1)
    loss = F.cross_entropy(functional_call(module, views(theta), (real,)), labels.repeat_interleave(REAL))
    by_images, by_rates = torch.autograd.grad(loss, (images, rates))
    return by_images, by_rates


def step_of(spec: str, learner: Match, state: State) -> Any:
    """What is timed: a step, always the same one."""
    theta, path = state.theta, dict(state.path)

    def step() -> object:
        state.theta, state.path = theta, dict(path)
        return plain_gradients(learner, state) if spec == "dd, plain" else learner.step(state, state.stored, ALL)

    return step


def error_of_dd(ipc: int) -> float:
    """The relative error of dd's gradient by the images against the plain one, in float64; more than rounding fails."""
    learner, state = problem(f"dd:unroll={UNROLL}", ipc, torch.float64)
    engine = learner.problem.engine
    expected, _ = plain_gradients(learner, state)
    rates = torch.full((UNROLL,), RATE, dtype=torch.float64)
    assert state.theta is not None
    thetas = unrolled_steps(engine, state.theta, state.stored, rates, [ALL])
    cotangent = engine.class_gradients(thetas[-1], learner.problem.real_images(ALL, *state.moment)).mean(0)
    found, _ = gradient_through_steps(engine, thetas, state.stored, rates, cotangent, [ALL])
    error = ((found - expected).norm() / expected.norm()).item()
    assert error < TOLERANCE
    return error


@pytest.mark.parametrize("spec", METHODS)
@pytest.mark.parametrize("ipc", [1, 10])
def bench_step(timed: Any, spec: str, ipc: int) -> None:
    extra = {"error": error_of_dd(ipc)} if spec.startswith("dd") else {}
    timed("one step", step_of(spec, *problem(spec, ipc)), **extra)


def bench_memory(record: Callable[..., None]) -> None:
    script = f"import sys; sys.path.insert(0, {sys.path[0]!r})\n{STEP}"
    rows = {
        (spec, ipc): peak_mib(script, spec, ipc)
        for spec, ipcs in [
            ("dc", (0, 1, 10, 50, 100)),
            (METHODS[1], (1, 10, 50, 100, 200)),
            (METHODS[2], (10,)),
            (METHODS[3], (10,)),
            (METHODS[4], (1, 10)),
        ]
        for ipc in ipcs
    }
    idle = rows.pop(("dc", 0))
    for (spec, ipc), peak in rows.items():
        record("peak memory of one step", spec=spec, ipc=ipc, mib=peak, idle_mib=idle)
    # Beyond the images themselves: they, their gradient and what their update keeps are four copies.
    images = 4 * 1000 * 28 * 28 * 4 / 2**20  # MiB of 100 more of each class
    assert rows[METHODS[1], 200] - images - idle < 1.3 * (rows[METHODS[1], 100] - idle)
    assert rows[METHODS[1], 10] < rows[METHODS[4], 10]
