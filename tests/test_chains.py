"""Networks read as chains of layers: whoever wrote the class, the same layers are computed by the same code, and what is none says why."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import needs_extension
from tolerances import NATIVE_FLOAT64
from torch import Tensor, nn

import fastdc
from fastdc.engines import Engine, NativeEngine, ReferenceEngine, Sgd, make_engine, resolve_engine
from fastdc.engines.plan import Activation, Convolution, Flatten, Linear, Norm, NotAChain, Pooling, chain_of
from fastdc.errors import UsageError
from fastdc.models import build
from fastdc.runtime import compiled

pytestmark = pytest.mark.usefixtures("one_thread")


class OfAuthors(nn.Module):
    """The ConvNet as scripts of the field write it: parts by name, blocks in a loop, rows by view."""

    def __init__(self, norm: str, act: str, pool: str, channel: int = 1, width: int = 8, depth: int = 2, size: int = 28) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        side = 32 if size == 28 else size
        for d in range(depth):
            layers.append(nn.Conv2d(channel if d == 0 else width, width, kernel_size=3, padding=3 if channel == 1 and d == 0 else 1))
            if norm == "instancenorm":
                layers.append(nn.GroupNorm(width, width, affine=True))
            elif norm == "batchnorm":
                layers.append(nn.BatchNorm2d(width, affine=True))
            elif norm == "layernorm":
                layers.append(nn.LayerNorm([width, side, side], elementwise_affine=True))
            layers.append(nn.ReLU(inplace=True) if act == "relu" else nn.LeakyReLU(negative_slope=0.01))
            if pool != "none":
                layers.append(nn.AvgPool2d(kernel_size=2, stride=2) if pool == "avg" else nn.MaxPool2d(kernel_size=2, stride=2))
                side //= 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * side * side, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.features(x)
        out = out.view(out.size(0), -1)
        return self.classifier(out)


class Functional(nn.Module):
    """Layers without parameters by torch's functions and methods."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16 * 49, 3)
        self.one, self.two = nn.Conv2d(1, 16, 3, padding="same"), nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm = nn.InstanceNorm2d(16, affine=True)
        self.scale, self.shift = nn.Parameter(torch.ones(16)), nn.Parameter(torch.zeros(16))
        self.rest = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.norm(self.one(x))), 2)
        x = F.max_pool2d(F.group_norm(self.two(x), 16, self.scale, self.shift).relu(), (2, 2), stride=2)
        return self.head(self.rest(x).reshape(x.shape[0], -1))


def sequential(*, last: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 8, 3, padding=2), nn.Identity(), nn.SiLU(), nn.AvgPool2d(2)),
        nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.SiLU(), nn.AvgPool2d(2, stride=2)),
        nn.Flatten(),
        last if last is not None else nn.Linear(8 * 49, 3),
    )


def mixed(*, batch: bool) -> nn.Module:
    """Blocks of which each has a width and parts of its own."""
    return nn.Sequential(
        *(nn.Conv2d(1, 24, 3, padding=3), nn.GroupNorm(24, 24), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(24, 8, 3, padding=1, bias=False), nn.LayerNorm([8, 16, 16]), nn.SiLU()),
        *(nn.Conv2d(8, 40, 3, padding=1), nn.BatchNorm2d(40) if batch else nn.Identity(), nn.Sigmoid(), nn.AvgPool2d(2)),
        *(nn.Conv2d(40, 16, 3, padding=1), nn.GroupNorm(4, 16, eps=1e-3), nn.LeakyReLU(0.2), nn.AvgPool2d(2)),
        *(nn.Conv2d(16, 48, 3, padding=1), nn.GroupNorm(12, 48), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(48 * 16, 3)),
    )


