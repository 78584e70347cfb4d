"""The fast engine against the reference, job by job."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import NETWORKS, VARIANTS, chunked, make_pair, needs_extension, relative, run_apart
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import FLOAT32_ENGINES, FLOAT32_STEPS, FLOAT32_TRAINING, FLOAT64_ENGINES, FLOAT64_STEP
from torch import Tensor, nn
from torch.func import functional_call

import fastdc
from fastdc.engines import Distillation, Sgd, TorchEngine, make_engine, resolve_engine
from fastdc.engines.base import Engine, batch_norms
from fastdc.errors import UsageError
from fastdc.metrics import METRICS
from fastdc.models import build


@pytest.mark.parametrize("spec", VARIANTS)
@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
def test_class_and_image_gradients_equal_the_reference_for_any_chunk(spec: str, chunk: int) -> None:
    reference, module, theta = make_pair(spec)
    images = torch.randn(3, 4, 1, 28, 28, dtype=torch.float64)
    cotangent = torch.randn(3, reference.layout.size, dtype=torch.float64)
    engine = chunked(module, theta, images, chunk)
    assert relative(engine.class_gradients(theta, images), reference.class_gradients(theta, images)) < FLOAT64_ENGINES
    assert relative(engine.image_gradients(theta, images, cotangent), reference.image_gradients(theta, images, cotangent)) < FLOAT64_ENGINES


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spec", VARIANTS)
def test_the_matcher_equals_the_reference(spec: str, metric: str) -> None:
    torch.manual_seed(1)
    module = build(spec, 1, 10, (28, 28)).double().eval()
    synthetic, real = torch.randn(10, 2, 1, 28, 28, dtype=torch.float64), torch.randn(10, 5, 1, 28, 28, dtype=torch.float64)
    loss, gradient = fastdc.GradientMatcher(module, distance=metric, engine="torch")(synthetic, real)
    expected_loss, expected = fastdc.GradientMatcher(module, distance=metric, engine="reference")(synthetic, real)
    assert abs(loss - expected_loss) / expected_loss < FLOAT64_ENGINES
    assert relative(gradient, expected) < FLOAT64_ENGINES


@settings(max_examples=25, deadline=None)
@given(
    classes=st.integers(1, 5),
    each=st.integers(1, 7),
    channels=st.sampled_from([1, 3]),
    height=st.integers(8, 19),
    width=st.integers(8, 19),
    chunk=st.integers(1, 9),
)
def test_gradients_equal_the_reference_for_any_shape(classes: int, each: int, channels: int, height: int, width: int, chunk: int) -> None:
    reference, module, theta = make_pair("convnet:width=4,depth=2", (channels, height, width), classes=max(classes, 2))
    images = torch.randn(classes, each, channels, height, width, dtype=torch.float64)
    cotangent = torch.randn(classes, reference.layout.size, dtype=torch.float64)
    engine = chunked(module, theta, images, chunk)
    assert relative(engine.class_gradients(theta, images), reference.class_gradients(theta, images)) < FLOAT64_ENGINES
    assert relative(engine.image_gradients(theta, images, cotangent), reference.image_gradients(theta, images, cotangent)) < FLOAT64_ENGINES


@pytest.mark.parametrize("spec", VARIANTS)
def test_matching_with_and_without_a_kept_graph_equals_the_reference(spec: str) -> None:
    reference, module, theta = make_pair(spec)
    images, real = torch.randn(5, 3, 1, 28, 28, dtype=torch.float64), torch.randn(5, reference.layout.size, dtype=torch.float64)
    expected = reference.match(theta, images, real, "layerwise_cosine")
    for chunk in (1, 2, 3, 5, 6, 100):  # the graph of a class does not fit; does; several classes share a chunk
        distance, gradient = chunked(module, theta, images, chunk).match(theta, images, real, "layerwise_cosine")
        assert relative(distance, expected[0]) < FLOAT64_ENGINES
        assert relative(gradient, expected[1]) < FLOAT64_ENGINES


@pytest.mark.parametrize(("spec", "size"), NETWORKS)
def test_the_papers_other_networks_equal_the_reference(spec: str, size: tuple[int, int, int]) -> None:
    reference, module, theta = make_pair(spec, size, classes=2)
    images = torch.randn(2, 2, *size, dtype=torch.float64)
    images[..., : size[1] // 2, :] = -0.5  # the background of real images: maxima of pooling windows are not single
    real = torch.randn(2, reference.layout.size, dtype=torch.float64)
    gradients = reference.class_gradients(theta, images)
    together, apart = chunked(module, theta, images, 100), chunked(module, theta, images, 2)
    assert relative(together.class_gradients(theta, images), gradients) < FLOAT64_ENGINES
    assert relative(apart.class_gradients(theta, images), gradients) < FLOAT64_ENGINES
    by_images = reference.image_gradients(theta, images, real)
    assert relative(together.image_gradients(theta, images, real), by_images) < FLOAT64_ENGINES
    matched = reference.match(theta, images, real, "layerwise_cosine")
    for found, expected in zip(apart.match(theta, images, real, "layerwise_cosine"), matched, strict=True):  # by way of a kept graph
        assert relative(found, expected) < FLOAT64_ENGINES


@pytest.mark.parametrize("spec", ["lenet", "alexnet", "alexcifarnet", "convnet:width=8,norm=none,pooling=max"])
def test_zeros_of_activations_and_ties_of_pooling_are_taken_as_the_reference_takes_them(spec: str) -> None:
    reference, module, theta = make_pair(spec, (1, 20, 20), classes=2)
    for parameter in reference.layout.parameters:
        if not parameter.rows:
            theta[parameter.offset : parameter.offset + parameter.size] = 0  # without biases, black stays exactly zero
    images = torch.randn(2, 2, 1, 20, 20, dtype=torch.float64)
    images[..., :14] = 0
    real = torch.randn(2, reference.layout.size, dtype=torch.float64)
    gradients, by_images = reference.class_gradients(theta, images), reference.image_gradients(theta, images, real)
    for chunk in (2, 100):
        engine = chunked(module, theta, images, chunk)
        assert relative(engine.class_gradients(theta, images), gradients) < FLOAT64_ENGINES
        assert relative(engine.image_gradients(theta, images, real), by_images) < FLOAT64_ENGINES


def test_the_reference_matches_by_autograd_what_the_three_calls_compute_in_closed_form() -> None:
    reference, _, theta = make_pair("convnet:width=8")
    images = torch.randn(10, 2, 1, 28, 28, dtype=torch.float64)
    real = torch.randn(10, reference.layout.size, dtype=torch.float64)
    for metric in METRICS:
        plain, closed = reference.match(theta, images, real, metric), Engine.match(reference, theta, images, real, metric)
        assert relative(closed[0], plain[0]) < FLOAT64_ENGINES
        assert relative(closed[1], plain[1]) < FLOAT64_ENGINES


def test_class_gradients_of_given_classes_are_those_of_these_classes() -> None:
    reference, module, theta = make_pair("convnet:width=8")
    images = torch.randn(10, 2, 1, 28, 28, dtype=torch.float64)
    classes = torch.tensor([7, 2])
    for engine in (reference, TorchEngine(module)):
        assert (
            relative(engine.class_gradients(theta, images[classes], classes), reference.class_gradients(theta, images)[classes])
            < FLOAT64_ENGINES
        )


def test_float32_gradients_agree_with_float64_ones() -> None:
    reference, module, theta = make_pair("convnet:width=8,activation=swish")
    images, cotangent = torch.randn(4, 5, 1, 28, 28, dtype=torch.float64), torch.randn(4, reference.layout.size, dtype=torch.float64)
    engine = TorchEngine(module.float())
    expected = reference.class_gradients(theta, images), reference.image_gradients(theta, images, cotangent)
    assert relative(engine.class_gradients(theta.float(), images.float()).double(), expected[0]) < FLOAT32_ENGINES
    assert relative(engine.image_gradients(theta.float(), images.float(), cotangent.float()).double(), expected[1]) < FLOAT32_ENGINES


@pytest.mark.parametrize("spec", ["convnet:width=8", "convnet:width=8,norm=batch", "mlp:width=16"])
@pytest.mark.parametrize("memory", [1, 256])
def test_training_equals_torch_optim(spec: str, memory: int) -> None:
    sgd = Sgd(epochs=3, lr=0.05, momentum=0.9, weight_decay=1e-3, batch=7)
    images, labels = torch.randn(20, 1, 28, 28), torch.arange(20) % 10
    results = []
    for name in ("reference", f"torch:memory={memory}"):
        torch.manual_seed(3)
        module = build(spec, 1, 10, (28, 28))
        engine = make_engine(name, module)
        theta = engine.layout.flatten(module)
        before = theta.clone()
        engine.train(theta, images, labels, sgd, torch.Generator().manual_seed(5))
        assert relative(theta, before) > 1e-3
        results.append((theta, engine.logits(theta, images)))
    assert relative(results[1][0], results[0][0]) < FLOAT32_TRAINING
    assert relative(results[1][1], results[0][1]) < FLOAT32_TRAINING


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        *((name, spec) for name in ("reference", "torch", "torch:memory=1") for spec in ("convnet:width=8", "mlp:width=16")),
        pytest.param("native", "convnet:width=8", marks=needs_extension),
    ],
)
def test_distillation_adds_its_term_to_the_loss(name: str, spec: str) -> None:
    torch.manual_seed(3)
    module = build(spec, 1, 10, (28, 28)).double()
    engine = make_engine(name, module)
    images, labels, older = torch.randn(20, 1, 28, 28).double(), torch.arange(20) % 10, 3 * torch.randn(20, 6).double()
    found, expected = engine.layout.flatten(module), engine.layout.flatten(module)
    engine.train(found, images, labels, Sgd(1, 0.1, batch=20), torch.Generator(), distillation=Distillation(older, (2, 4), 2.0))
    leaf = expected.clone().requires_grad_()
    logits = functional_call(module.eval(), engine.layout.views(leaf), (images,))
    loss = F.cross_entropy(logits, labels)
    for start, stop in ((0, 2), (2, 6)):
        old, new = (older[:, start:stop] / 2).softmax(1), (logits[:, start:stop] / 2).log_softmax(1)
        loss = loss - (old * new).sum(1).mean()
    expected -= 0.1 * torch.autograd.grad(loss, leaf)[0]
    assert relative(found, expected) < FLOAT64_STEP
    assert relative(found, engine.layout.flatten(module)) > 1e-4


ENGINES_THAT_TRAIN = ["reference", "torch", "torch:memory=1", pytest.param("native", marks=needs_extension)]


@pytest.mark.parametrize("name", ENGINES_THAT_TRAIN)
def test_soft_labels_are_shares_of_the_first_classes(name: str) -> None:
    torch.manual_seed(3)
    module = build("convnet:width=8", 1, 10, (28, 28)).double()
    engine = make_engine(name, module)
    images, shares = torch.randn(20, 1, 28, 28).double(), torch.randn(20, 6).double().softmax(1)
    found, expected = engine.layout.flatten(module), engine.layout.flatten(module)
    engine.training(found, Sgd(1, 0.1)).step(images, shares)
    leaf = expected.clone().requires_grad_()
    logs = functional_call(module.eval(), engine.layout.views(leaf), (images,)).log_softmax(1)
    expected -= 0.1 * torch.autograd.grad(-(shares * logs[:, :6]).sum(1).mean(), leaf)[0]
    assert relative(found, expected) < FLOAT64_STEP
    assert relative(found, engine.layout.flatten(module)) > 1e-4


@pytest.mark.parametrize("name", ENGINES_THAT_TRAIN)
def test_shares_of_one_class_train_as_its_number_does(name: str) -> None:
    torch.manual_seed(3)
    module = build("convnet:width=8", 1, 10, (28, 28)).double()
    engine = make_engine(name, module)
    images, labels, start = torch.randn(20, 1, 28, 28).double(), torch.arange(20) % 10, engine.layout.flatten(module)
    thetas = [start.clone(), start.clone()]
    for theta, known in zip(thetas, (labels, F.one_hot(labels, 10).double()), strict=True):
        engine.train(theta, images, known, Sgd(2, 0.1, 0.9, 5e-4, batch=7), torch.Generator().manual_seed(0))
    assert relative(thetas[1] - start, thetas[0] - start) < FLOAT64_ENGINES


@pytest.mark.parametrize("name", ENGINES_THAT_TRAIN)
def test_shares_of_more_classes_than_there_are_get_a_sentence(name: str) -> None:
    module = build("convnet:width=8", 1, 10, (28, 28))
    engine = make_engine(name, module)
    training = engine.training(engine.layout.flatten(module), Sgd(1, 0.1))
    with pytest.raises(fastdc.UsageError, match="labels are shares of 11 classes; expected at most 10, which the network knows"):
        training.step(torch.randn(2, 1, 28, 28), torch.ones(2, 11) / 11)


def test_counts_of_a_phase_that_are_none_get_a_sentence() -> None:
    with pytest.raises(UsageError, match="batch is 0; expected a whole number of 1 or more"):
        Sgd(1, 0.1, batch=0)
    with pytest.raises(UsageError, match="epochs is -1; expected a whole number of 0 or more"):
        Sgd(-1, 0.1)


def test_distillation_of_numbers_made_by_hand() -> None:
    # Logits of 2 log 3 and 0 at temperature 2 are shares of 3/4 and 1/4; equal ones are halves: cross-entropy log 2.
    kept = Distillation(torch.tensor([[2 * math.log(3), 0.0, 5.0], [0.0, 0.0, -1.0]], dtype=torch.float64), (2, 1))
    flat = torch.zeros(1, 4, dtype=torch.float64)
    assert kept.at(slice(0, 1)).loss(flat).item() == pytest.approx(math.log(2))  # the group of one is certain: 0
    same = torch.tensor([[2 * math.log(3), 0.0, 1.0, 9.0]], dtype=torch.float64)
    assert kept.at(torch.tensor([0])).loss(same).item() == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert kept.at(torch.tensor([1, 0])).loss(torch.cat([same, flat])).item() == pytest.approx(
        -0.5 * math.log(0.75) - 0.5 * math.log(0.25) + math.log(2)
    )


def test_training_leaves_the_modules_own_weights_alone() -> None:
    module = build("convnet:width=8", 1, 10, (28, 28))
    engine = make_engine("torch", module)
    theta = engine.layout.flatten(module)
    before = theta.clone()
    engine.train(theta, torch.randn(10, 1, 28, 28), torch.arange(10), Sgd(1, 0.1), torch.Generator())
    assert torch.equal(engine.layout.flatten(module), before)
    assert not torch.equal(theta, before)


def test_frozen_statistics_are_those_of_the_images() -> None:
    module = build("convnet:width=8,norm=batch", 1, 10, (28, 28)).double()
    engine = make_engine("torch", module)
    theta, images = engine.layout.flatten(module), torch.randn(32, 1, 28, 28, dtype=torch.float64)
    engine.freeze_statistics(theta, images)
    first, norm = module.features[0](images), batch_norms(module)[0]
    torch.testing.assert_close(norm.running_mean, first.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, first.var((0, 2, 3)))
    assert not norm.training
    assert norm.momentum == 0.1


@pytest.mark.parametrize("spec", ["vgg11:norm=batch", "resnet18:norm=batch,downsampling=avgpool"])
def test_frozen_statistics_are_those_that_each_norm_sees(spec: str) -> None:
    module = build(spec, 1, 10, (16, 16)).double()
    engine, images = make_engine("torch", module), torch.randn(6, 1, 16, 16, dtype=torch.float64)
    seen: dict[nn.Module, Tensor] = {}
    for norm in batch_norms(module):
        norm.register_forward_pre_hook(lambda norm, inputs: seen.update({norm: inputs[0]}))
    engine.freeze_statistics(engine.layout.flatten(module), images)
    assert len(seen) == {"vgg11": 8, "resnet18": 20}[spec.partition(":")[0]]
    for norm, maps in seen.items():
        torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)))
        torch.testing.assert_close(norm.running_var, maps.var((0, 2, 3)))
        assert not norm.training


def test_logits_equal_the_modules() -> None:
    module = build("convnet:width=8", 3, 10, (32, 32)).eval()
    images = torch.randn(9, 3, 32, 32)
    for name in ("reference", "torch:memory=1"):
        engine = make_engine(name, module)
        torch.testing.assert_close(engine.logits(engine.layout.flatten(module), images), module(images))


MEMORY = """
import resource
import fastdc, torch
from fastdc.models import build
torch.set_num_threads(1)
matcher = fastdc.GradientMatcher(build("convnet:width=16", 1, 10, (32, 32)), engine="torch:memory=8")
peaks = []
for each in (5, 50):
    matcher(torch.randn(10, each, 1, 32, 32), torch.randn(10, each, 1, 32, 32))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
