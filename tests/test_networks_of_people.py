"""Networks as people write them: each kind computes the same in every engine, or is refused by a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from helpers import needs_extension
from torch import Tensor, nn

import fastdc
from fastdc.engines import Sgd, make_engine
from fastdc.errors import UsageError
from fastdc.metrics.layout import ParameterLayout

pytestmark = pytest.mark.usefixtures("one_thread")
Model = Callable[[], nn.Module]


class Unused(nn.Module):
    """A layer that forward leaves out, and one whose result goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.left_out = nn.Linear(5, 7)
        self.head = nn.Linear(4 * 16, 3)
        self.aside = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(F.avg_pool2d(torch.tanh(self.convolution(x)), 2).flatten(1))
        self.aside(logits)
        return logits


class Attention(nn.Module):
    """Rows of an image as words, by torch's own layer or by its function alone."""

    def __init__(self, layer: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True) if layer else None
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        words = self.embed(x[:, 0])
        words = F.scaled_dot_product_attention(words, words, words) if self.layer is None else self.layer(words)
        return self.head(words.mean(1))


class Frozen(nn.Module):
    """A first layer, a norm and a bias that stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1).requires_grad_(False)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4).requires_grad_(False)
        self.head = nn.Linear(4 * 16, 3)
        self.head.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.avg_pool2d(torch.tanh(self.norm(self.second(torch.tanh(self.first(x))))), 2).flatten(1))


class Tempered(nn.Module):
    """Logits at a temperature that is learned, a parameter without a dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(2.0))
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.head(x.flatten(1))) * self.temperature


MODELS: dict[str, Model] = {
    "a temperature": Tempered,
    "unused layers": Unused,
    "frozen layers": Frozen,
    "a transformer's layer": lambda: Attention(True),
    "scaled dot product attention": lambda: Attention(False),
    "an embedding added": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 3)),
}


def data(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Synthetic images [3, 2, ...], real ones [3, 4, ...], and labels of the synthetic ones."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(3, 2, 1, 8, 8, generator=generator, dtype=dtype),
        torch.randn(3, 4, 1, 8, 8, generator=generator, dtype=dtype),
        torch.arange(3).repeat_interleave(2),
    )


