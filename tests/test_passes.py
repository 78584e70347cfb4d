"""Passes through chains in closed form, job by job against the reference: every chain, any chunk, every precision."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import NETWORKS, VARIANTS, relative
from test_chains import CHAINS
from tolerances import FLOAT64_ENGINES, PRECISION_ERROR
from torch import Tensor, nn

import fastdc
from fastdc.engines import CudaEngine, Engine, ReferenceEngine, Sgd, make_engine, resolve_engine
from fastdc.engines.chain.activations import DERIVATIVES
from fastdc.engines.chain.precision import PRECISIONS, rounded_to_tf32
from fastdc.models import build
from fastdc.models.parts import ACTIVATIONS

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES, EACH = 3, 3
GREY = (1, 28, 28)
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    **{spec: (functools.partial(build, spec, 1, CLASSES, (28, 28)), GREY) for spec in VARIANTS},
    **{spec: (functools.partial(build, spec, size[0], CLASSES, size[1:]), size) for spec, size in NETWORKS},
    **{name: (make, GREY) for name, make in CHAINS.items()},
    "adaptive pooling, stride 2, 7x7": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 7, stride=2, padding=3, groups=2),
            nn.Tanh(),
            nn.AdaptiveAvgPool2d((3, 4)),
            nn.Conv2d(6, 5, (1, 3), dilation=(1, 2), padding=(0, 2)),
            nn.LeakyReLU(0.2),
            nn.MaxPool2d(3, stride=1, padding=1),
            nn.Flatten(),
            nn.Linear(60, 9, bias=False),
            nn.LayerNorm(9),
            nn.Sigmoid(),
            nn.Linear(9, CLASSES),
        ),
        (2, 13, 11),
    ),
}


class Case:
    """A chain in float64, images for it, and what the reference makes of them."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        make, size = MODULES[name]
        self.module = make().double()
        if reasons := CudaEngine.unsupported_reasons(self.module):
            pytest.skip("; ".join(reasons))
        generator = torch.Generator().manual_seed(1)
        noise = functools.partial(torch.randn, dtype=torch.float64, generator=generator)
        reference = ReferenceEngine(copy.deepcopy(self.module))
        self.theta = reference.layout.flatten(self.module)
        self.images, self.statistics = noise(CLASSES, EACH, *size), noise(16, *size)
        self.vectors, self.vector = noise(CLASSES, len(self.theta)), noise(len(self.theta))
        self.expected = functools.cache(lambda job: self.run(job, reference))

    def run(self, job: str, engine: Engine) -> list[Tensor]:
        engine.freeze_statistics(self.theta, self.statistics)
        return list(JOBS[job](engine, self))


def trained(engine: Engine, case: Case) -> Iterator[Tensor]:
    theta, labels = case.theta.clone(), torch.arange(CLASSES).repeat_interleave(EACH)
    engine.train(theta, case.images.flatten(0, 1), labels, Sgd(2, 0.05, 0.9, 1e-3, 4), torch.Generator().manual_seed(5))
    yield theta
    yield from (buffer for name, buffer in engine.module.named_buffers() if "running" in name)


def pulled_back(output: str, gradients: str) -> Callable[[Engine, Case], list[Tensor]]:
    def job(engine: Engine, case: Case) -> list[Tensor]:
        given = getattr(engine, output)(case.theta, case.images.flatten(0, 1))
        return [given, getattr(engine, gradients)(case.theta, case.images.flatten(0, 1), given)]

    return job


JOBS = {
    "class_gradients": lambda engine, case: [engine.class_gradients(case.theta, case.images, torch.tensor([2, 0, 1]))],
    "image_gradients": lambda engine, case: [engine.image_gradients(case.theta, case.images, case.vectors)],
    "match": lambda engine, case: engine.match(case.theta, case.images, case.vectors, "layerwise_cosine"),
    "match, all elements": lambda engine, case: engine.match(case.theta, case.images, case.vectors, "mse"),
    "hessian_products": lambda engine, case: engine.hessian_products(case.theta, case.images, case.vector),
    "features": pulled_back("features", "feature_gradients"),
    "logits": pulled_back("logits", "logit_gradients"),
    "train": trained,
}
case_of = functools.cache(Case)


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("name", MODULES)
def test_every_job_equals_the_reference(name: str, job: str) -> None:
    case = case_of(name)
    engine = CudaEngine(copy.deepcopy(case.module))
    for found, expected in zip(case.run(job, engine), case.expected(job), strict=True):
        assert relative(found, expected) < FLOAT64_ENGINES


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("chunk", [1, 2, 4, 100])
@pytest.mark.parametrize("name", ["convnet:width=8,norm=batch", "convnet:width=8,norm=group", "lenet", "adaptive pooling, stride 2, 7x7"])
def test_neither_chunks_nor_precision_change_what_float64_gives(name: str, chunk: int, precision: str) -> None:
    case = case_of(name)

    class Chunked(CudaEngine):
        def _images_per_chunk(self, theta: Tensor, images: Tensor, copies: int) -> int:
            return chunk

    for job in JOBS:
        engine = Chunked(copy.deepcopy(case.module), precision)
        for found, expected in zip(case.run(job, engine), case.expected(job), strict=True):
            assert relative(found, expected) < FLOAT64_ENGINES


