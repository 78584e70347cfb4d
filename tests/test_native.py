"""The native engine against the reference, and what holds for it alone: the same bits for any number of threads, its edges."""

from __future__ import annotations

import copy
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import INSTRUCTION_SETS, needs_extension, relative, run_apart, stop_at
from tolerances import (
    NATIVE_FINITE_DIFFERENCES,
    NATIVE_FLOAT32_IMAGES,
    NATIVE_FLOAT32_LOSS,
    NATIVE_FLOAT64,
    NATIVE_INSTRUCTION_SETS,
    NATIVE_PULLED_BACK_TO_EAGER,
    NATIVE_RUN,
    NATIVE_TO_EAGER,
)
from torch import Tensor, nn

import fastdc
from fastdc.engines import Distillation, Engine, NativeEngine, ReferenceEngine, Sgd, TorchEngine, make_engine, resolve_engine
from fastdc.errors import UsageError
from fastdc.models import build, parts
from fastdc.runtime import compiled
from fastdc.training.augment import training_augmentation

pytestmark = needs_extension

NORMS, ACTIVATIONS, POOLINGS = (list(table) for table in (parts.NORMS, parts.ACTIVATIONS, parts.POOLINGS))
SGD = Sgd(epochs=2, lr=0.05, momentum=0.9, weight_decay=1e-2, batch=20)
GREY, COLOUR, SMALL = (1, 28, 28), (3, 32, 32), (1, 8, 8)

# (spec, channels and size of an image, classes, images of each)
CASES: list[tuple[str, tuple[int, int, int], int, int]] = [
    *((f"convnet:width=8,norm={norm}", (2, 13, 18), 3, 3) for norm in NORMS),
    *((f"convnet:width=16,norm={norm},activation=swish,pooling=max", (1, 9, 10), 2, 9) for norm in NORMS),
    *((f"convnet:width=24,depth=2,norm={norm},pooling=none,activation=leaky_relu", (3, 9, 10), 3, 1) for norm in NORMS),
    *((f"convnet:width=8,activation={activation},pooling={pooling}", SMALL, 3, 8) for activation in ACTIVATIONS for pooling in POOLINGS),
    *(("convnet:width=8,depth=1" + rest, GREY, 2, 17) for rest in ("", ",norm=layer,activation=sigmoid", ",pooling=none")),
    *((f"convnet:width=32,depth={depth}", COLOUR, 2, 3) for depth in (1, 2, 3, 4)),
    ("convnet:width=8", GREY, 10, 1),
    ("convnet:width=16,norm=layer,pooling=max", GREY, 2, 9),
    ("convnet:width=8,depth=4,norm=none,pooling=none", (1, 5, 6), 3, 17),  # maps smaller than a tile, and of no even side
    ("convnet:width=40,depth=3,norm=group", (3, 8, 9), 3, 17),
    ("convnet:width=8,depth=2", (3, 4, 4), 3, 70),  # eight parts to a batch, and a last map of one pixel
    ("convnet:width=8,depth=1", (1, 2, 3), 2, 3),
    ("vgg11:norm=batch", (1, 16, 16), 2, 2),
    ("vgg11", COLOUR, 2, 1),
    ("alexnet", (3, 12, 9), 2, 2),
    ("convnet:width=64,depth=2,pooling=none,norm=group", (1, 40, 44), 2, 5),  # groups of fewer than eight images
]


