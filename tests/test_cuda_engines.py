"""Whole computations on a GPU: every job of every engine against the CPU, runs to the last bit, and what a caller has set in torch.

FASTDC_CUDA_TESTS_ON_CPU=1 runs them on the CPU where there is no GPU, so that the tests themselves can be checked.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import NETWORKS, VARIANTS, Dropping, relative, stop_at
from tolerances import FLOAT32_ENGINES, FLOAT64_ENGINES, GOLDEN_RUN
from torch import Tensor, nn

import fastdc
from fastdc.data import ImageData
from fastdc.engines import ENGINES, PRECISIONS, Augmentation, CudaEngine, Engine, Sgd, make_engine
from fastdc.engines.base import batch_norms
from fastdc.engines.gather_normalise import near
from fastdc.errors import UsageError
from fastdc.metrics import METRICS
from fastdc.models import build
from fastdc.training.by_batch import whole_batches
from fastdc.training.protocols import PROTOCOLS

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
pytestmark = [] if os.environ.get("FASTDC_CUDA_TESTS_ON_CPU") == "1" and not GPU else [pytest.mark.cuda]
on_gpu_only = pytest.mark.skipif(not GPU, reason="the CPU has nothing of the kind")

PROBE = build("convnet:width=8", 1, 10, (28, 28)).to(DEVICE)
SPECS = [*(name for name in ENGINES if not ENGINES.entry(name).unsupported_reasons(PROBE)), "torch:memory=1"]  # in several chunks
CASES = [(spec, variant) for spec in SPECS for i, variant in enumerate(VARIANTS) if spec == "torch" or i % 4 == 2]  # 2 is batch norm
SHORT = {"ipc": 2, "model": "convnet:width=8", "iterations": 3, "matching_steps": 2, "model_epochs": 2, "batch_real": 16, "progress": False}
METHODS = ["dc", "dd:unroll=2", "parameter_matching:unroll=2", "curriculum:unroll=2"]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """On the CPU, where everything here is too small for two."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if GPU else 1)
    yield
    torch.set_num_threads(before)


# Every job of every engine


class Case:
    """One network in float64 with images for it, and what the reference engine makes of them on the CPU."""

    def __init__(self, spec: str, size: tuple[int, int, int], classes: int) -> None:
        torch.manual_seed(0)
        self.module = build(spec, size[0], classes, size[1:]).double()
        generator = torch.Generator().manual_seed(1)

        def noise(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=torch.float64, generator=generator)

        self.theta = make_engine("reference", self.module).layout.flatten(self.module)
        self.images, self.statistics = noise(classes, 3, *size), noise(16, *size)
        self.vectors, self.vector = noise(classes, len(self.theta)), noise(len(self.theta))
        self.expected = functools.cache(lambda job: self.run(job, "reference", "cpu"))

    def run(self, job: str, spec: str, device: str) -> list[Tensor]:
        """What an engine makes of a job."""
        module = build_like(self.module, device)
        try:
            engine = make_engine(spec, module)
        except UsageError as error:
            pytest.skip(str(error))
        given = {name: value.to(device, copy=True) for name, value in vars(self).items() if isinstance(value, Tensor)}
        engine.freeze_statistics(given["theta"], given["statistics"])
        found = JOBS[job](engine, **{name: value for name, value in given.items() if name != "statistics"})
        assert all(tensor.device.type == device for tensor in found)
        return [tensor.cpu() for tensor in found]


def build_like(module: nn.Module, device: str) -> nn.Module:
    return copy.deepcopy(module).to(device)


def trained(engine: Engine, theta: Tensor, images: Tensor, **_: Tensor) -> list[Tensor]:
    labels = torch.arange(len(images), device=theta.device).repeat_interleave(images.shape[1])
    sgd = Sgd(epochs=2, lr=0.05, momentum=0.9, weight_decay=1e-3, batch=4)
    engine.train(theta, images.flatten(0, 1), labels, sgd, torch.Generator().manual_seed(5))
    return [theta]


