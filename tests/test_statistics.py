"""Batch norms in matching: their running statistics go along with a network as in a plain script with `train()` and `eval()`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import needs_extension, noise_data, relative
from tolerances import FLOAT32_ENGINES, FLOAT64_ENGINES
from torch import Tensor, nn

from fastdc.data import ClassSampler
from fastdc.engines.base import batch_norms
from fastdc.loop.config import CondenseConfig, resolved
from fastdc.loop.loop import Condensation
from fastdc.models import build
from fastdc.models.network import NetworkFamily
from fastdc.runtime.seeding import derive_seed

pytestmark = pytest.mark.usefixtures("one_thread")
ENGINES = ["reference", "torch", "cuda", pytest.param("native", marks=needs_extension)]
COUNTS, SEED, STEPS, EPOCHS = (30, 9, 20), 5, 3, 2
DATA = noise_data(COUNTS)


def network(channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
    return build("convnet:width=4,depth=2,norm=batch,activation=swish", channels, classes, size)


def condensation_of(engine: str, doubled: bool = True, **changes: Any) -> Condensation:
    options = {"iterations": 2, "matching_steps": STEPS, "model_epochs": EPOCHS, "batch_real": 8, "seed": SEED, **changes}
    given = CondenseConfig(ipc=2, engine=engine, device="cpu", **options)
    family = NetworkFamily(network, 1, len(COUNTS), (8, 8), torch.device("cpu"))
    if doubled:
        family.model = lambda *shape: network(*shape).double()  # a family tries the network that it is given on images of float32
    made = Condensation(resolved(given), DATA, family, (), False)
    if doubled:
        made.sampler.dtype = torch.float64
        made.state.stored = made.state.stored.double()
        made.state.moments = {name: value.double() for name, value in made.state.moments.items()}
    return made


class PlainScript:
    """The paper's loop over one network after another, each in training mode where it learns or looks at real images."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.velocity = list(images.split(2)), [torch.zeros(())] * len(COUNTS)
        self.sampler = ClassSampler(DATA, SEED, torch.float64)

    def real(self, label: int, count: int, *key: str | int) -> Tensor:
        return DATA.normalised(self.sampler.indices([label], count, *key)[0], torch.float64)

    def steps(self, iteration: int, module: nn.Module) -> list[Tensor]:
        """The running statistics after each of the steps with one network."""
        found = []
        for step in range(STEPS):
            module.train()
            module(torch.cat([self.real(label, 16, "statistics", iteration, step) for label in range(len(COUNTS))]))
            module.eval()
            for label in range(len(COUNTS)):
                self.move(label, module, self.real(label, 8, "real images", iteration, step, 0))
            if step + 1 < STEPS:
                self.train(module)
            found.append(statistics_of(module))
        return found

    def move(self, label: int, module: nn.Module, real: Tensor) -> None:
        leaf = self.images[label].clone().requires_grad_()
        distance = torch.zeros((), dtype=torch.float64)
        for a, b in zip(self.gradients(module, leaf, label), self.gradients(module, real, label), strict=True):
            if a.dim() > 1:
                a, b = a.flatten(1), b.flatten(1)
                distance = distance + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
        self.velocity[label] = 0.5 * self.velocity[label] + torch.autograd.grad(distance, leaf)[0]
        self.images[label] = self.images[label] - 0.1 * self.velocity[label]

    def gradients(self, module: nn.Module, images: Tensor, label: int) -> tuple[Tensor, ...]:
        loss = F.cross_entropy(module(images), torch.full((len(images),), label))
        return torch.autograd.grad(loss, list(module.parameters()), create_graph=True)

    def train(self, module: nn.Module) -> None:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        module.train()
        for _ in range(EPOCHS):
            optimizer.zero_grad()
            F.cross_entropy(module(torch.cat(self.images)), torch.arange(len(COUNTS)).repeat_interleave(2)).backward()
            optimizer.step()
        module.eval()


