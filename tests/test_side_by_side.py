"""Networks trained side by side, as one network of more channels: each as if it were trained alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from conftest import needs_triton, needs_triton_to_run
from helpers import relative
from test_capture import AUGMENTATIONS, Launches, Played
from tolerances import FLOAT64_ENGINES
from torch import Tensor, nn

from fastdc.engines import Augmentation, CudaEngine, ReferenceEngine, Sgd
from fastdc.models import build

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES, COUNT, NETWORKS = 4, 10, 3


class Rows(nn.Sequential):
    """Layers of every kind after the maps are flattened, and convolutions in groups before."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__(
            nn.Conv2d(channels, 4, 3, stride=2, padding=1, bias=False),
            nn.LeakyReLU(0.1),
            nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2),
            nn.LayerNorm([6, 4, 4], elementwise_affine=False),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.LayerNorm(24),
            nn.Linear(24, 9, bias=False),
            nn.Tanh(),
            nn.Linear(9, classes),
        )


MODELS: dict[str, Callable[[int, int, tuple[int, int]], nn.Module]] = {
    "rows": Rows,
    **{
        spec: lambda *shape, spec=spec: build(spec, *shape)
        for spec in (
            "convnet:width=4",
            "convnet:width=4,depth=2,norm=group,activation=swish,pooling=max",
            "convnet:width=4,depth=1,norm=layer,activation=sigmoid",
            "convnet:width=4,depth=1,norm=none,activation=leaky_relu,pooling=none",
            "mlp:width=8",
        )
    },
}


class Problem:
    """Networks of one model in float64, and images to learn."""

    def __init__(self, model: str, count: int = COUNT) -> None:
        torch.manual_seed(0)
        self.modules = [MODELS[model](3, CLASSES, (8, 8)).double() for _ in range(NETWORKS)]
        self.thetas = torch.stack([torch.cat([weight.detach().flatten() for weight in module.parameters()]) for module in self.modules])
        self.images, self.labels = torch.randn(count, 3, 8, 8, dtype=torch.float64), torch.arange(count) % CLASSES
        self.engine = CudaEngine(self.modules[0])

    def trained(
        self, engine: CudaEngine | ReferenceEngine, labels: Tensor | None = None, batch: int = 4, augment: Augmentation | None = None
    ) -> Tensor:
        """The weights after two phases of SGD."""
        thetas, generators = self.thetas.clone(), [torch.Generator().manual_seed(7 + k) for k in range(NETWORKS)]
        for sgd in (Sgd(2, 0.05, 0.9, 1e-2, batch), Sgd(2, 0.01, 0.0, 0.0, batch)):
            engine.train_side_by_side(thetas, self.images, self.labels if labels is None else labels, sgd, generators, augment)
        return thetas - self.thetas


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("batch", [4, 256])
def test_each_network_is_as_if_it_were_trained_alone(model: str, batch: int) -> None:
    problem = Problem(model)
    found, expected = problem.trained(problem.engine, batch=batch), problem.trained(ReferenceEngine(problem.modules[0]), batch=batch)
    assert min(way.norm().item() for way in found) > 1e-3
    for network in range(NETWORKS):
        assert relative(found[network], expected[network]) < FLOAT64_ENGINES


@needs_triton
@needs_triton_to_run
@pytest.mark.parametrize("norm", ["instance", "group"])
def test_kernels_serve_networks_side_by_side(norm: str) -> None:
    module = build(f"convnet:width=4,depth=1,norm={norm},activation=swish,pooling=max", 1, CLASSES, (2, 2)).double()
    engines, found = [CudaEngine(module, kernels=kernels) for kernels in (False, True)], []
    images, theta = torch.randn(2, 1, 2, 2, dtype=torch.float64), engines[0].layout.flatten(module)
    for engine in engines:
        thetas = torch.stack([theta, 2 * theta])
        engine.train_side_by_side(thetas, images, torch.tensor([1, 2]), Sgd(1, 0.1), [torch.Generator(), torch.Generator()])
        found.append(thetas - torch.stack([theta, 2 * theta]))
    assert relative(*found) < FLOAT64_ENGINES


