"""Norms, activations and poolings: each under every engine, and what an engine does not know is refused and not taken for another."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tolerances import FLOAT64_ENGINES
from torch import Tensor, nn

from fastdc.engines import ENGINES, Engine, NativeEngine, ReferenceEngine, make_engine, resolve_engine
from fastdc.errors import UsageError
from fastdc.models import build
from fastdc.models.parts import ACTIVATIONS, NORMS, POOLINGS, Activation, Norm, Pooling
from fastdc.runtime import compiled

needs_native = pytest.mark.skipif(compiled.extension is None, reason=f"fastdc._C is not there ({compiled.state('cpp')})")
SIZE = (2, 9, 7)  # channels, height, width


def spec_of(**options: str) -> str:
    return "convnet:width=8,depth=2," + ",".join(f"{key}={value}" for key, value in options.items())


def made(spec: str) -> tuple[nn.Module, Tensor]:
    """A network in float64, in batch norm with statistics of its own, and weights of which none is 0 or 1."""
    torch.manual_seed(0)
    module = build(spec, SIZE[0], 3, SIZE[1:]).double()
    engine = ReferenceEngine(module)
    theta = engine.layout.flatten(module)
    theta += 0.1 * torch.randn_like(theta)
    engine.freeze_statistics(theta, torch.randn(16, *SIZE, dtype=torch.float64))
    return module, theta


def computed(engine: Engine, theta: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    images, real = torch.randn(3, 2, *SIZE, dtype=torch.float64), torch.randn(3, len(theta), dtype=torch.float64)
    return [
        engine.class_gradients(theta, images),
        *engine.match(theta, images, real, "layerwise_cosine"),
        engine.logits(theta, images.flatten(0, 1)),
    ]


def assert_equals_the_reference(engine: Engine, module: nn.Module, theta: Tensor) -> None:
    for found, expected in zip(computed(engine, theta), computed(ReferenceEngine(copy.deepcopy(module)), theta), strict=True):
        assert ((found - expected).norm() / expected.norm()).item() < FLOAT64_ENGINES


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "reference"])
def test_every_block_equals_the_reference(engine: str, norm: str, activation: str, pooling: str) -> None:
    module, theta = made(spec_of(norm=norm, activation=activation, pooling=pooling))
    if reasons := ENGINES.entry(engine).unsupported_reasons(module):
        pytest.skip("; ".join(reasons))
    assert_equals_the_reference(make_engine(engine, module), module, theta)


@needs_native
def test_the_native_engine_serves_all_that_the_tables_have() -> None:
    for kind, table in (("NORMS", NORMS), ("ACTIVATIONS", ACTIVATIONS), ("POOLINGS", POOLINGS)):
        assert set(table) <= set(getattr(compiled.extension, kind))


OWN: dict[str, tuple[dict[str, Any], str, Any, str]] = {
    "norm": (NORMS, "rms", Norm(lambda channels, *_: nn.GroupNorm(2, channels, eps=0.1)), ""),
    "norm without scale": (NORMS, "plain", Norm(lambda channels, *_: nn.GroupNorm(4, channels, affine=False)), ""),
    "norm that replaces one": (NORMS, "group", Norm(lambda channels, *_: nn.GroupNorm(2, channels)), ""),
    "norm of another class": (NORMS, "own", Norm(lambda channels, *_: nn.InstanceNorm2d(channels, affine=True)), ""),
    "activation": (ACTIVATIONS, "softplus", Activation(nn.Softplus), "its forward calls softplus"),
    "activation of another slope": (ACTIVATIONS, "leakier_relu", Activation(lambda: nn.LeakyReLU(0.2)), ""),
    "activation that replaces one": (ACTIVATIONS, "leaky_relu", Activation(lambda: nn.LeakyReLU(0.2)), ""),
    "activation that torch knows": (ACTIVATIONS, "tanh", Activation(nn.Tanh), ""),
    "pooling": (POOLINGS, "thirds", Pooling(lambda: nn.AvgPool2d(3), stride=3), ""),
    "pooling that overlaps": (POOLINGS, "wide", Pooling(lambda: nn.MaxPool2d(3, 2), stride=2), ""),
}


@needs_native
@pytest.mark.parametrize(("table", "name", "part", "reason"), OWN.values(), ids=OWN)
def test_a_part_of_ones_own_is_computed_as_it_is_by_whichever_engine_knows_it(
    table: dict[str, Any], name: str, part: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table, name, part)
    kind = type(part).__name__.lower()
    depth = 1 if kind == "pooling" else 2
    module, theta = made(f"convnet:width=8,depth={depth},{kind}={name}")
    assert resolve_engine("auto", module) == ("torch" if reason else "native")
    assert_equals_the_reference(make_engine("torch", module), module, theta)
    if reason:
        with pytest.raises(UsageError, match=f"'native' cannot serve ConvNet: native: .*{re.escape(reason)}"):
            make_engine("native", module)
    else:
        assert_equals_the_reference(make_engine("native", module), module, theta)


@needs_native
def test_a_part_that_the_extension_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.extension, "NORMS", ["instance", "none"])
    module, _ = made(spec_of(norm="group"))
    assert NativeEngine.unsupported_reasons(module) == ["it has no norm 'group'; it has instance, none"]


CHANGES: dict[str, tuple[int, Callable[[], nn.Module], str]] = {
    "no epsilon": (1, lambda: nn.GroupNorm(8, 8, eps=0.0), "a norm has eps 0.0; it serves 1e-30 and more"),
    "a slope that falls": (2, lambda: nn.LeakyReLU(-0.1), "the activation of block 1 has slope -0.1"),
    "a window that goes over the edge": (3, lambda: nn.AvgPool2d(2, ceil_mode=True), "a pooling goes over the edge"),
    "a sum": (3, lambda: nn.AvgPool2d(2, divisor_override=1), "divides by another number"),
}


@needs_native
@pytest.mark.parametrize(("place", "layer", "reason"), CHANGES.values(), ids=CHANGES)
def test_a_part_with_other_numbers_is_refused(place: int, layer: Callable[[], nn.Module], reason: str) -> None:
    module = build(spec_of(activation="leaky_relu"), SIZE[0], 3, SIZE[1:])
    assert NativeEngine.unsupported_reasons(module) == []
    module.features[place] = layer()
    (found,) = NativeEngine.unsupported_reasons(module)
    assert reason in found


def test_vgg_and_resnet_have_the_norms_that_take_each_channel_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NORMS, "rms", Norm(lambda channels, *_: nn.GroupNorm(channels, channels, eps=0.1), each_channel=True))
    for model in ("vgg11", "resnet18"):
        eps = {part.eps for part in build(f"{model}:norm=rms", 3, 10, (32, 32)).modules() if isinstance(part, nn.GroupNorm)}
        assert eps == {0.1}
        with pytest.raises(UsageError, match=r"unknown norm 'layer'\. .*Known: batch, instance, rms\."):
            build(f"{model}:norm=layer", 3, 10, (32, 32))