def classes_in_reverse(engine: Engine, theta: Tensor, images: Tensor, **_: Tensor) -> list[Tensor]:
    classes = torch.arange(len(images), device=theta.device).flip(0)
    return [engine.class_gradients(theta, images, classes)]


def seen(engine: Engine, theta: Tensor, images: Tensor, **_: Tensor) -> list[Tensor]:
    views = engine.layout.views(engine.seen_gradients(theta, images, "layerwise_cosine"))
    return [views[parameter.name] for parameter in engine.layout.seen()]


def pulled_back(output: str, gradients: str) -> Callable[..., list[Tensor]]:
    """The gradient by the images of the sum of the squares of an output, halved."""

    def job(engine: Engine, theta: Tensor, images: Tensor, **_: Tensor) -> list[Tensor]:
        flat = images.flatten(0, 1)
        return [getattr(engine, gradients)(theta, flat, getattr(engine, output)(theta, flat))]

    return job


def statistics(engine: Engine, **_: Tensor) -> list[Tensor]:
    return [value for norm in batch_norms(engine.module) for value in (norm.running_mean, norm.running_var)]


JOBS: dict[str, Callable[..., list[Tensor]]] = {
    "class_gradients": lambda engine, theta, images, **_: [engine.class_gradients(theta, images)],
    "classes_in_reverse": classes_in_reverse,
    "seen_gradients": seen,
    "image_gradients": lambda engine, theta, images, vectors, **_: [engine.image_gradients(theta, images, vectors)],
    **{
        f"match by {metric}": lambda engine, theta, images, vectors, metric=metric, **_: [*engine.match(theta, images, vectors, metric)]
        for metric in METRICS
    },
    "hessian_products": lambda engine, theta, images, vector, **_: [*engine.hessian_products(theta, images, vector)],
    "train": trained,
    "logits": lambda engine, theta, images, **_: [engine.logits(theta, images.flatten(0, 1))],
    "features": lambda engine, theta, images, **_: [engine.features(theta, images.flatten(0, 1))],
    "feature_gradients": pulled_back("features", "feature_gradients"),
    "logit_gradients": pulled_back("logits", "logit_gradients"),
    "statistics": statistics,
}


@functools.cache
def case_of(spec: str, size: tuple[int, int, int] = (1, 28, 28), classes: int = 4) -> Case:
    return Case(spec, size, classes)


def check(case: Case, job: str, spec: str) -> None:
    found, expected = case.run(job, spec, DEVICE), case.expected(job)
    assert len(found) == len(expected)
    for value, right in zip(found, expected, strict=True):
        assert value.dtype == torch.float64
        assert value.shape == right.shape
        assert relative(value, right) < FLOAT64_ENGINES


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize(("spec", "variant"), CASES)
def test_every_job_equals_the_reference_on_the_cpu(spec: str, variant: str, job: str) -> None:
    if job == "statistics" and "batch" not in variant:
        pytest.skip("the network has no batch norm")
    check(case_of(variant), job, spec)


@pytest.mark.parametrize("job", ["class_gradients", "match by layerwise_cosine", "logits"])
@pytest.mark.parametrize(("network", "size"), [*NETWORKS[:3], ("resnet18:norm=batch", (3, 9, 8))])
def test_other_networks_equal_the_reference_on_the_cpu(network: str, size: tuple[int, int, int], job: str) -> None:
    check(case_of(network, size, 2), job, "torch")


def test_float32_matching_agrees_with_float64_on_the_cpu() -> None:
    torch.manual_seed(1)
    module = build("convnet:width=8,activation=swish", 1, 10, (28, 28))
    synthetic, real = torch.randn(10, 2, 1, 28, 28), torch.randn(10, 5, 1, 28, 28)
    expected = fastdc.GradientMatcher(build_like(module, "cpu").double(), engine="reference")(synthetic.double(), real.double())
    for spec in ("cuda", "torch", "reference"):
        found = fastdc.GradientMatcher(build_like(module, DEVICE), engine=spec)(synthetic.to(DEVICE), real.to(DEVICE))
        for value, right in zip(found, expected, strict=True):
            assert value.dtype == torch.float32
            assert relative(value.cpu().double(), right) < FLOAT32_ENGINES