print(peaks[1] - peaks[0])
"""


def test_memory_does_not_grow_with_the_images_beyond_its_budget() -> None:
    done = run_apart(MEMORY, timeout=60)
    assert int(done.stdout) < 32, done.stderr  # MiB; the maps of all images take 136


def test_compiling_without_a_compiler_is_refused_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match=r"compile=true needs a C\+\+ compiler, and none of .* is there; leave it out"):
        make_engine("torch:compile=true", build("mlp:width=4", 1, 2, (8, 8)))


def test_a_compiled_engine_equals_the_reference() -> None:
    reference, module, theta = make_pair("convnet:width=4,depth=1", (1, 8, 8))
    images, cotangent = torch.randn(2, 3, 1, 8, 8, dtype=torch.float64), torch.randn(2, reference.layout.size, dtype=torch.float64)
    engine = TorchEngine(module, options=TorchEngine.Options(compile=True))
    assert relative(engine.class_gradients(theta, images), reference.class_gradients(theta, images)) < FLOAT64_ENGINES
    assert relative(engine.image_gradients(theta, images, cotangent), reference.image_gradients(theta, images, cotangent)) < FLOAT64_ENGINES


def test_a_users_own_module_works_with_every_engine() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((x + F.softplus(self.conv(x))).flatten(1))

    module = Residual().double()
    pair = [
        fastdc.GradientMatcher(module, engine=name)(synthetic, real)
        for synthetic, real in [torch.randn(2, 3, 4, 1, 8, 8).double()]
        for name in ("torch", "reference")
    ]
    assert relative(pair[0][1], pair[1][1]) < FLOAT64_ENGINES


def test_the_matcher_leaves_module_and_mode_as_they_were() -> None:
    module = build("convnet:width=8,norm=batch", 1, 10, (8, 8)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    fastdc.GradientMatcher(module)(torch.randn(10, 1, 1, 8, 8), torch.randn(10, 3, 1, 8, 8))
    assert module.training
    assert all(part.training for part in module.modules())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_auto_takes_an_engine_and_a_refusal_lists_every_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert resolve_engine("auto", module) == "torch"
    monkeypatch.setattr(TorchEngine, "unsupported_reasons", classmethod(lambda cls, module: ["it is Monday", "it rains"]))
    assert resolve_engine("auto", module) == "reference"
    with pytest.raises(fastdc.UsageError, match=r"cannot serve Sequential: torch: it is Monday, it rains"):
        resolve_engine("torch:memory=8", module)


@pytest.mark.parametrize("engine", ["reference", "torch", pytest.param("native", marks=needs_extension)])
def test_steps_of_a_training_keep_their_momentum_exactly(engine: str) -> None:
    """At a small learning rate, where the weights would round away what a step moves them by."""
    torch.manual_seed(0)
    module = build("convnet:width=16,activation=sigmoid", 1, 10, (8, 8))
    images, labels, sgd = torch.randn(20, 1, 8, 8), torch.arange(20) % 10, Sgd(1, 1e-3, 0.9, 5e-4)
    plain = build("convnet:width=16,activation=sigmoid", 1, 10, (8, 8)).double()
    plain.load_state_dict(module.state_dict())
    optimizer = torch.optim.SGD(plain.parameters(), sgd.lr, sgd.momentum, weight_decay=sgd.weight_decay)
    made = make_engine(engine, module)
    theta = made.layout.flatten(module)
    start, training = theta.clone(), made.training(theta, sgd)
    for _ in range(100):
        training.step(images, labels)
        optimizer.zero_grad()
        F.cross_entropy(plain(images.double()), labels).backward()
        optimizer.step()
    assert relative(theta - start, made.layout.flatten(plain) - start) < FLOAT32_STEPS
    velocity = torch.cat([optimizer.state[weight]["momentum_buffer"].flatten() for weight in plain.parameters()])
    assert relative(training.velocity, velocity) < FLOAT32_STEPS