@pytest.mark.parametrize("memory", ["torch", "torch:memory=1"])
@pytest.mark.parametrize("name", MODELS)
def test_engines_agree(name: str, memory: str) -> None:
    torch.manual_seed(0)
    module = MODELS[name]()
    engines = [make_engine(engine, module) for engine in ("reference", memory)]
    theta = ParameterLayout.of(module).flatten(module)
    synthetic, real, labels = data()
    with fastdc.runtime.isolation.isolated():
        gradients = [engine.class_gradients(theta, real) for engine in engines]
        found = [
            (
                gradient,
                *engine.match(theta, synthetic, gradients[0], "layerwise_cosine"),
                engine.image_gradients(theta, synthetic, gradients[0]),
                *engine.hessian_products(theta, synthetic, gradients[0].sum(0)),
                engine.logits(theta, real.flatten(0, 1)),
                engine.features(theta, real.flatten(0, 1)),
            )
            for engine, gradient in zip(engines, gradients, strict=True)
        ]
        for expected, given in zip(*found, strict=True):
            torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
        trained = [theta.clone() for _ in engines]
        for engine, weights in zip(engines, trained, strict=True):
            engine.train(weights, synthetic.flatten(0, 1), labels, Sgd(3, 0.1, 0.9, 1e-2, 4), torch.Generator().manual_seed(1))
        torch.testing.assert_close(trained[1], trained[0], rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_layer_that_is_left_out_is_zero() -> None:
    module = Unused()
    theta = ParameterLayout.of(module).flatten(module)
    for engine in ("torch", "reference"):
        found = make_engine(engine, module)
        by_name = found.layout.views(found.class_gradients(theta, data()[1]))
        for name in ("left_out.weight", "left_out.bias", "aside.weight"):
            assert (by_name[name] == 0).all()
        assert (by_name["head.weight"] != 0).any()


@pytest.mark.parametrize("engine", ["torch", "torch:memory=1", "reference"])
def test_what_requires_no_gradient_is_neither_trained_nor_matched(engine: str) -> None:
    torch.manual_seed(0)
    module = Frozen()
    found, (synthetic, real, labels) = make_engine(engine, module), data()
    layout = found.layout
    theta, frozen = layout.flatten(module), {p.name for p in layout.parameters if p.frozen}
    assert frozen == {"first.weight", "first.bias", "norm.weight", "norm.bias", "head.bias"}
    gradients = found.class_gradients(theta, real)
    products, _ = found.hessian_products(theta, synthetic, torch.ones_like(theta))
    for by_weights in (gradients, products):
        assert {name for name, view in layout.views(by_weights).items() if (view == 0).all()} == frozen
    distance, _ = found.match(theta, synthetic, gradients, "layerwise_cosine")
    own = found.class_gradients(theta, synthetic)
    ours = fastdc.match_loss(*([layout.views(side[0])[name] for name in ("second.weight", "head.weight")] for side in (own, gradients)))
    torch.testing.assert_close(distance[0], ours)  # of the layers that are trained, and no others
    ones = torch.ones_like(gradients)
    only_trained = found.image_gradients(theta, synthetic, layout.trained_part(ones))
    assert torch.equal(found.image_gradients(theta, synthetic, ones), only_trained)
    trained = theta.clone()
    found.train(trained, synthetic.flatten(0, 1), labels, Sgd(3, 0.1, 0.9, 1e-2, 4), torch.Generator().manual_seed(1))
    before, after = layout.views(theta), layout.views(trained)
    assert {name for name in before if torch.equal(before[name], after[name])} == frozen


@needs_extension
def test_frozen_layers_of_a_convnet_are_not_for_the_native_engine() -> None:
    module = fastdc.models.build("convnet:width=8,depth=1", 1, 3, (8, 8))
    module.features[0].requires_grad_(False)
    with pytest.raises(UsageError, match=r"native: features\.0\.weight does not require a gradient"):
        make_engine("native", module)
    assert make_engine("auto", module).name == "torch"


def test_a_network_that_is_frozen_as_a_whole_is_refused() -> None:
    module = fastdc.models.build("mlp:width=8", 1, 3, (8, 8)).requires_grad_(False)
    with pytest.raises(UsageError, match="no parameter of two dimensions or more that requires a gradient"):
        fastdc.GradientMatcher(module)


@pytest.mark.parametrize("name", MODELS)
def test_a_set_is_condensed_and_evaluated(name: str) -> None:
    digits = fastdc.load_dataset("digits", classes=[0, 1, 2])
    options: dict[str, Any] = {"model": lambda *shape: MODELS[name](), "progress": False}
    condensed = [
        fastdc.condense(digits[0], 2, iterations=1, matching_steps=2, batch_real=8, engine=engine, **options).images
        for engine in ("auto", "reference")
    ]
    torch.testing.assert_close(*condensed, rtol=1e-3, atol=1e-4)
    chosen = fastdc.coresets.random(digits[0], 4)
    found = [fastdc.evaluate(chosen, digits[1], networks=2, epochs=20, engine=engine, **options) for engine in ("auto", "reference")]
    assert found[0].mean == pytest.approx(found[1].mean, abs=0.03)


def test_settings_of_attention_are_as_they_were_afterwards() -> None:
    before = (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled())
    fastdc.condense("digits", 1, model=lambda *shape: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), iterations=1, progress=False)
    assert (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()) == before


class NormOverTheBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1) - x.flatten(1).mean(0))


class AlwaysDropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(x.flatten(1), 0.1))


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda *shape: NormOverTheBatch(), "NormOverTheBatch gives an image other logits when other images stand beside it"),
        (
            lambda *shape: nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
            ),
            "Sequential gives an image other logits .* running statistics",
        ),
        (lambda *shape: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(dim=0)), "Sequential gives an image other logits"),
        (lambda *shape: AlwaysDropping(), r"AlwaysDropping draws random numbers in evaluation mode; .*F\.dropout\(x, p, self\.training\)"),
        (lambda *shape: nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 10)), None),
    ],
)
def test_networks_whose_logits_are_not_of_one_image_alone_are_refused(model: Any, match: str | None) -> None:
    options: dict[str, Any] = {"model": model, "iterations": 1, "matching_steps": 1, "batch_real": 4, "progress": False}
    if match is None:  # random while it is trained alone
        assert len(fastdc.condense("digits", 1, **options)) == 10
        return
    with pytest.raises(UsageError, match=match):
        fastdc.condense("digits", 1, **options)
    with pytest.raises(UsageError, match=match):
        fastdc.evaluate(fastdc.coresets.random("digits", 1), "digits", model=model, networks=1, epochs=1)