def wide() -> nn.Module:
    """Weights of which a group of four images is not worth the reading."""
    first = (nn.Conv2d(1, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*first, nn.Conv2d(256, 312, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(312 * 49, 3))


def strided(*, batch: bool) -> nn.Module:
    """Kernels and strides of many kinds, channels that are no multiples of eight, and linear layers one after another."""
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 7, 2, 3), nn.BatchNorm2d(20, eps=1e-2) if batch else nn.Identity(), nn.SiLU()),
        *(nn.Conv2d(20, 9, 1), nn.GroupNorm(9, 9), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(9, 16, 3, 2, 0, bias=False), nn.GroupNorm(2, 16), nn.ReLU()),
        *(nn.Conv2d(16, 12, (2, 3), padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(12 * 6, 30, bias=False), nn.ReLU()),
        *(nn.Linear(30, 16), nn.LayerNorm(16), nn.LeakyReLU(0.01), nn.Linear(16, 3)),
    )


def windowed(*, batch: bool) -> nn.Module:
    """Poolings of many kinds, behind convolutions of every route, and tanh after widths that are no multiples of eight."""
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 3, padding=1), nn.BatchNorm2d(20) if batch else nn.Identity(), nn.Tanh(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(20, 16, 3, padding=1), nn.GroupNorm(2, 16), nn.MaxPool2d((3, 2), (1, 2), (1, 0)), nn.Tanh()),
        *(nn.Conv2d(16, 12, 2), nn.BatchNorm2d(12) if batch else nn.Identity(), nn.SiLU(), nn.AvgPool2d(3, 2, 1)),
        *(nn.Conv2d(12, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d((4, 2))),
        *(nn.Conv2d(8, 8, 1), nn.LeakyReLU(0.0), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
    )


class Bare(nn.Module):
    """Norms of which some have no scale, some no shift, most neither."""

    def __init__(self, *, batch: bool) -> None:
        super().__init__()
        self.first, self.scale = nn.Conv2d(1, 12, 3, padding=1), nn.Parameter(torch.ones(16))
        self.norm = nn.BatchNorm2d(12, affine=False) if batch else nn.InstanceNorm2d(12)
        self.second, self.shift = nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.Parameter(torch.zeros(8))
        self.third, self.fourth = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8 * 49, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(F.leaky_relu(self.norm(self.first(x)), 0.2), 2)
        x = F.silu(F.group_norm(self.second(x), 4, self.scale, None, 1e-3))
        x = F.avg_pool2d(torch.relu(F.group_norm(self.third(x), 8, None, self.shift)), 2)
        return self.head(torch.relu(F.layer_norm(self.fourth(x), (8, 7, 7))).flatten(1))


CHAINS: dict[str, Callable[[], nn.Module]] = {
    **{
        f"authors: {norm} {act} {pool}": lambda norm=norm, act=act, pool=pool: OfAuthors(norm, act, pool)  # type: ignore[misc]
        for norm, act, pool in (
            ("instancenorm", "relu", "avg"),
            ("batchnorm", "leakyrelu", "max"),
            ("layernorm", "relu", "max"),
            ("none", "leakyrelu", "none"),
        )
    },
    "functional": Functional,
    "sequential": sequential,
    "blocks that differ": lambda: mixed(batch=False),
    "blocks that differ, one with a batch norm": lambda: mixed(batch=True),
    "weights that the cache does not hold": wide,
    "kernels and strides of many kinds": lambda: strided(batch=False),
    "kernels and strides of many kinds, with batch norms": lambda: strided(batch=True),
    "poolings of many kinds": lambda: windowed(batch=False),
    "poolings of many kinds, with batch norms": lambda: windowed(batch=True),
    "norms without scale or shift": lambda: Bare(batch=False),
    "the same with a batch norm": lambda: Bare(batch=True),
    "the mean of each map, after one block": lambda: nn.Sequential(
        *(nn.Conv2d(1, 24, 3, padding=1), nn.GroupNorm(24, 24), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 3))
    ),
    "a first layer that is linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 30), nn.Sigmoid(), nn.Linear(30, 3)),
    "a classic LeNet": lambda: nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.Sigmoid(), nn.Linear(120, 84), nn.Sigmoid(), nn.Linear(84, 3)),
    ),
    "the largest before the activation": lambda: nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.MaxPool2d(2), nn.Sigmoid(), nn.Conv2d(8, 8, 3), nn.GroupNorm(8, 8), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(200, 3)),
    ),
    "kernels of 5x5": lambda: nn.Sequential(
        *(nn.Conv2d(1, 16, 5, padding=2), nn.SiLU(), nn.AvgPool2d(2), nn.Conv2d(16, 12, 5, padding=2), nn.GroupNorm(12, 12), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Conv2d(12, 8, 5, padding=2, bias=False), nn.SiLU(), nn.Flatten(), nn.Linear(392, 3)),
    ),
    "patches": lambda: nn.Sequential(
        nn.Conv2d(1, 24, 7, 7), nn.SiLU(), nn.Conv2d(24, 40, 2, 2), nn.SiLU(), nn.Flatten(), nn.Linear(160, 3)
    ),
    **{name: lambda name=name: build(name, 1, 3, (28, 28)) for name in ("mlp", "lenet")},  # type: ignore[misc]
    "a head without bias": lambda: sequential(last=nn.Linear(8 * 49, 3, bias=False)),
    "torch's own flatten": lambda: nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Sigmoid(), nn.Flatten(1), nn.Linear(8 * 28 * 28, 3)),
}