@pytest.mark.parametrize(("metric", "rows"), [("layerwise_cosine", "all"), ("l1:rows=convolutions", "convolutions")])
def test_what_a_metric_does_not_see_is_not_computed(metric: str, rows: str) -> None:
    engine = CudaEngine(build("convnet:width=4,depth=2", 1, CLASSES, (8, 8)).double())
    theta, images = engine.layout.flatten(engine.module), torch.randn(CLASSES, EACH, 1, 8, 8, dtype=torch.float64)
    found, whole = engine.seen_gradients(theta, images, metric), engine.class_gradients(theta, images)
    names = {parameter.name for parameter in engine.layout.seen(rows)}
    for (name, view), expected in zip(engine.layout.views(found).items(), engine.layout.views(whole).values(), strict=True):
        assert torch.equal(view, expected if name in names else torch.zeros_like(expected))


def test_steps_ask_for_what_the_metric_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CudaEngine, "class_gradients", lambda *_: pytest.fail("of all parameters"))
    fastdc.condense("digits", 1, model="convnet:width=4,depth=1", engine="cuda", device="cpu", iterations=1, batch_real=2)
    module, images = build("convnet:width=4,depth=1", 1, 2, (8, 8)), torch.randn(2, 1, 1, 8, 8)
    assert fastdc.GradientMatcher(module, engine="cuda")(images, images)[0].isfinite()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_rounds_what_goes_into_products(precision: str) -> None:
    torch.manual_seed(0)
    module = build("convnet:width=16,activation=swish", 3, 10, (16, 16))
    synthetic, real = torch.randn(10, 2, 3, 16, 16), torch.randn(10, 8, 3, 16, 16)
    exact = ReferenceEngine(copy.deepcopy(module).double())
    theta = exact.layout.flatten(module)
    target = exact.class_gradients(theta.double(), real.double())
    expected = exact.match(theta.double(), synthetic.double(), target, "layerwise_cosine")
    found = CudaEngine(module, precision).match(theta, synthetic, target.float(), "layerwise_cosine")
    least, most = PRECISION_ERROR[precision]
    assert least < relative(found[1], expected[1]) < most
    assert relative(found[0], expected[0]) < most


def test_tf32_has_ten_bits_behind_the_leading_one() -> None:
    values = torch.randn(1000)
    rounded = rounded_to_tf32(values)
    assert torch.equal(rounded_to_tf32(rounded), rounded)
    assert torch.equal(rounded * 2**10 / 2.0 ** rounded.abs().log2().floor() % 1, torch.zeros(1000))
    assert ((rounded - values).abs() <= 2.0**-11 * values.abs()).all()
    special = torch.tensor([torch.inf, -torch.inf, 0.0, -0.0, torch.finfo().max])
    assert rounded_to_tf32(special).tolist() == [torch.inf, -torch.inf, 0.0, -0.0, torch.inf]
    assert rounded_to_tf32(torch.tensor(torch.nan)).isnan()


def test_every_activation_of_the_registry_has_derivatives() -> None:
    assert set(ACTIVATIONS) <= set(DERIVATIVES)


@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_are_those_of_autograd(name: str) -> None:
    x = torch.linspace(-3, 3, 41, dtype=torch.float64, requires_grad=True)
    derivatives = DERIVATIVES[name]
    first = torch.autograd.grad(derivatives.value(x, 0.1).sum(), x, create_graph=True)[0]
    assert relative(derivatives.first(x, 0.1), first) < FLOAT64_ENGINES
    if derivatives.second is not None:
        assert relative(derivatives.second(x, 0.1), torch.autograd.grad(first.sum(), x)[0]) < FLOAT64_ENGINES