def make(spec: str, size: tuple[int, int, int], classes: int, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    """A module, in batch norm with statistics of its own, and weights of which none is 0 or 1."""
    torch.manual_seed(0)
    module = build(spec, size[0], classes, size[1:]).double()
    engine = ReferenceEngine(module)
    theta = engine.layout.flatten(module)
    theta += 0.1 * torch.randn_like(theta)
    engine.freeze_statistics(theta, torch.randn(16, *size, dtype=torch.float64))
    return module.to(dtype), theta.to(dtype)


def make_input(
    engine: Any, size: tuple[int, int, int], classes: int, each: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Images and a cotangent."""
    torch.manual_seed(1)
    images = torch.randn(classes, each, *size, dtype=torch.float64)
    return images.to(dtype), torch.randn(classes, engine.layout.size, dtype=torch.float64).to(dtype)


def jobs(engine: Any, theta: Tensor, images: Tensor, cotangent: Tensor, sgd: Sgd = SGD) -> dict[str, Tensor]:
    """What each job gives; the batch norm of the engine's module stays as it is."""
    trained, flat = theta.clone(), images.flatten(0, 1)
    labels = torch.arange(len(images)).repeat_interleave(images.shape[1])
    classes = torch.arange(len(images)).flip(0)
    results = {
        "class gradients": engine.class_gradients(theta, images),
        "of permuted classes": engine.class_gradients(theta, images, classes),
        "image gradients": engine.image_gradients(theta, images, cotangent),
        "logits": engine.logits(theta, flat),
        "features": engine.features(theta, flat),
    }
    generator = torch.Generator().manual_seed(3)
    for name, pull_back in (("logits", engine.logit_gradients), ("features", engine.feature_gradients)):
        along = torch.randn(results[name].shape, dtype=torch.float64, generator=generator).to(theta.dtype)
        results[f"gradients of {name}"] = pull_back(theta, flat, along)
    results["Hessian product"], results["mixed derivatives"] = engine.hessian_products(theta, images, cotangent[0], classes)
    results["distance"], results["matching gradients"] = engine.match(theta, images, cotangent, "layerwise_cosine")
    state = copy.deepcopy(engine.module.state_dict())
    engine.train(trained, flat, labels, sgd, torch.Generator().manual_seed(2))
    engine.module.load_state_dict(state)
    results["training"] = trained - theta
    return results


def make_and_do(spec: str, size: tuple[int, int, int], dtype: torch.dtype = torch.float64, each: int = 9) -> dict[str, Tensor]:
    module, theta = make(spec, size, 3, dtype)
    engine = NativeEngine(module)
    return jobs(engine, theta, *make_input(engine, size, 3, each, dtype))


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


# The reference


@pytest.mark.parametrize(("spec", "size", "classes", "each"), CASES)
def test_every_job_equals_the_reference(spec: str, size: tuple[int, int, int], classes: int, each: int) -> None:
    module, theta = make(spec, size, classes)
    native, reference = NativeEngine(module), ReferenceEngine(copy.deepcopy(module))
    images, cotangent = make_input(native, size, classes, each)
    before = images.clone(), cotangent.clone(), theta.clone()
    found, expected = (jobs(engine, theta, images, cotangent) for engine in (native, reference))
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert found[name].dtype == value.dtype
        assert relative(found[name], value) < NATIVE_FLOAT64, name
    assert all(torch.equal(a, b) for a, b in zip((images, cotangent, theta), before, strict=True))


@pytest.mark.parametrize("content", ["nothing", "half of nothing", "one colour", "small values"])
@pytest.mark.parametrize("norm", ["instance", "layer", "none"])
def test_images_without_contrast_give_what_the_reference_gives(norm: str, content: str) -> None:
    module, theta = make(f"convnet:width=8,norm={norm}", (3, 16, 16), 3)
    native, reference = NativeEngine(module), ReferenceEngine(copy.deepcopy(module))
    images, cotangent = make_input(native, (3, 16, 16), 3, 3)
    if content == "nothing":
        images[:] = 0
    elif content == "half of nothing":
        images[..., :8] = 0
    elif content == "one colour":
        images[:] = images[..., :1, :1]
    else:
        images *= 1e-6
    found, expected = (jobs(engine, theta, images, cotangent) for engine in (native, reference))
    for name, value in expected.items():
        assert relative(found[name], value) < NATIVE_FLOAT64, name


@pytest.mark.parametrize("spec", ["convnet:width=16", "convnet:width=8,norm=layer,pooling=max", "convnet:width=8,norm=batch,pooling=none"])
def test_float32_of_smooth_networks_is_near_float64(spec: str) -> None:
    module, theta = make(spec + ",activation=swish", (3, 16, 16), 4)
    reference, native = ReferenceEngine(copy.deepcopy(module)), NativeEngine(module.float())
    images, _ = make_input(native, (3, 16, 16), 4, 5)
    real = reference.class_gradients(theta, torch.randn(4, 20, 3, 16, 16, dtype=torch.float64))
    distance, gradient = native.match(theta.float(), images.float(), real.float(), "layerwise_cosine")
    expected_distance, expected = reference.match(theta, images, real, "layerwise_cosine")
    assert relative(distance.double().sum(), expected_distance.sum()) < NATIVE_FLOAT32_LOSS
    assert relative(gradient.double(), expected) < NATIVE_FLOAT32_IMAGES


@pytest.mark.parametrize("spec", ["convnet:width=16", "convnet:width=32,norm=none,pooling=max", "convnet:width=8,norm=layer"])
def test_float32_with_kinks_is_not_much_further_from_float64_than_eager_float32(spec: str) -> None:
    module, theta = make(spec, (3, 16, 16), 4)
    reference, module = ReferenceEngine(copy.deepcopy(module)), module.float()
    engines = NativeEngine(module), ReferenceEngine(copy.deepcopy(module))
    errors: dict[str, list[tuple[float, ...]]] = {}
    for _ in range(9):  # the median: in some of them an input of ReLU near zero may change its sign
        images, cotangent = torch.randn(4, 9, 3, 16, 16).double(), torch.randn(4, len(theta)).double()
        exact = jobs(reference, theta, images, cotangent)
        results = [jobs(engine, theta.float(), images.float(), cotangent.float()) for engine in engines]
        for name, value in exact.items():
            errors.setdefault(name, []).append(tuple(relative(result[name].double(), value) for result in results))
    for name, pairs in errors.items():
        native, eager = (sorted(each)[4] for each in zip(*pairs, strict=True))
        most = NATIVE_PULLED_BACK_TO_EAGER if name.startswith("gradients of") else NATIVE_TO_EAGER
        assert native <= most * eager, name


@pytest.mark.parametrize("spec", [f"convnet:width=8,depth=2,activation=swish,norm={norm}" for norm in NORMS])
@pytest.mark.parametrize("pooling", ["avg", "none"])
def test_image_gradients_are_the_derivatives_of_class_gradients(spec: str, pooling: str) -> None:
    module, theta = make(f"{spec},pooling={pooling}", (2, 8, 9), 3)
    engine = NativeEngine(module)
    images, cotangent = make_input(engine, (2, 8, 9), 3, 2)
    gradient, step = engine.image_gradients(theta, images, cotangent), 1e-4
    for direction in (torch.randn_like(images), torch.randn_like(images)):
        ahead, behind = (engine.class_gradients(theta, images + sign * step * direction) for sign in (1, -1))
        difference = (cotangent * (ahead - behind)).sum() / (2 * step)
        assert abs(difference - (gradient * direction).sum()) < NATIVE_FINITE_DIFFERENCES * gradient.norm() * direction.norm()


def test_class_gradients_are_the_derivatives_of_the_loss_and_add_up_over_images() -> None:
    module, theta = make("convnet:width=8,depth=2,activation=swish", (2, 8, 9), 3)
    engine = NativeEngine(module)
    images, cotangent = make_input(engine, (2, 8, 9), 3, 17)
    labels, step = torch.arange(3).repeat_interleave(17), 1e-5
    direction = cotangent[0]
    ahead, behind = (
        nn.functional.cross_entropy(engine.logits(theta + sign * step * direction, images.flatten(0, 1)), labels, reduction="none")
        for sign in (1, -1)
    )
    difference = ((ahead - behind) / (2 * step)).view(3, 17).mean(1)
    gradient = engine.class_gradients(theta, images)
    assert relative(gradient @ direction, difference) < NATIVE_FINITE_DIFFERENCES
    alone = torch.stack([engine.class_gradients(theta, images[:, i : i + 1]) for i in range(17)]).mean(0)
    assert relative(alone, gradient) < NATIVE_FLOAT64
    weighted = cotangent[0] * 2 - cotangent[1]
    parts = [engine.image_gradients(theta, images, each.expand(3, -1)) for each in (cotangent[0], cotangent[1], weighted)]
    assert relative(2 * parts[0] - parts[1], parts[2]) < NATIVE_FLOAT64


# The same bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("spec", "size"),
    [
        ("convnet:width=24", (3, 16, 16)),
        ("convnet:width=8,norm=layer,pooling=max", (1, 13, 18)),
        ("convnet:width=8,depth=2,norm=batch", (1, 13, 18)),
    ],
)
@pytest.mark.usefixtures("threads")
def test_threads_and_runs_change_no_bit_and_instruction_sets_little(spec: str, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    results = []
    for name in INSTRUCTION_SETS:
        compiled.extension.select_instruction_set(name)
        try:
            runs = []
            for number in (1, 1, 2, 3, 4):
                torch.set_num_threads(number)
                runs.append(make_and_do(spec, size, dtype, each=17))
        finally:
            compiled.extension.select_instruction_set(INSTRUCTION_SETS[0])
        for run in runs[1:]:
            assert_same_bits(run, runs[0])
        results.append(runs[0])
    for result in results[1:]:
        for name, value in results[0].items():
            assert relative(result[name], value) < NATIVE_INSTRUCTION_SETS[dtype], name


@pytest.mark.parametrize(
    "spec",
    ["convnet:width=8,norm=layer", "convnet:width=24,pooling=max", "convnet:width=8,norm=none,pooling=none", "convnet:width=8,norm=batch"],
)
def test_no_memory_is_read_before_it_is_written(spec: str) -> None:
    others = make_and_do("convnet:width=32,norm=layer", COLOUR)  # leaves its numbers in the buffers
    first = make_and_do(spec, (2, 9, 11), each=3)
    assert all(value.isfinite().all() for value in (*others.values(), *first.values()))
    make_and_do("convnet:width=64,depth=2,norm=none", (3, 30, 30))
    assert_same_bits(make_and_do(spec, (2, 9, 11), each=3), first)


@pytest.mark.parametrize("batch", [1, 7, 20, 51, 1000])
def test_training_draws_the_batches_that_the_torch_engine_draws(batch: int) -> None:
    module, theta = make("convnet:width=8", (1, 9, 9), 3)
    images, labels = torch.randn(51, 1, 9, 9, dtype=torch.float64), torch.arange(51) % 3
    generators, thetas = [torch.Generator().manual_seed(7) for _ in range(2)], [theta.clone(), theta.clone()]
    for engine, generator, weights in zip((NativeEngine(module), TorchEngine(module)), generators, thetas, strict=True):
        engine.train(weights, images, labels, Sgd(2, 0.05, 0.9, 1e-2, batch), generator)
    assert torch.equal(generators[0].get_state(), generators[1].get_state())
    assert relative(thetas[0] - theta, thetas[1] - theta) < NATIVE_FLOAT64


@pytest.mark.parametrize("groups", [(1,), (3,), (1, 2), (2, 1, 4)])
def test_distilled_training_keeps_what_the_torch_engine_keeps(groups: tuple[int, ...]) -> None:
    module, theta = make("convnet:width=8", (1, 9, 9), 7)
    images, labels = torch.randn(51, 1, 9, 9, dtype=torch.float64), torch.arange(51) % 7
    kept = Distillation(5 * torch.randn(51, sum(groups), dtype=torch.float64), groups, 2.5)
    thetas = [theta.clone() for _ in range(3)]
    for engine, weights in zip((NativeEngine(module), TorchEngine(module)), thetas, strict=False):
        engine.train(weights, images, labels, Sgd(2, 0.05, 0.9, 1e-2, 20), torch.Generator().manual_seed(7), distillation=kept)
    assert relative(thetas[0] - theta, thetas[1] - theta) < NATIVE_FLOAT64
    NativeEngine(module).train(thetas[2], images, labels, Sgd(2, 0.05, 0.9, 1e-2, 20), torch.Generator().manual_seed(7))
    assert (relative(thetas[2] - theta, thetas[1] - theta) > 1e-3) == (groups != (1,))  # one class alone is always certain


def soft_labels(count: int, classes: int) -> Tensor:
    return torch.randn(count, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).softmax(1)


@pytest.mark.parametrize("distilled", [False, True], ids=["plain", "distilled"])
@pytest.mark.parametrize("labels", [torch.arange(51) % 7, soft_labels(51, 7), soft_labels(51, 4), 3 * soft_labels(51, 7)])
@pytest.mark.parametrize("augment", [None, training_augmentation(["color", "crop/scale"], "image", cutmix=0.5)], ids=["", "augmented"])
def test_training_is_the_torch_engines_with_soft_labels_distillation_and_augmentation(
    labels: Tensor, augment: Any, distilled: bool
) -> None:
    module, theta = make("convnet:width=8", (1, 9, 9), 7)
    images = torch.randn(51, 1, 9, 9, dtype=torch.float64)
    kept = Distillation(5 * torch.randn(51, 3, dtype=torch.float64), (1, 2), 2.5) if distilled else None
    generators, thetas = [torch.Generator().manual_seed(7) for _ in range(3)], [theta.clone() for _ in range(3)]
    for engine, generator, weights in zip(
        (NativeEngine(module), TorchEngine(module), ReferenceEngine(module)), generators, thetas, strict=True
    ):
        engine.train(weights, images, labels, Sgd(3, 0.05, 0.9, 1e-2, 20), generator, augment, kept)
    for generator, weights in zip(generators[1:], thetas[1:], strict=True):
        assert torch.equal(generators[0].get_state(), generator.get_state())
        assert relative(thetas[0] - theta, weights - theta) < NATIVE_FLOAT64


def test_a_run_is_its_steps_one_after_another() -> None:
    module, theta = make("convnet:width=8", SMALL, 3, torch.float32)
    images, labels, engine = torch.randn(50, *SMALL), torch.arange(50) % 3, NativeEngine(module)
    whole, single = theta.clone(), theta.clone()
    engine.train(whole, images, labels, SGD, torch.Generator().manual_seed(1))
    engine.train(single, images, labels, SGD, torch.Generator().manual_seed(1), augment=lambda *batch: batch[:2])
    assert torch.equal(whole, single)
    whole, single = theta.clone(), theta.clone()  # a step is of one batch, however small those of a run are
    for weights, batch in ((whole, 20), (single, 50)):
        engine.training(weights, dataclasses.replace(SGD, batch=batch)).step(images, labels)
    assert torch.equal(whole, single)


# What is not a number, and other unusual inputs


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("spec", ["convnet:width=8", "convnet:width=8,norm=none,pooling=max", "convnet:width=24,norm=layer"])
def test_what_is_no_number_in_one_image_stays_with_it(spec: str, bad: float) -> None:
    module, theta = make(spec, (2, 13, 10), 3)
    engine = NativeEngine(module)
    images, cotangent = make_input(engine, (2, 13, 10), 3, 12)
    spoilt = images.clone()
    spoilt[1, 5, 1, 6, 4] = bad
    others = torch.ones(3, 12, dtype=torch.bool)
    others[1, 5] = False
    right, found = engine.class_gradients(theta, images), engine.class_gradients(theta, spoilt)
    assert torch.equal(found[[0, 2]], right[[0, 2]])
    assert found[1].isnan().any()
    right, found = engine.image_gradients(theta, images, cotangent), engine.image_gradients(theta, spoilt, cotangent)
    assert torch.equal(found[others], right[others])
    assert found[1, 5].isnan().any()
    right, found = (engine.logits(theta, each.flatten(0, 1)).view(3, 12, 3) for each in (images, spoilt))
    assert torch.equal(found[others], right[others])
    assert not found[1, 5].isfinite().any()
    for pull_back, size in ((engine.logit_gradients, 3), (engine.feature_gradients, module.classifier.in_features)):
        along = torch.ones(36, size, dtype=torch.float64)
        right, found = (pull_back(theta, each.flatten(0, 1), along).view(images.shape) for each in (images, spoilt))
        assert torch.equal(found[others], right[others])
    right = engine.image_gradients(theta, images, cotangent)
    cotangent[1, 3] = bad  # one number of the first convolution
    found = engine.image_gradients(theta, images, cotangent)
    assert torch.equal(found[[0, 2]], right[[0, 2]])
    assert found[1].flatten(1).isnan().any(1).all()
    theta[-1] = float("nan")
    assert engine.logits(theta, images.flatten(0, 1)).isnan().any(1).all()


def test_views_of_memory_give_the_same_bits() -> None:
    module, theta = make("convnet:width=8", (2, 9, 10), 3)
    engine = NativeEngine(module)
    images, cotangent = make_input(engine, (2, 9, 10), 3, 4)
    expected = jobs(engine, theta, images, cotangent)
    views = {
        "slices": lambda x: torch.stack([x, x + 1], -1)[..., 0],
        "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
        "a part": lambda x: torch.cat([x, x, x])[len(x) : 2 * len(x)],
        "with gradients": lambda x: x.clone().requires_grad_(),
    }
    for view in views.values():
        assert_same_bits(jobs(engine, view(theta).detach(), view(images).detach(), view(cotangent).detach()), expected)
        assert torch.equal(engine.class_gradients(view(theta), view(images)), expected["class gradients"])
    last = images.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)  # channels last
    assert torch.equal(engine.image_gradients(theta, last, cotangent), expected["image gradients"])
    one = images[:, :1].expand(-1, 4, -1, -1, -1)
    assert torch.equal(engine.class_gradients(theta, one), engine.class_gradients(theta, one.contiguous()))
    flat = cotangent[:1].expand(3, -1)
    assert torch.equal(engine.image_gradients(theta, images, flat), engine.image_gradients(theta, images, flat.contiguous()))


def test_training_reaches_weights_that_lie_apart() -> None:
    module, theta = make("convnet:width=8", SMALL, 3)
    engine, images, labels = NativeEngine(module), torch.randn(9, *SMALL, dtype=torch.float64), torch.arange(9) % 3
    whole = theta.clone()
    engine.train(whole, images, labels, SGD, torch.Generator().manual_seed(0))
    apart = torch.stack([theta, theta], 1)
    engine.train(apart[:, 0], images, labels, SGD, torch.Generator().manual_seed(0))
    assert torch.equal(apart[:, 0], whole)
    assert torch.equal(apart[:, 1], theta)


CALLS = {
    "class_gradients": lambda engine, theta, images: engine.class_gradients(theta, images),
    "image_gradients": lambda engine, theta, images: engine.image_gradients(theta, images, torch.zeros(len(images), len(theta)).to(theta)),
    "logits": lambda engine, theta, images: engine.logits(theta, images.flatten(0, 1)),
    "features": lambda engine, theta, images: engine.features(theta, images.flatten(0, 1)),
    "logit_gradients": lambda engine, theta, images: engine.logit_gradients(
        theta, images.flatten(0, 1), torch.zeros(images.shape[:2].numel(), 3).to(theta)
    ),
    "feature_gradients": lambda engine, theta, images: engine.feature_gradients(
        theta, images.flatten(0, 1), torch.zeros(images.shape[:2].numel(), 32).to(theta)
    ),
    "train": lambda engine, theta, images: engine.train(
        theta, images.flatten(0, 1), torch.zeros(images.shape[:2].numel(), dtype=torch.int64), SGD, torch.Generator()
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_images_of_another_kind_are_refused(call: Any) -> None:
    module, theta = make("convnet:width=8", (3, 16, 16), 3, torch.float32)
    engine, right = NativeEngine(module), torch.zeros(3, 2, 3, 16, 16)
    call(engine, theta.clone(), right)
    for images in (right.double(), right.half(), right.long(), right.to("meta")):
        with pytest.raises(UsageError, match=r"images are \[.*\] torch\.\w+ on \w+; expected \d dimensions and torch\.float32 on cpu"):
            call(engine, theta, images)
    for images in (torch.zeros(3, 2, 3, 16), torch.zeros(3, 2, 3, 16, 16, 1)):
        with pytest.raises(UsageError, match=r"expected [45] dimensions"):
            call(engine, theta, images)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("size", [(1, 16, 16), (4, 16, 16), (3, 8, 8), (3, 32, 32), (3, 16, 24)], ids=str)
def test_images_that_are_not_of_the_modules_size_are_refused(size: tuple[int, int, int], call: Any) -> None:
    for norm in ("instance", "layer"):
        module, theta = make(f"convnet:width=8,norm={norm}", (3, 16, 16), 3, torch.float32)
        with pytest.raises(UsageError, match=r"images? (are|is) "):
            call(NativeEngine(module), theta, torch.zeros(3, 2, *size))


# Batch norm


def assert_same_state(engine: Engine, expected: Engine) -> None:
    """The statistics of both modules, and how many batches they are of."""
    for (name, found), right in zip(engine.module.state_dict().items(), expected.module.state_dict().values(), strict=True):
        assert torch.equal(found, right) if "running" not in name else relative(found, right) < NATIVE_FLOAT64, name


@pytest.mark.parametrize(
    ("spec", "size", "count"),
    [
        *(("convnet:width=16,norm=batch", (2, 9, 10), count) for count in (1, 7, 40, 41, 51)),  # the last batch has 1, 7, 20, 1 and 11
        ("convnet:width=12,depth=2,pooling=max,activation=sigmoid,norm=batch", (2, 9, 10), 51),
        ("convnet:width=8,depth=1,pooling=none,norm=batch", (1, 1, 2), 9),
    ],
)
def test_batch_norm_is_trained_with_the_statistics_of_each_batch(spec: str, size: tuple[int, int, int], count: int) -> None:
    module, theta = make(spec, size, 3)
    images, labels = 3 * torch.randn(count, *size, dtype=torch.float64) + 1, torch.arange(count) % 3
    engines, thetas = (NativeEngine(module), TorchEngine(copy.deepcopy(module))), [theta.clone(), theta.clone()]
    for engine, weights in zip(engines, thetas, strict=True):
        engine.train(weights, images, labels, SGD, torch.Generator().manual_seed(1))
    assert relative(thetas[0] - theta, thetas[1] - theta) < NATIVE_FLOAT64
    assert_same_state(*engines)
    found, expected = (engine.logits(theta, images) for engine in engines)
    assert relative(found, expected) < NATIVE_FLOAT64
    before = found
    for engine in engines:
        engine.freeze_statistics(theta, 3 * images + 1)
    found, expected = (engine.logits(theta, images) for engine in engines)
    assert relative(found, expected) < NATIVE_FLOAT64
    assert relative(found, before) > 1e-3


@pytest.mark.parametrize("momentum", [None, 0.0, 0.7, 1.0])
def test_statistics_move_by_the_momentum_of_their_norm_or_are_those_of_all_batches(momentum: float | None) -> None:
    module, theta = make("convnet:width=8,depth=2,norm=batch", SMALL, 3)
    module.features[1].momentum = momentum
    images, labels = 3 * torch.randn(51, *SMALL, dtype=torch.float64) + 1, torch.arange(51) % 3
    engines = NativeEngine(module), TorchEngine(copy.deepcopy(module))
    for engine in engines:
        engine.train(theta.clone(), images, labels, SGD, torch.Generator().manual_seed(1))
    assert_same_state(*engines)


def test_a_batch_of_one_number_of_each_channel_is_refused() -> None:
    module = nn.Sequential(nn.Conv2d(1, 8, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double()
    engine, before = NativeEngine(module), copy.deepcopy(module.state_dict())
    theta = engine.layout.flatten(module)
    with pytest.raises(UsageError, match="a batch norm in training needs more than one number of each channel; give batches of more than"):
        engine.train(theta, torch.randn(1, *SMALL).double(), torch.zeros(1, dtype=torch.int64), SGD, torch.Generator())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(theta, engine.layout.flatten(module))


# Threads and processes of the caller


@pytest.mark.usefixtures("threads")
def test_several_threads_may_call_at_once() -> None:
    torch.set_num_threads(2)
    calls = []
    for spec, size in (("convnet:width=8", (1, 13, 18)), ("convnet:width=32,norm=layer", COLOUR), ("convnet:width=16,norm=batch", SMALL)):
        module, theta = make(spec, size, 3)
        engine = NativeEngine(module)
        calls.append((engine, theta, *make_input(engine, size, 3, 9)))

    def compute(number: int) -> list[Tensor]:
        engine, theta, images, cotangent = calls[number % 3]
        results = [engine.class_gradients(theta, images), engine.image_gradients(theta, images, cotangent)]
        return [*results, engine.logits(theta, images.flatten(0, 1))]

    expected = [compute(number) for number in range(3)]
    with ThreadPoolExecutor(4) as pool:
        for number, found in enumerate(pool.map(compute, range(30))):
            assert all(map(torch.equal, found, expected[number % 3]))


FORK = """
import os, sys, torch
import test_native as t
torch.set_num_threads(3)
module, theta = t.make("convnet:width=8", (1, 13, 18), 3)
engine = t.NativeEngine(module)
images, cotangent = t.make_input(engine, (1, 13, 18), 3, 17)
compute = lambda: (engine.class_gradients(theta, images), engine.image_gradients(theta, images, cotangent))
expected = compute()
for _ in range(5):
    child = os.fork()
    if child == 0:
        os._exit(0 if all(map(torch.equal, compute(), expected)) else 1)
    assert os.waitpid(child, 0)[1] == 0
assert all(map(torch.equal, compute(), expected))
print("done")
"""


def test_a_forked_child_computes_after_its_parent_did() -> None:
    done = run_apart(FORK, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr


MEMORY = """
import resource, torch
import test_native as t
module, theta = t.make("convnet:width=16", (1, 32, 32), 10, torch.float32)
engine = t.NativeEngine(module)
peaks = []
for each in (20, 200):
    images, cotangent = torch.randn(10, each, 1, 32, 32), torch.randn(10, len(theta))
    result = engine.image_gradients(theta, images, cotangent)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
print(peaks[1] - peaks[0])
"""


def test_memory_does_not_grow_with_the_images_but_for_inputs_and_outputs() -> None:
    done = run_apart(MEMORY, timeout=60)
    assert int(done.stdout) < 2 * 8 + 16, done.stderr  # MiB; the first map of all images would take 125


@pytest.mark.parametrize("record", [0, 1 << 18, 1 << 20], ids=["none kept", "some at a time", "all kept"])
@pytest.mark.parametrize("each", [1, 5, 19])
@pytest.mark.parametrize("spec", ["convnet:width=8", "convnet:width=16,norm=layer,pooling=max", "convnet:width=8,depth=1,norm=none"])
def test_matching_gives_the_same_whatever_is_kept_between_its_passes(
    monkeypatch: pytest.MonkeyPatch, spec: str, each: int, record: int
) -> None:
    module, theta = make(spec, (1, 8, 10), 4)
    native, reference = NativeEngine(module), ReferenceEngine(copy.deepcopy(module))
    images, real = make_input(native, (1, 8, 10), 4, each)
    monkeypatch.setattr("fastdc.engines.native._RECORD", record)
    for _ in range(2):  # the second finds what the first has left in memory
        found = native.match(theta, images, real, "layerwise_cosine")
        for value, expected in zip(found, reference.match(theta, images, real, "layerwise_cosine"), strict=True):
            assert relative(value, expected) < NATIVE_FLOAT64


@pytest.mark.usefixtures("threads")
def test_threads_may_match_with_one_engine_at_once() -> None:
    torch.set_num_threads(1)
    module, theta = make("convnet:width=8", SMALL, 3)
    engine = NativeEngine(module)
    inputs = [(make_input(engine, SMALL, 3, each)) for each in (3, 5, 8, 2)]
    match = lambda pair: engine.match(theta, *pair, "layerwise_cosine")  # noqa: E731
    expected = list(map(match, inputs))
    with ThreadPoolExecutor(4) as pool:
        for found, right in zip(pool.map(match, inputs * 10), expected * 10, strict=True):
            assert all(map(torch.equal, found, right))


# Who takes the native engine


def test_every_reason_against_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    good = build("convnet:width=8", 3, 10, (16, 16))
    assert NativeEngine.unsupported_reasons(good) == []
    assert NativeEngine.unsupported_reasons(nn.Sequential(nn.Flatten(), nn.Linear(8, 2))) == [
        "nothing comes before its linear layer; it serves one block or more"
    ]
    bad = build("convnet:width=12,depth=17,norm=layer,pooling=none", 3, 10, (16, 16)).half()
    words = ["a layer norm is over 12 channels", "more than 16 blocks", "torch.float16"]
    for reason, expected in zip(NativeEngine.unsupported_reasons(bad), words, strict=True):
        assert expected in reason
    monkeypatch.setattr(compiled, "extension", None)  # which says how many blocks it serves
    reasons = NativeEngine.unsupported_reasons(bad)
    for reason, expected in zip(reasons, ["fastdc._C is not there", "a layer norm is over 12", "torch.float16"], strict=True):
        assert expected in reason
    with pytest.raises(UsageError, match=r"'native' cannot serve ConvNet: native: ") as refusal:
        make_engine("native", bad)
    assert all(reason in str(refusal.value) for reason in reasons)
    assert resolve_engine("auto", good) == "torch"
    assert resolve_engine("auto", bad) == "torch"


def test_auto_takes_it_for_what_it_serves_and_torch_for_the_rest() -> None:
    for spec in ("convnet:width=8", "convnet:width=24,norm=batch,pooling=max", "convnet:width=128,depth=16,pooling=none"):
        assert resolve_engine("auto", build(spec, 3, 10, (16, 16))) == "native"
        assert isinstance(make_engine("auto", build(spec, 3, 10, (16, 16)).double()), NativeEngine)
    assert resolve_engine("auto", build("vgg11", 3, 10, (32, 32))) == "native"
    for module in (build("resnet18", 3, 10, (16, 16)), build("convnet:width=12,norm=group", 3, 10, (16, 16)), nn.Linear(3, 3)):
        assert resolve_engine("auto", module) == "torch"
    assert resolve_engine("auto", build("convnet:width=8", 3, 10, (16, 16)).bfloat16()) == "torch"
    with pytest.raises(UsageError, match="takes no options"):
        make_engine("native:threads=2", build("convnet:width=8", 3, 10, (16, 16)))


class Changed(nn.Module):
    """Another layer than a ConvNet has."""

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh()


CHANGES: dict[str, Any] = {
    "another activation": lambda module: module.features.__setitem__(2, Changed()),
    "another slope": lambda module: module.features.__setitem__(2, nn.LeakyReLU(0.2)),
    "activations that differ": lambda module: module.features.__setitem__(6, nn.Sigmoid()),
    "another epsilon": lambda module: setattr(module.features[1], "eps", 0.1),
    "a norm without scale": lambda module: module.features.__setitem__(1, nn.GroupNorm(8, 8, affine=False)),
    "a larger kernel": lambda module: module.features.__setitem__(4, nn.Conv2d(8, 8, 5, padding=2)),
    "a convolution by groups": lambda module: module.features.__setitem__(4, nn.Conv2d(8, 8, 3, padding=1, groups=8)),
    "no bias": lambda module: module.features.__setitem__(4, nn.Conv2d(8, 8, 3, padding=1, bias=False)),
    "another padding": lambda module: setattr(module.features[4], "padding_mode", "circular"),
    "another pooling": lambda module: module.features.__setitem__(3, nn.AvgPool2d(2, ceil_mode=True)),
    "a hook": lambda module: module.features[0].register_forward_hook(lambda *args: 2 * args[2]),
    "a deeper classifier": lambda module: setattr(module, "classifier", nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 3))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_convnet_that_was_changed_is_refused_or_computed_as_it_is(change: Any) -> None:
    module = build("convnet:width=8", 1, 3, (8, 8)).double()
    change(module)
    module.double()
    engine, torchs = make_engine("auto", module), TorchEngine(module)
    theta, images = torchs.layout.flatten(module), torch.randn(3, 2, 1, 8, 8, dtype=torch.float64)
    expected = torchs.class_gradients(theta, images)
    assert relative(engine.class_gradients(theta, images), expected) < NATIVE_FLOAT64


# Nothing to do


def test_nothing_to_do_is_done() -> None:
    module, theta = make("convnet:width=8", SMALL, 3)
    engine, before, generator = NativeEngine(module), theta.clone(), torch.Generator().manual_seed(0)
    state = generator.get_state()
    engine.train(theta, torch.randn(9, *SMALL).double(), torch.zeros(9, dtype=torch.int64), Sgd(0, 0.1), generator)
    assert torch.equal(theta, before)
    assert torch.equal(generator.get_state(), state)
    none = torch.zeros(0, *SMALL, dtype=torch.float64)
    assert engine.logits(theta, none).shape == (0, 3)
    assert engine.features(theta, none).shape == (0, 32)
    assert engine.logit_gradients(theta, none, none.new_zeros(0, 3)).shape == none.shape
    assert engine.feature_gradients(theta, none, none.new_zeros(0, 32)).shape == none.shape
    engine.train(theta, none, torch.zeros(0, dtype=torch.int64), Sgd(2, 0.1), generator)
    assert torch.equal(theta, before)


NO_CLASSES = """
import torch
import test_native as t
module, theta = t.make("convnet:width=8", t.SMALL, 3)
engine, none = t.NativeEngine(module), torch.zeros(0, 4, *t.SMALL, dtype=torch.float64)
assert engine.class_gradients(theta, none).shape == (0, len(theta))
assert engine.image_gradients(theta, none, torch.zeros(0, len(theta), dtype=torch.float64)).shape == none.shape
print("done")
"""


def test_no_classes_have_no_gradients() -> None:
    done = run_apart(NO_CLASSES, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr


# Whole runs

RUN: dict[str, Any] = {"ipc": 2, "model": "convnet:width=8", "iterations": 3, "matching_steps": 3, "model_epochs": 2, "batch_real": 32}


def test_a_run_gives_the_images_of_the_torch_engine() -> None:
    runs = [fastdc.condense("digits", engine=engine, **RUN).images for engine in ("native", "torch")]
    start = fastdc.condense("digits", **{**RUN, "iterations": 1, "matching_steps": 1, "batch_real": 2}, lr_images=1e-30).images
    assert relative(runs[0] - start, runs[1] - start) < NATIVE_RUN


def test_an_interrupted_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole = fastdc.condense("digits", engine="native", out=tmp_path / "whole", progress=False, **RUN).images
    with pytest.raises(InterruptedError):
        fastdc.condense("digits", engine="native", out=tmp_path / "cut", progress=False, callbacks=[stop_at(iteration=2)], **RUN)
    assert (tmp_path / "cut" / "checkpoint.safetensors").exists()
    assert torch.equal(fastdc.condense("digits", engine="native", out=tmp_path / "cut", progress=False, **RUN).images, whole)