def statistics_of(module: nn.Module) -> Tensor:
    """The running means and variances of all batch norms."""
    return torch.cat([values.clone() for norm in batch_norms(module) for values in (norm.running_mean, norm.running_var)])


@pytest.mark.parametrize("engine", ENGINES)
def test_statistics_go_along_with_each_network_as_in_a_plain_script(engine: str) -> None:
    condensation = condensation_of(engine)
    script = PlainScript(condensation.state.stored.clone())
    for iteration in range(2):
        expected = script.steps(iteration, condensation.family.fresh(derive_seed(SEED, "network", iteration)))
        for statistics in expected:
            condensation.take_step()
            assert relative(statistics_of(condensation.engine.module), statistics) < FLOAT64_ENGINES
        assert relative(condensation.state.stored, torch.cat(script.images)) < FLOAT64_ENGINES


@pytest.mark.parametrize("engine", ENGINES)
def test_a_state_holds_the_statistics_that_the_rest_of_a_run_depends_on(engine: str) -> None:
    one, other = condensation_of(engine, doubled=False), condensation_of(engine, doubled=False)
    one.take_step()
    other.state = copy.deepcopy(one.state)
    for _ in range(STEPS):  # into the next network
        one.take_step()
        other.take_step()
        assert torch.equal(statistics_of(one.engine.module), statistics_of(other.engine.module))
    assert torch.equal(one.state.stored, other.state.stored)


def statistics_of_real_images(condensation: Condensation, theta: Tensor, step: int) -> Tensor:
    """Those of the real images of a step of the first network alone."""
    real = [condensation.sampler.indices([label], 16, "statistics", 0, step)[0] for label in range(len(COUNTS))]
    module = condensation.family.fresh(0)
    for norm in batch_norms(module):
        norm.momentum = 1.0
    torch.func.functional_call(module.train(), condensation.engine.layout.views(theta), (DATA.normalised(torch.cat(real)),))
    return statistics_of(module)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"pool": "pretrained:networks=1,epochs=1", "model_epochs": None}, 1),
        ({"match": "features", "pool": "fresh:train=none", "model_epochs": None}, 2),
        ({"match": "characteristic", "pool": "fresh:train=none", "model_epochs": None}, 2),
        ({"match": "parameter_matching", "pool": "fresh:train=none", "model_epochs": None}, 2),
    ],
    ids=["trained networks", "features", "characteristic", "parameter_matching"],
)
def test_trained_networks_and_other_matches_have_the_statistics_of_real_images(changes: dict[str, Any], steps: int) -> None:
    condensation = condensation_of("torch", doubled=False, **changes)
    for step in range(steps):
        condensation.take_step()
        theta = condensation.state.theta
        assert theta is not None
        assert relative(statistics_of(condensation.engine.module), statistics_of_real_images(condensation, theta, step)) < FLOAT32_ENGINES


def test_a_step_in_the_middle_of_a_network_that_has_kept_none_takes_those_of_real_images() -> None:
    condensation = condensation_of("torch", doubled=False)
    condensation.take_step()
    condensation.state.path = {}  # as in a checkpoint of a version before
    theta = condensation.state.theta
    assert theta is not None
    expected = statistics_of_real_images(condensation, theta, 1)
    condensation.statistics.follow(condensation.state)
    assert relative(statistics_of(condensation.engine.module), expected) < FLOAT32_ENGINES


def test_networks_begin_with_the_statistics_that_their_function_gives() -> None:
    def loaded(*shape: Any) -> nn.Module:
        module = network(*shape)
        for norm in batch_norms(module):
            norm.running_mean.fill_(3.0)
        return module

    condensation = condensation_of("torch", doubled=False)
    condensation.family.model = loaded
    condensation = Condensation(condensation.config, DATA, condensation.family, (), False)
    for _ in range(STEPS + 1):  # one step with a second network
        condensation.take_step()
    for norm in batch_norms(condensation.engine.module):
        assert norm.num_batches_tracked == 1 + EPOCHS  # of real images, and of training
        assert (norm.running_mean > 1).all()