ROWS_OF_A_BATCH: dict[str, Callable[[], nn.Module]] = {
    "a batch norm of rows": lambda: nn.Sequential(
        *(nn.Conv2d(1, 12, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(768, 30, bias=False), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 3))
    )
}


@needs_extension
@pytest.mark.parametrize("name", [*CHAINS, *ROWS_OF_A_BATCH])
def test_a_chain_is_served_by_the_native_engine_whoever_wrote_it(name: str) -> None:
    torch.manual_seed(0)
    module = {**CHAINS, **ROWS_OF_A_BATCH}[name]().double()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.5, 2)
    before = copy.deepcopy(module.state_dict())
    assert resolve_engine("auto", module) == "native"
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert module.training
    native, reference = make_engine("native", module), ReferenceEngine(copy.deepcopy(module))
    theta, generator = native.layout.flatten(module), torch.Generator().manual_seed(1)
    synthetic, real = (torch.randn(3, each, 1, 28, 28, dtype=torch.float64, generator=generator) for each in (2, 5))
    gradients = reference.class_gradients(theta, real)
    flat, labels = synthetic.flatten(0, 1), torch.arange(3).repeat_interleave(2)
    for engine_call in (
        lambda engine: [engine.class_gradients(theta, real)],
        lambda engine: engine.match(theta, synthetic, gradients, "layerwise_cosine"),
        lambda engine: [engine.image_gradients(theta, synthetic, gradients)],
        lambda engine: engine.hessian_products(theta, synthetic, gradients[0]),
        lambda engine: [engine.logits(theta, flat), engine.features(theta, flat)],
        lambda engine: [engine.feature_gradients(theta, flat, torch.ones_like(engine.features(theta, flat)))],
    ):
        for found, right in zip(engine_call(native), engine_call(reference), strict=True):
            assert (found - right).abs().max() <= NATIVE_FLOAT64 * right.abs().max()
    trained = [theta.clone(), theta.clone()]
    for engine, weights in zip((native, reference), trained, strict=True):
        engine.train(weights, flat, labels, Sgd(2, 0.1, 0.9, 1e-2, 4), torch.Generator().manual_seed(1))
    assert (trained[0] - trained[1]).abs().max() <= NATIVE_FLOAT64 * trained[1].abs().max()


@needs_extension
def test_a_set_condensed_with_the_class_of_others_is_that_of_the_built_in_network() -> None:
    digits, images = fastdc.load_dataset("digits", classes=[0, 1, 2])[0], []
    for model in ("convnet:width=8,depth=2", lambda *_: _padded(OfAuthors("instancenorm", "relu", "avg", 1, 8, 2, 8))):
        options = {"model": model, "iterations": 1, "matching_steps": 2, "batch_real": 8, "engine": "native", "progress": False}
        images.append(fastdc.condense(digits, 1, **options).images)
    assert torch.equal(*images)


def _padded(module: OfAuthors) -> nn.Module:
    """Its first convolution for images that are not 28x28."""
    first = module.features[0]
    first.padding = (1, 1)
    return module