@on_gpu_only
@pytest.mark.parametrize("variant", ["convnet:width=8", "convnet:width=16", "convnet:width=8,norm=batch,pooling=max", "mlp:width=16"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_captured_steps_wait_for_nothing_and_give_the_bits_of_others(variant: str, precision: str) -> None:
    torch.manual_seed(0)
    module = build(variant, 3, 10, (16, 16)).to(DEVICE)
    engines = [CudaEngine(copy.deepcopy(module), precision, graphs=graphs) for graphs in (False, True)]
    theta, labels = engines[0].layout.flatten(module), torch.arange(20, device=DEVICE) % 10
    for call in range(3):
        real, synthetic = torch.randn(10, 8, 3, 16, 16, device=DEVICE), torch.randn(10, 2, 3, 16, 16, device=DEVICE)
        results = []
        torch.cuda.set_sync_debug_mode("error" if call == 2 else "default")
        try:
            for engine in engines:
                gradients = engine.class_gradients(theta, real)
                results.append([gradients, *engine.match(theta, synthetic, gradients, "layerwise_cosine"), theta.clone()])
                engine.train(
                    results[-1][-1], synthetic.flatten(0, 1), labels, Sgd(3, 0.05, 0.9, 1e-3, 8), torch.Generator().manual_seed(call)
                )
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert all(map(torch.equal, *results))
    assert engines[1].graphs.wanted
    assert engines[1].graphs.launches == 2 * 2 + 3 * 9 - 2  # of training each size once as it is


def trained_on_a_set(engine: CudaEngine, theta: Tensor) -> None:
    """On images that lie on the device as uint8."""
    images = torch.randint(256, (20, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = near(ImageData.of(images, torch.arange(20) % 10), theta.device)
    orders = [torch.randperm(20, generator=torch.Generator().manual_seed(epoch)) for epoch in range(6)]
    for _ in engine.training(theta, Sgd(6, 0.05, 0.9, 1e-3, 8)).steps(orders, whole_batches(data, theta)):
        pass


def trained_with(augment: Augmentation) -> Callable[[CudaEngine, Tensor], None]:
    """On images that augmentation changes."""

    def job(engine: CudaEngine, theta: Tensor) -> None:
        images = torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(DEVICE)
        labels = torch.arange(20, device=DEVICE) % 10
        engine.train(theta, images, labels, Sgd(30, 0.02, 0.9, 1e-3, 8), torch.Generator().manual_seed(1), augment)

    return job


CAPTURED: dict[str, Callable[[CudaEngine, Tensor], None]] = {
    "set": trained_on_a_set,
    "dsa": trained_with(PROTOCOLS.make("dsa", "digits").augmentation),
    "idc": trained_with(PROTOCOLS.make("idc", "digits").augmentation),
    "mnist": trained_with(PROTOCOLS.make("dc", "mnist").augmentation),
}


@pytest.mark.parametrize("job", CAPTURED)
@pytest.mark.parametrize("width", [8, 16] if GPU else [8])  # of 16 by Winograd
def test_captured_training_gives_the_bits_of_kernels_launched_one_by_one(job: str, width: int) -> None:
    torch.manual_seed(0)
    module, found = build(f"convnet:width={width}", 3, 10, (16, 16)).to(DEVICE), []
    for graphs in (False, True):
        engine = CudaEngine(copy.deepcopy(module), graphs=graphs)
        found.append(engine.layout.flatten(module))
        CAPTURED[job](engine, found[-1])
        assert (engine.graphs.launches > 0) == (graphs and GPU)
        assert engine.graphs.wanted == graphs
    assert torch.equal(*found)
    assert not torch.equal(found[0], engine.layout.flatten(module))


@pytest.mark.parametrize(
    "variant",
    [
        "convnet:width=8",
        *(["convnet:width=16"] if GPU else []),  # by Winograd
        "convnet:width=8,norm=group,pooling=max",
        "convnet:width=8,norm=layer",
        "mlp:width=8",
    ],
)
@pytest.mark.parametrize("protocol", ["dc", "idc"])
def test_networks_side_by_side_are_those_that_are_trained_alone(variant: str, protocol: str) -> None:
    case = case_of(variant)
    engine = CudaEngine(build_like(case.module, DEVICE))
    images, labels = case.images.flatten(0, 1).to(DEVICE), torch.arange(12, device=DEVICE) % 4
    found = []
    for train in (engine.train_side_by_side, functools.partial(Engine.train_side_by_side, engine)):
        thetas = torch.stack([scale * case.theta for scale in (0.5, 1.0, 1.5)]).to(DEVICE)
        generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
        train(thetas, images, labels, Sgd(9, 0.05, 0.9, 1e-3, 8), generators, PROTOCOLS.make(protocol, "digits").augmentation)
        found.append(thetas)
    assert relative(*found) < FLOAT64_ENGINES


def test_a_set_on_the_device_has_the_bits_of_one_on_the_cpu() -> None:
    images = torch.randint(256, (50, 3, 9, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ImageData.of(images, torch.arange(50) % 10)
    there, index = near(data, torch.device(DEVICE)), torch.randperm(50)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(there.normalised(index, dtype).cpu(), data.normalised(index, dtype))


@on_gpu_only
@pytest.mark.parametrize("variant", [*[variant for variant in VARIANTS if "convnet" in variant][::4], "convnet:width=16"])
def test_kernels_give_what_plain_torch_gives(variant: str) -> None:
    for job in JOBS:
        case = case_of(variant)
        module = build_like(case.module, DEVICE)
        given = {name: value.to(DEVICE, copy=True) for name, value in vars(case).items() if isinstance(value, Tensor)}
        results = []
        for kernels in (False, True):
            engine = CudaEngine(copy.deepcopy(module), kernels=kernels)
            engine.freeze_statistics(given["theta"], given["statistics"])
            results.append(JOBS[job](engine, **{name: value.clone() for name, value in given.items() if name != "statistics"}))
        for plain, found in zip(*results, strict=True):
            assert relative(found, plain) < FLOAT64_ENGINES


# Runs


def condense(**options: Any) -> Tensor:
    return fastdc.condense("digits", **{**SHORT, "device": DEVICE, "engine": "torch", **options}).images.cpu()


@pytest.fixture(scope="module")
def images() -> Tensor:
    """The result of a run with the arguments SHORT."""
    return condense()


@pytest.mark.parametrize("engine", ["cuda", "torch", "reference"])
@pytest.mark.parametrize("model", ["convnet:width=8", "convnet:width=8,norm=batch,pooling=max", "mlp:width=8"])
def test_the_same_seed_gives_the_same_bits(engine: str, model: str) -> None:
    first, second = (condense(engine=engine, model=model) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, condense(engine=engine, model=model, seed=1))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_stopped_ends_in_the_same_bits(tmp_path: Path, method: str) -> None:
    options = {"method": method, "model_epochs": 2 if method == "dc" else None}

    with pytest.raises(InterruptedError):
        condense(out=tmp_path / "run", callbacks=[stop_at(iteration=2)], **options)
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()
    assert torch.equal(condense(out=tmp_path / "run", **options), condense(**options))


def test_auto_is_this_device(images: Tensor) -> None:
    assert torch.equal(condense(device="auto"), images)


def test_a_run_resembles_that_on_the_cpu(images: Tensor) -> None:
    if not GPU:
        pytest.skip("it is one")
    smooth = {"model": "convnet:width=8,activation=swish"}
    assert relative(condense(**smooth), condense(**smooth, device="cpu")) < GOLDEN_RUN


@pytest.mark.parametrize("engine", ["cuda", "torch", "reference"])
def test_evaluation_gives_the_same_accuracies(engine: str) -> None:
    chosen = fastdc.coresets.random("digits", 2)
    options = {"model": "convnet:width=8", "networks": 2, "epochs": 20, "engine": engine, "device": DEVICE, "progress": False}
    first, second = (fastdc.evaluate(chosen, "digits", **options) for _ in range(2))
    assert first.accuracies == second.accuracies
    assert first.mean > 0.15


@pytest.mark.parametrize("name", ["herding", "k_center", "forgetting"])
def test_coresets_choose_the_same_images(tmp_path: Path, name: str) -> None:
    options = {"model": "convnet:width=8", "epochs": 2, "device": DEVICE, "engine": "torch", "progress": False}
    first, second = (fastdc.coresets.SELECTIONS[name]("digits", 2, cache=tmp_path / str(i), **options) for i in range(2))
    assert torch.equal(first.images, second.images)
    assert first.labels.tolist() == [c for c in range(10) for _ in range(2)]


# What a caller has set


def reading(owner: Any, name: str) -> Callable[[], Any]:
    return lambda: getattr(owner, name)


CUDNN, MATMUL = torch.backends.cudnn, torch.backends.cuda.matmul
READERS: dict[str, Callable[[], Any]] = {
    "matmul.allow_tf32": reading(MATMUL, "allow_tf32"),
    **{f"cudnn.{name}": reading(CUDNN, name) for name in ("allow_tf32", "benchmark", "deterministic", "enabled")},
    "matmul precision": torch.get_float32_matmul_precision,
    "determinism": lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
    "dtype": torch.get_default_dtype,
    "device": torch.get_default_device,
    "autocast": lambda: (torch.is_autocast_enabled(DEVICE), torch.get_autocast_dtype(DEVICE)),
    "gradients": torch.is_grad_enabled,
    "inference": torch.is_inference_mode_enabled,
    "threads": torch.get_num_threads,
}
if hasattr(torch.backends, "fp32_precision"):
    PLACES = {"all": torch.backends, "matmul": MATMUL, "cudnn": CUDNN, "conv": CUDNN.conv, "rnn": CUDNN.rnn}
    READERS |= {f"{name}.fp32_precision": reading(owner, "fp32_precision") for name, owner in PLACES.items()}
else:
    PLACES = {}


def settings() -> dict[str, Any]:
    """All that can be read; what torch refuses to read, because old and new settings contradict each other, by its error."""
    found = {}
    for name, read in READERS.items():
        try:
            found[name] = read()
        except RuntimeError as error:
            found[name] = type(error)
    return found


@contextlib.contextmanager
def changed(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def called(function: Callable[..., None], value: Any, default: Any, **options: Any) -> Iterator[None]:
    function(value, **options)
    try:
        yield
    finally:
        function(default)


STATES: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "tf32 products": lambda: changed(MATMUL, "allow_tf32", True),
    "no tf32 in cudnn": lambda: changed(CUDNN, "allow_tf32", False),
    "tf32 in cudnn": lambda: changed(CUDNN, "allow_tf32", True),
    "cudnn benchmark": lambda: changed(CUDNN, "benchmark", True),
    "cudnn deterministic": lambda: changed(CUDNN, "deterministic", True),
    "no cudnn": lambda: changed(CUDNN, "enabled", False),
    "medium precision": lambda: called(torch.set_float32_matmul_precision, "medium", "highest"),
    "deterministic algorithms": lambda: called(torch.use_deterministic_algorithms, True, False),
    "deterministic algorithms, warnings": lambda: called(torch.use_deterministic_algorithms, True, False, warn_only=True),
    "float64 by default": lambda: called(torch.set_default_dtype, torch.float64, torch.float32),
    "this device by default": lambda: called(torch.set_default_device, DEVICE, None),
    "autocast": lambda: torch.autocast(DEVICE, torch.bfloat16),
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    **{
        f"{name} in {value}": lambda owner=owner, value=value: changed(owner, "fp32_precision", value)
        for name, owner in PLACES.items()
        for value in ("tf32", "ieee")
    },
}


@pytest.mark.parametrize("state", STATES)
def test_what_a_caller_has_set_changes_no_bit_and_stays(state: str, images: Tensor) -> None:
    with STATES[state]():
        before = settings()
        found = condense()
        assert settings() == before
    assert torch.equal(found, images)


@pytest.mark.parametrize("engine", ["torch", "reference"])
def test_what_a_caller_has_set_does_not_reach_the_matcher(engine: str) -> None:
    torch.manual_seed(1)
    module = build("convnet:width=32", 1, 10, (28, 28)).to(DEVICE)
    synthetic, real = torch.randn(10, 2, 1, 28, 28).to(DEVICE), torch.randn(10, 5, 1, 28, 28).to(DEVICE)

    def match() -> list[Tensor]:
        return [value.clone() for value in fastdc.GradientMatcher(module, engine=engine)(synthetic, real)]

    expected, different = match(), []
    for state, entered in STATES.items():
        with entered():
            before = settings()
            found = match()
            assert settings() == before, state
        if not all(map(torch.equal, found, expected)):
            different.append(state)
    assert different == []


@pytest.mark.parametrize("state", ["tf32 products", "tf32 in cudnn", "float64 by default", "this device by default", "autocast"])
def test_what_a_caller_has_set_does_not_reach_evaluation(state: str) -> None:
    chosen = fastdc.coresets.random("digits", 2)
    options = {"model": "convnet:width=8", "networks": 1, "epochs": 4, "engine": "torch", "device": DEVICE, "progress": False}
    expected = fastdc.evaluate(chosen, "digits", **options)
    with STATES[state]():
        assert fastdc.evaluate(chosen, "digits", **options).accuracies == expected.accuracies


@on_gpu_only
def test_another_stream_gives_the_same_bits(images: Tensor) -> None:
    torch.manual_seed(1)
    module = build("convnet:width=8", 1, 10, (28, 28)).to(DEVICE)
    synthetic, real = torch.randn(10, 2, 1, 28, 28, device=DEVICE), torch.randn(10, 5, 1, 28, 28, device=DEVICE)
    matcher = fastdc.GradientMatcher(module, engine="torch")
    expected = matcher(synthetic, real)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        assert torch.equal(condense(), images)
        found = matcher(synthetic, real)
        torch.cuda.synchronize()
    assert all(map(torch.equal, found, expected))


# What a caller draws


def random_states() -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if GPU else [])]


CALLS: dict[str, Callable[[], object]] = {
    "condense": condense,
    "condense with dropout": lambda: condense(model=Dropping),
    "evaluate": lambda: fastdc.evaluate(
        fastdc.coresets.random("digits", 1), "digits", model=Dropping, networks=1, epochs=2, device=DEVICE, progress=False
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_callers_generators_stay_as_they_are(call: str) -> None:
    torch.manual_seed(7)
    torch.rand(3, device=DEVICE)
    before = random_states()
    CALLS[call]()
    assert all(map(torch.equal, random_states(), before))


def test_a_caller_who_has_not_used_the_device_yet_draws_the_same_there() -> None:
    program = f"""
import sys, torch, fastdc
torch.manual_seed(7)
if sys.argv[1] == "with":
    options = {{**{SHORT!r}, "iterations": 1}}
    fastdc.condense("digits", device={DEVICE!r}, engine="torch", **options)
print(torch.rand(3).tolist(), torch.rand(3, device={DEVICE!r}).tolist())
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    children = [subprocess.Popen([*command, word], stdout=subprocess.PIPE, text=True) for word in ("with", "without")]
    outputs = [child.communicate(timeout=100)[0] for child in children]
    assert outputs[0]
    assert outputs[0] == outputs[1]


@on_gpu_only
@pytest.mark.parametrize("ipc", [1, 2])
def test_a_step_waits_for_nothing(ipc: int) -> None:
    """Neither matching nor training between two steps: more iterations make no more calls that wait for the GPU."""

    def waits(iterations: int) -> int:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                fastdc.condense("digits", **{**SHORT, "ipc": ipc, "iterations": iterations}, device=DEVICE)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in caught)

    waits(1)
    assert waits(5) == waits(2)