def test_soft_labels_frozen_weights_and_chunks_are_those_of_one_network(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem("convnet:width=4")
    next(problem.modules[0].parameters()).requires_grad_(False)
    engine = CudaEngine(problem.modules[0])
    monkeypatch.setattr(engine._wider(NETWORKS), "_images_per_chunk", lambda *_: 3)
    soft = torch.rand(COUNT, CLASSES - 1, dtype=torch.float64)
    found, expected = (problem.trained(each, soft) for each in (engine, ReferenceEngine(problem.modules[0])))
    assert relative(found, expected) < FLOAT64_ENGINES
    assert not found[:, : next(problem.modules[0].parameters()).numel()].any()


@pytest.mark.parametrize("name", [*AUGMENTATIONS, "function"])
@pytest.mark.parametrize("soft", [False, True])
def test_the_batch_of_each_network_is_augmented_by_its_own_draws(name: str, soft: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastdc.engines.draws._POSITIONS", 100)  # an epoch at a time
    augment = AUGMENTATIONS.get(name, lambda images, labels, generator: (images + torch.rand((), generator=generator), labels))
    problem, played = Problem("convnet:width=4"), CudaEngine(Problem("convnet:width=4").modules[0])
    played._wider(NETWORKS).graphs = graphs = Played(nn.Identity())
    labels = torch.rand(COUNT, CLASSES - 1, dtype=torch.float64).softmax(1) if soft else None
    found, again, expected = (
        problem.trained(each, labels, 4, augment) for each in (problem.engine, played, ReferenceEngine(problem.modules[0]))
    )
    assert relative(found, expected) < FLOAT64_ENGINES
    assert torch.equal(found, again)
    assert (graphs.launches > 0) == (name != "function")


def test_captured_steps_give_the_same_bits() -> None:
    problem = Problem("convnet:width=4")
    played = CudaEngine(copy.deepcopy(problem.modules[0]))
    played._wider(NETWORKS).graphs = graphs = Played(nn.Identity())
    assert torch.equal(problem.trained(played), problem.trained(problem.engine))
    assert graphs.launches == 2 * (2 * 3 - 2)


def test_a_step_of_several_networks_launches_what_one_does() -> None:
    problem, counts = Problem("convnet:width=4"), []
    for networks in (1, NETWORKS):
        thetas, generators = problem.thetas[:networks].clone(), [torch.Generator() for _ in range(networks)]
        totals = []
        for epochs in (1, 2):
            sgd = Sgd(epochs, 0.05, 0.9)
            problem.engine.train_side_by_side(thetas, problem.images, problem.labels, sgd, generators)
            with Launches() as launches:
                problem.engine.train_side_by_side(thetas, problem.images, problem.labels, sgd, generators)
            totals.append({name: count for name, count in launches.counts.items() if name not in ("randperm", "stack")})
        counts.append(sum(totals[1].values()) - sum(totals[0].values()))
    assert counts[1] <= counts[0] + 4  # the linear layer's rows are brought into groups


def test_as_many_go_side_by_side_as_fit_into_a_chunk() -> None:
    engine, images = Problem("convnet:width=4").engine, torch.zeros(100, 3, 8, 8, dtype=torch.float64)
    theta = engine.layout.flatten(engine.module)
    full, few = (engine.most_side_by_side(theta, images, Sgd(1, 0.1, batch=batch)) for batch in (256, 10))
    assert 1 < full < few
    module = build("convnet:width=4,norm=batch", 3, CLASSES, (8, 8)).double()
    assert CudaEngine(module).most_side_by_side(theta, images, Sgd(1, 0.1)) == 1
    assert ReferenceEngine(module).most_side_by_side(theta, images, Sgd(1, 0.1)) == 1