def test_auto_does_not_choose_it_on_the_cpu_but_it_is_there_by_name() -> None:
    module = nn.Sequential(nn.Conv2d(1, 8, 3, dilation=2), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 24 * 24, 10))
    assert resolve_engine("auto", module) == "torch"
    assert isinstance(make_engine("cuda", module), CudaEngine)
    with pytest.raises(fastdc.UsageError, match="cuda: its forward computes with maps by itself"):
        make_engine("cuda", build("resnet18", 1, 10, (28, 28)))


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([nn.LayerNorm(8), nn.Flatten(), nn.Linear(64, 2)], "a layer norm is over"),
        ([nn.Flatten(), nn.Linear(64, 2), nn.Hardtanh()], "its forward calls hardtanh"),
        ([nn.BatchNorm2d(1, momentum=None), nn.Flatten(), nn.Linear(64, 2)], "keeps the mean over all batches"),
    ],
)
def test_what_it_cannot_serve_gets_a_reason(layers: list[nn.Module], reason: str) -> None:
    (found,) = CudaEngine.unsupported_reasons(nn.Sequential(*layers))
    assert reason in found


def test_precision_goes_through_condense_and_evaluate_and_into_the_provenance() -> None:
    options = {"model": "convnet:width=8,depth=1", "engine": "cuda", "device": "cpu", "progress": False}
    steps = {"iterations": 2, "matching_steps": 2, "model_epochs": 1, "batch_real": 8}
    images = {}
    for precision in PRECISIONS:
        condensed = fastdc.condense("digits", 1, precision=precision, **steps, **options)
        assert condensed.provenance["config"]["precision"] == precision
        images[precision] = condensed.images
        found = fastdc.evaluate(condensed, "digits", networks=1, epochs=2, precision=precision, **options)
        assert found.precision == precision
    exact = fastdc.condense("digits", 1, **steps, **options | {"engine": "reference"}).images
    errors = {precision: relative(found, exact) for precision, found in images.items()}
    assert errors["float32"] < errors["tf32"] < errors["bfloat16"]


def evaluate(data: str, ipc: int, **options: Any) -> object:
    return fastdc.evaluate(fastdc.coresets.random(data, ipc), data, **options)


@pytest.mark.parametrize("call", [fastdc.condense, evaluate])
def test_a_precision_that_is_unknown_or_that_no_engine_has_is_refused(call: Callable[..., object]) -> None:
    with pytest.raises(fastdc.UsageError, match=r"unknown precision 'float16'.*Known: bfloat16, float32, tf32"):
        call("digits", 1, precision="float16")
    for engine in ("auto", "reference", "torch"):
        with pytest.raises(fastdc.UsageError, match="it does not compute in tf32, as engine=cuda does"):
            call("digits", 1, precision="tf32", engine=engine, device="cpu")


def test_tensors_that_require_a_gradient_are_served() -> None:
    case = case_of("convnet:width=8,norm=batch")
    given = copy.copy(case)
    given.theta, given.images = case.theta.clone().requires_grad_(), case.images.clone().requires_grad_()
    for job in JOBS:
        for found, expected in zip(given.run(job, CudaEngine(copy.deepcopy(case.module))), case.expected(job), strict=True):
            assert relative(found.detach(), expected) < FLOAT64_ENGINES


def test_what_a_norm_cannot_take_gets_a_sentence() -> None:
    engine = CudaEngine(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)))
    training = engine.training(engine.layout.flatten(engine.module), Sgd(1, 0.1))
    with pytest.raises(fastdc.UsageError, match="needs more than one number of each channel"):
        training.step(torch.randn(1, 1, 4, 4), torch.tensor([1]))
    engine = CudaEngine(nn.Sequential(nn.Conv2d(1, 4, 1), nn.LayerNorm((4, 2, 2)), nn.Flatten(), nn.Linear(16, 2)))
    with pytest.raises(fastdc.UsageError, match=r"a layer norm is over \[4, 2, 2\], and maps are \[4, 4, 4\]"):
        engine.logits(engine.layout.flatten(engine.module), torch.randn(1, 1, 4, 4))


def test_auto_on_other_devices_asks_the_engines_of_any_device() -> None:
    assert resolve_engine("auto", build("lenet", 1, 10, (28, 28)).to("meta")) == "torch"