ALWAYS_THE_SAME = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda: nn.Linear(64, 10), r"model .*\(channels, num_classes, image_size\)"),
        (torchvision.models.resnet18, r"model resnet18\(.*cannot be called with \(channels, num_classes, image_size\)"),
        (lambda channels, classes: nn.Linear(64, 10), r"model .*\(channels, num_classes, image_size\)"),
        (nn.Linear(64, 10), r"model .*\(channels, num_classes, image_size\)"),
        (lambda channels, classes, size: "a network", "model .*nn.Module"),
        (lambda channels, classes, size: ALWAYS_THE_SAME, "the same Sequential at each call; .*inside"),
        (3, "model"),
    ],
)
def test_a_model_that_cannot_be_called_gets_one_sentence(model: Any, match: str) -> None:
    for use in (
        lambda: fastdc.condense("digits", 1, model=model, iterations=1, progress=False),
        lambda: fastdc.evaluate(fastdc.coresets.random("digits", 1), "digits", model=model, networks=1, epochs=1),
    ):
        with pytest.raises(UsageError, match=match) as caught:
            use()
        assert "\n" not in str(caught.value)


class Through(nn.Module):
    """A convolution, any function of its maps, and a linear layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.convolution, self.head, self.function = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 64, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.convolution(x)).flatten(1))


class Own(torch.autograd.Function):
    """An operation as people wrote them before torch.func."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (x > 0)


class Once(Own):
    """One that gives its gradient as a number."""

    backward = staticmethod(torch.autograd.function.once_differentiable(Own.backward))


class Recurrent(nn.Module):
    """Rows of an image as words of a sentence."""

    def __init__(self, layer: type[nn.Module]) -> None:
        super().__init__()
        self.layer, self.head = layer(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x[:, 0])[0][:, -1])


def turned(x: Tensor) -> Tensor:
    grid = F.affine_grid(torch.tensor([[[0.9, 0.2, 0.0], [-0.2, 0.9, 0.1]]]).repeat(len(x), 1, 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


NOT_BATCHED: dict[str, Model] = {
    "rrelu": lambda: Through(nn.RReLU()),
    "a spatial transformer": lambda: Through(turned),
    "an lstm": lambda: Recurrent(nn.LSTM),
    "a gru": lambda: Recurrent(nn.GRU),
    "distances of points": lambda: Through(lambda x: torch.cdist(x, x.flip(2))),
    "an autograd.Function": lambda: Through(Own.apply),
    "a question of the data": lambda: Through(lambda x: x * 2 if x.sum() > -1e9 else x),
    "a mask of booleans": lambda: Through(lambda x: x * (1 + x[x > 0].sum() * 0)),
    "gradient checkpointing": lambda: Through(lambda x: torch.utils.checkpoint.checkpoint(F.gelu, x, use_reentrant=False)),
    "weight norm": lambda: nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 3))),
}


@pytest.mark.filterwarnings("ignore:.*torch.utils.checkpoint.*:UserWarning")
@pytest.mark.parametrize("name", NOT_BATCHED)
def test_operations_that_torch_cannot_batch_are_computed_class_by_class(name: str) -> None:
    torch.manual_seed(0)
    module = NOT_BATCHED[name]()
    reference, engine = make_engine("reference", module), make_engine("auto", module)
    assert engine.name == "torch"
    theta, (synthetic, real, _) = engine.layout.flatten(module), data()
    with fastdc.runtime.isolation.isolated():
        gradients = reference.class_gradients(theta, real)
        try:
            reference.image_gradients(theta, synthetic, gradients)
        except (NotImplementedError, RuntimeError) as error:  # older versions of torch go back through fewer operations twice
            pytest.skip(str(error))
        for _ in range(2):  # the second knows what the first found
            torch.testing.assert_close(engine.class_gradients(theta, real), gradients, rtol=1e-4, atol=1e-5)
            by_images = reference.image_gradients(theta, synthetic, gradients)
            torch.testing.assert_close(engine.image_gradients(theta, synthetic, gradients), by_images, rtol=1e-4, atol=1e-5)
            pairs = zip(*(found.match(theta, synthetic, gradients, "layerwise_cosine") for found in (engine, reference)), strict=True)
            for found, right in pairs:
                torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-5)