def test_a_chain_says_what_its_layers_are() -> None:
    chain = chain_of(build("lenet", 3, 10, (32, 32)))
    assert chain[:3] == (
        Convolution("features.0.weight", "features.0.bias", 3, 6, (5, 5), (1, 1), (0, 0), (1, 1), 1),
        Activation("relu"),
        Pooling("max", (2, 2), (2, 2)),
    )
    assert [type(step) for step in chain[6:]] == [Flatten, Linear, Activation, Linear, Activation, Linear]
    (norm,) = [step for step in chain_of(OfAuthors("batchnorm", "relu", "avg", depth=1)) if isinstance(step, Norm)]
    assert norm == Norm(
        "batch",
        "features.1.weight",
        "features.1.bias",
        1e-5,
        mean="features.1.running_mean",
        variance="features.1.running_var",
        momentum=0.1,
    )
    pooled = chain_of(nn.Sequential(nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(6, 2)))
    assert pooled[0] == Pooling("adaptive", (2, 3))
    assert len(chain_of(build("vgg11", 3, 10, (32, 32)))) == 31


class Forward(nn.Module):
    """Any forward over two layers."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], object]) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8 * 64, 3), nn.BatchNorm2d(8)
        self.own = forward

    def forward(self, x: Tensor) -> object:
        return self.own(self, x)


class FrozenStatistics(nn.Sequential):
    """A network whose batch norm does not follow its mode."""

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self[1].eval()
        return self


def test_a_batch_norm_that_is_never_trained_is_no_chain() -> None:
    module = FrozenStatistics(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 3))
    with pytest.raises(NotAChain, match="a batch norm is in another mode than the network"):
        chain_of(module)


def rows(module: nn.Module, x: Tensor) -> Tensor:
    return module.two(module.norm(x).flatten(1))  # type: ignore[operator]


def within(context: AbstractContextManager[None], function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    with context:
        return function(*arguments)


NO_CHAINS: dict[str, tuple[Callable[[nn.Module, Tensor], object], str]] = {
    "a sum": (lambda m, x: rows(m, m.one(x) + 1), "computes with maps by itself"),
    "a residual": (lambda m, x: rows(m, (y := m.one(x)) + torch.relu(y)), "uses what a layer gives twice|computes with maps"),
    "two ways": (lambda m, x: (rows(m, m.one(x)), torch.relu(x))[0], "uses what a layer gives twice"),
    "twice": (lambda m, x: rows(m, m.norm(m.one(x))), "uses norm.bias twice"),
    "left out": (lambda m, x: m.two(m.one(x).flatten(1)), "leaves out norm.bias"),
    "noise in training": (lambda m, x: rows(m, m.one(torch.relu(x) if m.training else x)), "something else in training mode"),
    "dropout": (lambda m, x: rows(m, F.dropout(m.one(x), 0.1, m.training)), "drops out while it is trained"),
    "channels last": (lambda m, x: rows(m, m.one(x.permute(0, 1, 3, 2))), "takes permute"),
    "a question": (lambda m, x: rows(m, m.one(x)) if x.max() > 0 else x, "takes max"),
    "another mode": (lambda m, x: rows(m, F.batch_norm(m.one(x), m.norm.running_mean, m.norm.running_var)), "in another mode"),
    "statistics of each batch": (
        lambda m, x: rows(m, F.batch_norm(m.one(x), m.norm.running_mean, m.norm.running_var, training=True)),
        "in another mode",
    ),
    "its size": (lambda m, x: rows(m, m.one(x)).view(x.size(0), x.size(1)), "asks for the size of a map"),
    "two results": (lambda m, x: (rows(m, m.one(x)), 1), "returns a tuple"),
    "another result": (lambda m, x: x, "returns a _Maps, or not what it computed last|leaves out"),
    "another function": (lambda m, x: rows(m, F.elu(m.one(x))), "calls elu"),
    "maps to a linear layer": (lambda m, x: m.two(m.norm(m.one(x))), "reads maps"),
    "all in one row": (lambda m, x: m.two(m.norm(m.one(x)).flatten()), "flattens dimensions 0"),
    "a weight of its own": (lambda m, x: F.linear(m.norm(m.one(x)).flatten(1), torch.ones(3, 8 * 64)), "a weight that is no parameter"),
    "weights changed": (lambda m, x: F.linear(m.norm(m.one(x)).flatten(1), 2 * m.two.weight), "a weight that is no parameter"),
    "no gradient": (lambda m, x: m.two(within(torch.no_grad(), m.norm, m.one(x)).flatten(1)), "computes without gradients"),
    "another precision": (lambda m, x: within(torch.autocast("cpu", torch.bfloat16), rows, m, m.one(x)), "or in another precision"),
    "an error": (lambda m, x: 1 / 0, "cannot be read .ZeroDivisionError"),
}


@pytest.mark.parametrize("name", NO_CHAINS)
def test_what_is_no_chain_says_why(name: str) -> None:
    forward, why = NO_CHAINS[name]
    module = Forward(forward)
    counted = module.norm.num_batches_tracked.clone()
    with pytest.raises(NotAChain, match=why):
        chain_of(module)
    assert torch.equal(module.norm.num_batches_tracked, counted)
    assert module.training
    with pytest.raises(UsageError, match="'native' cannot serve Forward: native: "):
        make_engine("native", module)


@pytest.mark.parametrize("name", ["hook", "backward hook", "own forward", "parametrised", "weight norm"])
def test_layers_that_were_changed_from_outside_are_no_chain(name: str) -> None:
    module = sequential()
    convolution = module[0][0]
    if name == "hook":
        convolution.register_forward_hook(lambda *_: None)
    elif name == "backward hook":
        convolution.register_full_backward_hook(lambda *_: None)
    elif name == "own forward":
        convolution.forward = lambda x: F.conv2d(x, convolution.weight, convolution.bias, padding=2) * 2
    elif name == "parametrised":
        nn.utils.parametrizations.spectral_norm(convolution)
    else:
        nn.utils.weight_norm(convolution)
    with pytest.raises(NotAChain, match=r"has a hook, or a forward of its own|a weight that is no parameter"):
        chain_of(module)


def test_blocks_that_the_compiled_code_has_not_say_why() -> None:
    def block(**options: Any) -> list[nn.Module]:
        return [nn.Conv2d(**{"in_channels": 8, "out_channels": 8, "kernel_size": 3, "padding": 1, **options}), nn.ReLU()]

    for layers, reason in (
        (block(padding=17), "the convolution of block 1 has padding (17, 17); it serves (16, 16)"),
        (block(padding=(1, 2)), "block 1 has padding (1, 2); it serves (1, 1)"),
        (block(stride=(2, 1)), "block 1 has stride (2, 1); it serves (2, 2)"),
        (block() + block(dilation=2, padding=2), "block 2 has dilation (2, 2); it serves (1, 1)"),
        (block() + block(groups=2), "block 2 has groups 2; it serves 1"),
        ([nn.Conv2d(8, 12, 3), nn.GroupNorm(3, 12), nn.ReLU()], "a group norm is over 12 channels; it serves multiples of 8"),
        ([nn.Conv2d(8, 8, 3, padding=1), nn.AvgPool2d(2), nn.ReLU()], "block 1 has no activation after its convolution"),
        ([nn.Conv2d(8, 8, 3, padding=1), nn.MaxPool2d(2), nn.SiLU()], "block 1 has no activation after its convolution"),
        ([nn.Conv2d(8, 8, 3, padding=1), nn.LeakyReLU(-0.1)], "the activation of block 1 has slope -0.1; it serves 0 and more"),
        ([nn.Conv2d(8, 8, 3, padding=1), nn.LayerNorm(8), nn.ReLU()], "a layer norm is over (8,); it serves channels, height and width"),
        ([*block(), nn.AdaptiveAvgPool2d(4), nn.AvgPool2d(2)], "pooling comes after block 1"),
        ([*block(), nn.ReLU()], "activation comes after block 1"),
    ):
        module = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))
        module(torch.zeros(2, 8, 8, 8))
        assert reason in " ".join(NativeEngine.unsupported_reasons(module))


@needs_extension
def test_an_activation_that_the_compiled_code_has_not_is_named_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = (nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Tanh())
    module = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(8 * 64, 3))
    assert NativeEngine.unsupported_reasons(module) == []
    monkeypatch.setattr(compiled.extension, "ACTIVATIONS", ("relu",))
    assert "it has no activation 'tanh'" in " ".join(NativeEngine.unsupported_reasons(module))


def test_a_network_that_cannot_compute_is_not_served() -> None:
    ends = (nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 3))
    module = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), *ends)
    assert "block 2 reads 8 channels, which are not those before it" in " ".join(NativeEngine.unsupported_reasons(module))


@needs_extension
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("make", [mixed, windowed])
def test_threads_change_no_bit_where_blocks_differ(make: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    module, results = make(batch=make is windowed), []
    real, synthetic = torch.randn(2, 70, 1, 28, 28), torch.randn(2, 5, 1, 28, 28)
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        engine = NativeEngine(copy.deepcopy(module))
        theta = engine.layout.flatten(module)
        gradients, weights = engine.class_gradients(theta, real), theta.clone()
        sgd, labels = Sgd(1, 0.1, 0.9, 1e-2, 50), torch.arange(2).repeat_interleave(70)
        engine.train(weights, real.flatten(0, 1), labels, sgd, torch.Generator().manual_seed(1))
        results.append([gradients, *engine.match(theta, synthetic, gradients, "layerwise_cosine"), weights, *engine.module.buffers()])
    for other in results[1:]:
        assert all(torch.equal(found, first) for found, first in zip(other, results[0], strict=True))


def test_images_of_another_size_are_refused_by_what_the_network_reads() -> None:
    engine = NativeEngine(sequential())
    theta = engine.layout.flatten(engine.module)
    for images, why in ((torch.zeros(2, 1, 32, 32), "linear layer reads 392 numbers"), (torch.zeros(2, 3, 28, 28), "expected 1 channels")):
        with pytest.raises(UsageError, match=why):
            engine.logits(theta, images)
    layers = NativeEngine(OfAuthors("layernorm", "relu", "avg"))
    theta = layers.layout.flatten(layers.module)
    with pytest.raises(UsageError, match="expected another size"):
        layers.logits(theta, torch.zeros(2, 1, 29, 29))  # which pooling would make as large at the end


@needs_extension
def test_what_parts_of_unequal_size_leave_has_room() -> None:
    """Of 221 images of a class one part takes 110 in groups that need more room than those of 111."""
    torch.manual_seed(0)
    engine = NativeEngine(nn.Sequential(nn.Conv2d(1, 8, (1, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(40, 3)))
    theta, classes = engine.layout.flatten(engine.module), torch.arange(8) % 3
    images, real = torch.randn(8, 221, 1, 1, 6), torch.randn(8, len(theta))
    found = engine.match(theta, images, real, "layerwise_cosine", classes)
    for value, alone in zip(found, Engine.match(engine, theta, images, real, "layerwise_cosine", classes), strict=True):
        assert torch.equal(value, alone)


@needs_extension
def test_sizes_that_the_compiled_code_does_not_serve_are_left_to_torch() -> None:
    hidden, classes = ((nn.Linear(3, a), nn.ReLU(), nn.Linear(a, b)) for a, b in ((70_000, 2), (8, 70_000)))
    stride = (nn.Conv2d(3, 8, 3, 70_000, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    for layers in ((nn.Flatten(), *hidden), (nn.Flatten(), *classes), stride):
        module = nn.Sequential(*layers)
        assert "a layer has a size of 70000; it serves up to 65536" in NativeEngine.unsupported_reasons(module)
        assert resolve_engine("auto", module) == "torch"


@needs_extension
@pytest.mark.parametrize("pooled", [[], [nn.AdaptiveAvgPool2d(2)], [nn.MaxPool2d(3, 1)]], ids=["by two", "adaptive", "larger windows"])
@pytest.mark.parametrize("size", [(1, 1), (0, 0), (70_000, 1)])
def test_images_of_which_nothing_is_left_are_refused_with_a_sentence(size: tuple[int, int], pooled: list[nn.Module]) -> None:
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1, padding=1)
    module = nn.Sequential(first, nn.ReLU(), nn.AvgPool2d(2), *pooled, second, nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    engine = NativeEngine(module)
    with pytest.raises(UsageError, match="expected another size, for which the network was made"):
        engine.logits(engine.layout.flatten(module), torch.zeros(2, 3, *size))