def test_memory_that_runs_out_once_is_no_reason_to_compute_class_by_class() -> None:
    full: list[int] = []
    module = Through(lambda x: torch.empty(full.pop()) if full else x)
    engine = make_engine("torch", module)
    theta, (images, *_) = engine.layout.flatten(module), data()
    full.append(10**15)
    with pytest.raises(RuntimeError, match="allocate memory"):
        engine.class_gradients(theta, images)


@pytest.mark.parametrize("name", ["rrelu", "an lstm", "weight norm"])
def test_a_set_is_condensed_by_what_torch_cannot_batch(name: str) -> None:
    digits = fastdc.load_dataset("digits", classes=[0, 1, 2])[0]
    options: dict[str, Any] = {"iterations": 1, "matching_steps": 2, "batch_real": 4, "progress": False}
    found, right = (
        fastdc.condense(digits, 2, model=lambda *_: NOT_BATCHED[name](), engine=engine, **options) for engine in ("auto", "reference")
    )
    torch.testing.assert_close(found.images, right.images, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("engine", ["auto", "torch", "reference"])
def test_images_that_cannot_be_learned_are_said_before_anything_is_computed(engine: str) -> None:
    digits = fastdc.load_dataset("digits", classes=[0, 1, 2])[0]
    options: dict[str, Any] = {"iterations": 1, "batch_real": 4, "engine": engine, "progress": False}
    detached: dict[str, Model] = {
        "numpy": lambda: Through(lambda x: torch.from_numpy(x.detach().numpy())),
        "without gradient": lambda: nn.Sequential(nn.Flatten(), NoGradient(), nn.Linear(64, 3)),
    }
    with pytest.raises(UsageError, match="the logits of Sequential do not depend on its images"):
        fastdc.condense(digits, 1, model=lambda *_: detached["without gradient"](), **options)
    with pytest.raises(UsageError, match=r"the logits of Through do not depend on its images|Through cannot be differentiated"):
        fastdc.condense(digits, 1, model=lambda *_: detached["numpy"](), **options)
    with pytest.raises(UsageError, match="Through cannot be differentiated twice, as matching gradients asks for; a match of features"):
        fastdc.condense(digits, 1, model=lambda *_: Through(Once.apply), **options)
    assert len(fastdc.condense(digits, 1, model=lambda *_: Through(Once.apply), method="dm", **options)) == 3
    assert len(fastdc.condense(digits, 1, model=lambda *_: detached["numpy"](), **{**options, "iterations": 0})) == 3


def test_a_matcher_says_that_its_module_cannot_be_differentiated_twice() -> None:
    synthetic, real, _ = data()
    for engine in ("torch", "reference"):
        module = Through(Once.apply)
        matcher = fastdc.GradientMatcher(module, engine=engine)
        with pytest.raises(UsageError, match="Through cannot be differentiated twice"):
            matcher(synthetic, real)
        assert all(weight.grad is None for weight in module.parameters())


class NoGradient(nn.Module):
    """What is computed with torch.no_grad."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return x * 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("wrap", "match"),
    [
        (torch.jit.script, "the network is wrapped as ScriptModule, .*; give the module that was scripted or traced"),
        (nn.DataParallel, r"the network is wrapped as DataParallel, .*; give its \.module"),
        (torch.compile, r"the network is wrapped as OptimizedModule, .*; give .* its \._orig_mod; engine='torch:compile=true' compiles"),
        (lambda module: nn.Sequential(torch.jit.script(module)), "0 is wrapped as ScriptModule"),
    ],
    ids=["scripted", "parallel", "compiled", "a part scripted"],
)
def test_wrapped_networks_are_refused_by_what_to_give(wrap: Callable[[nn.Module], nn.Module], match: str) -> None:
    module = wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    with pytest.raises(UsageError, match=match):
        fastdc.GradientMatcher(module)
