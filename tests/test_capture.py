"""What is captured as CUDA graphs: it must read nothing on the host and launch little; and it must give the same bits as without.

A graph is played here by doing its work again in the same memory, so that the CPU shows what is read from the wrong place.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import needs_triton, needs_triton_to_run
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastdc
from fastdc.data import ImageData
from fastdc.engines import CudaEngine, Distillation, DrawnAugmentation, Sgd, cuda
from fastdc.engines.base import Training
from fastdc.engines.capture import Graphs, Place, Work
from fastdc.engines.chain.precision import PRECISIONS
from fastdc.engines.gather_normalise import DeviceImages
from fastdc.models import build
from fastdc.training import whole_set
from fastdc.training.augment import crop_scale_or_rotate, training_augmentation
from fastdc.training.by_batch import whole_batches
from fastdc.training.operations import OPERATIONS
from fastdc.training.whole_set import WholeSetOptions, train_on_whole_set

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES, SIZE = 10, (3, 16, 16)

# What makes the host wait for a number, or brings one from it.
HOST = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "lift_fresh", "bincount"}
FREE = {  # what launches nothing
    "view", "_unsafe_view", "expand", "t", "transpose", "permute", "slice", "select", "unsqueeze", "squeeze", "alias", "detach",
    "as_strided", "unfold", "split", "split_with_sizes", "unbind", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided",
}  # fmt: skip


class Launches(TorchDispatchMode):
    """Counts operators that would launch a kernel, and notes those that need the host."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        if name not in FREE:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def problem(spec: str = "convnet:width=8", dtype: torch.dtype = torch.float32) -> tuple[CudaEngine, Tensor, Tensor, Tensor]:
    """An engine, weights, real images [C, 4, ...] and synthetic ones [C, 2, ...]."""
    torch.manual_seed(0)
    engine = CudaEngine(build(spec, SIZE[0], CLASSES, SIZE[1:]).to(dtype))
    return engine, engine.layout.flatten(engine.module), *(torch.randn(CLASSES, each, *SIZE, dtype=dtype) for each in (4, 2))


# What the default network launches for chunks of a GPU where nothing is captured, in order: for the real side of one class of 256 images,
# the synthetic side of ten classes of ten, and a step of SGD with 100 images. One call of the library counts as one.
LAUNCHES = {"float32": (66, 81, 49), "tf32": (23, 37, 30), "bfloat16": (48, 69, 56)}
MATCHING_STEP = 60  # of both sides, where tensor cores multiply and sums stay float32


@needs_triton
@needs_triton_to_run
@pytest.mark.parametrize("precision", LAUNCHES)
def test_a_step_needs_nothing_from_the_host_and_launches_so_much(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastdc.kernels import class_sums, convolution, cross_entropy, norm_act_pool, winograd

    rounding = PRECISIONS[precision]
    monkeypatch.setitem(
        PRECISIONS, precision, rounding if precision == "float32" else dataclasses.replace(rounding, elsewhere=rounding.on_gpu)
    )
    engine = CudaEngine(build("convnet", 3, CLASSES, (32, 32)), precision, kernels=True)
    engine._memory = cuda._MEMORY["cuda"] << 20
    theta, labels, each = engine.layout.flatten(engine.module), torch.arange(CLASSES), 10
    real, images = torch.zeros(1, 256, 3, 32, 32), torch.zeros(CLASSES, each, 3, 32, 32)
    target = torch.ones(CLASSES, len(theta))
    training = engine.training(theta.clone(), Sgd(1, 0.1))
    kernels: list[object] = []
    for module in (class_sums, convolution, cross_entropy, norm_act_pool, winograd):
        monkeypatch.setattr(module, "launch", lambda kernel, *arguments, **constants: kernels.append(kernel))
    jobs: list[Callable[[], object]] = [
        lambda: engine.seen_gradients(theta, real, "layerwise_cosine", labels[:1]),
        lambda: engine.match(theta, images, target, "layerwise_cosine", labels),
        lambda: training.step(images.flatten(0, 1), labels.repeat_interleave(each)),
    ]
    found = []
    for job in jobs:
        job()  # once for what is counted once
        kernels.clear()
        with Launches() as launches:
            job()
        assert not launches.counts.keys() & HOST
        found.append(launches.counts.total() + len(kernels))
    assert all(count <= most for count, most in zip(found, LAUNCHES[precision], strict=True)), found
    assert sum(found[:2]) <= MATCHING_STEP or precision != "tf32"


def test_work_that_was_interrupted_is_done_as_it_is_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, place = Graphs(), Place([torch.ones(1)], fixed=True)
    monkeypatch.setattr(graphs, "captured", lambda *_: pytest.fail("captured before it was done once"))

    def interrupted(_: Tensor) -> tuple[Tensor]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        graphs.do(place, "work", interrupted)
    assert graphs.do(place, "work", lambda value: (2 * value,))[0].item() == 2


class Again:
    """A graph whose replay does the work again, and writes what it gives where the first time it was written; what is captured is not
    done: what the work has changed of `others` is brought back."""

    def __init__(self, work: Work, tensors: Sequence[Tensor], others: Sequence[Tensor]) -> None:
        self.work, self.tensors = work, tensors
        before = [(tensor, tensor.clone()) for tensor in (*tensors, *others)]
        self.found = work(*tensors)
        for tensor, value in before:
            tensor.copy_(value)

    def replay(self) -> None:
        for place, value in zip(self.found, self.work(*self.tensors), strict=True):
            place.copy_(value)


class Played(Graphs):
    """Graphs on the CPU, of work that may change the buffers of a module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.buffers = list(module.buffers())

    def captures(self, tensors: Sequence[Tensor]) -> bool:
        return self.wanted

    def captured(self, work: Work, tensors: Sequence[Tensor]) -> Any:
        graph = Again(work, tensors, self.buffers)
        return graph, graph.found


def test_a_capture_has_a_stream_of_its_device_and_does_not_mind_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []

    def graph(_: Any, **options: Any) -> contextlib.nullcontext[None]:
        given.append(options)
        return contextlib.nullcontext()

    for name, stand_in in {"CUDAGraph": object, "Stream": object, "graph_pool_handle": object, "graph": graph}.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    graphs, others = Graphs(), Graphs()
    for each in (graphs, graphs, others):
        each.captured(lambda _: (), [torch.zeros(1)])
    assert [options["capture_error_mode"] for options in given] == ["thread_local"] * 3
    assert given[0]["stream"] is given[1]["stream"] is not given[2]["stream"]


@pytest.mark.parametrize("spec", ["convnet:width=8", "convnet:width=8,norm=batch", "mlp:width=8"])
def test_what_is_captured_gives_the_same_bits(spec: str) -> None:
    engine, theta, _, _ = problem(spec)
    played = CudaEngine(copy.deepcopy(engine.module))
    played.graphs = Played(played.module)
    kept: list[tuple[Tensor, Tensor]] = []
    for call in range(4):
        torch.manual_seed(call)
        weights, real, images = theta + 0.01 * torch.randn_like(theta), torch.randn(3, 5, *SIZE), torch.randn(3, 2, *SIZE)
        classes = torch.randperm(CLASSES)[:3]
        results = []
        for each in (engine, played):
            gradients = each.class_gradients(weights, real, classes)
            matched = each.match(weights, images, gradients, "layerwise_cosine", classes)
            seen = each.seen_gradients(weights, real, "layerwise_cosine", classes)
            results.append([gradients, seen, *matched, each.image_gradients(weights, images, gradients, classes)])
        kept += zip(*results, strict=True)
    assert played.graphs.launches == 3 * 4  # each the first time as it is
    assert all(torch.equal(*pair) for pair in kept)  # those of earlier calls as well


def test_a_class_that_is_larger_than_a_chunk_is_captured_part_by_part() -> None:
    engine, theta, real, images = problem()
    played = CudaEngine(copy.deepcopy(engine.module))
    played.graphs = Played(played.module)
    gradients = engine.class_gradients(theta, real)
    for each in (engine, played):
        each._memory = 1  # of one image
    for call in range(3):
        results = [each.match(theta, (call + 1) * images, gradients, "layerwise_cosine") for each in (engine, played)]
        assert all(map(torch.equal, *results))
    assert played.graphs.launches == 2 * 2  # gradients by the weights and by the images, each the first time as it is


@pytest.mark.parametrize("spec", ["convnet:width=8", "convnet:width=8,norm=batch"])
@pytest.mark.parametrize(("count", "batch"), [(20, 6), (20, 10), (6, 256)])
@pytest.mark.parametrize("distilled", [False, True])
def test_training_that_is_captured_gives_the_same_bits(
    spec: str, count: int, batch: int, distilled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastdc.engines.draws._POSITIONS", 2 * count)  # two epochs are drawn at once
    sgd, engine, theta = Sgd(5, 0.05, 0.9, 1e-3, batch), *problem(spec)[:2]
    played = CudaEngine(copy.deepcopy(engine.module))
    played.graphs = Played(played.module)
    for call in range(2):
        torch.manual_seed(call)
        images, labels = torch.randn(count, *SIZE), torch.arange(count) % CLASSES
        kept = Distillation(torch.randn(count, 4), (1, 3), 1.5) if distilled else None
        found = [theta.clone(), theta.clone()]
        for each, weights in zip((engine, played), found, strict=True):
            each.train(weights, images, labels, sgd, torch.Generator().manual_seed(call), distillation=kept)
        assert torch.equal(*found)
        assert not torch.equal(found[0], theta)
        theta = found[0]
    assert all(map(torch.equal, engine.module.buffers(), played.module.buffers()))
    steps, sizes = -(-count // batch), len({min(batch, count), count % min(batch, count) or min(batch, count)})
    assert played.graphs.launches == 2 * 5 * steps - sizes  # each size once as it is


AUGMENTATIONS = {
    "batch": training_augmentation(list(OPERATIONS), "batch"),
    "image": training_augmentation(["flip", "color", "crop/scale/rotate"], "image", cutmix=0.5),
    "mnist": crop_scale_or_rotate,
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_needs_nothing_from_the_host_once_it_is_drawn(name: str) -> None:
    augment, images, labels = AUGMENTATIONS[name], torch.randn(6, *SIZE), torch.arange(6)
    assert isinstance(augment, DrawnAugmentation)
    for seed in range(20):
        kind, numbers = augment.draw(len(images), *SIZE[1:], torch.Generator().manual_seed(seed))
        with Launches() as launches:
            found = augment.apply(images, labels, kind, numbers, CLASSES)
        assert not launches.counts.keys() & HOST
        expected = augment(images, labels, torch.Generator().manual_seed(seed))
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], labels if found[1] is labels else F.pad(expected[1], (0, CLASSES - 6)))


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("soft", [False, True])
def test_training_with_augmentation_is_captured_and_gives_the_same_bits(name: str, soft: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastdc.engines.draws._POSITIONS", 500)  # some epochs are drawn at once
    augment, sgd, (engine, theta, _, _) = AUGMENTATIONS[name], Sgd(12, 0.02, 0.9, 1e-3, 8), problem()
    images, labels = torch.randn(12, *SIZE), torch.arange(12) % CLASSES
    if soft:
        labels = torch.rand(12, 4).softmax(1)
    played = CudaEngine(engine.module)
    played.graphs = Played(nn.Identity())
    found = []
    for run in (
        functools.partial(Training.run, engine.training(theta, sgd)),
        engine.training(theta, sgd).run,
        played.training(theta, sgd).run,
    ):
        before, order = theta.clone(), torch.Generator().manual_seed(3)
        run(images, labels, order, augment)
        found.append((theta.clone(), order.get_state()))
        theta.copy_(before)
    assert not torch.equal(found[0][0], theta)
    for weights, state in found[1:]:
        assert torch.equal(weights, found[0][0])
        assert torch.equal(state, found[0][1])
    (place,) = played.graphs._places.values()
    assert played.graphs.launches == 24 - len(place.graphs) > 0


@pytest.mark.parametrize("spec", ["convnet:width=8", "convnet:width=8,norm=batch"])
@pytest.mark.parametrize("batch", [6, 10, 256])
@pytest.mark.parametrize(("some", "name"), [(False, None), (True, None), (True, "image")])
def test_training_on_a_set_is_captured_and_gives_the_same_bits(
    spec: str, batch: int, some: bool, name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastdc.engines.draws._POSITIONS", 500 if name else 50)  # two epochs or more are drawn at once
    augment = AUGMENTATIONS[name] if name else None
    images = torch.randint(256, (20, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ImageData.of(images, torch.arange(20) % CLASSES)
    on_device = DeviceImages(data.images, data.labels, CLASSES, data.class_names, data.mean, data.std)
    positions = torch.tensor([19, *range(12)]) if some else None
    engine, theta, _, _ = problem(spec)
    played = CudaEngine(copy.deepcopy(engine.module))
    played.graphs = Played(played.module)
    count, phases = 13 if some else 20, [Sgd(3, 0.05, 0.9, 1e-3, batch), Sgd(2, 0.02, 0.9, 1e-3, batch)]
    trained, at_the_end = [], []
    for each, drawn_from in ((engine, data), (played, on_device)):
        weights, order = theta.clone(), torch.Generator().manual_seed(1)
        fetch = whole_batches(drawn_from, weights, positions)
        for phase in phases:
            steps = each.training(weights, phase).steps(orders(count, phase, order), fetch, augment, order)
            for number, _ in enumerate(steps, 1):
                if number % -(-count // batch) == 0:
                    at_the_end.append(weights.clone())
        trained.append(weights)
    assert all(map(torch.equal, engine.module.buffers(), played.module.buffers()))
    weights, order = theta.clone(), torch.Generator().manual_seed(1)
    for phase in phases:  # as an engine does it that captures nothing
        plain = CudaEngine(engine.module).training(weights, phase)
        for _ in Training.steps(plain, orders(count, phase, order), whole_batches(data, weights, positions), augment, order):
            pass
    assert not torch.equal(weights, theta)
    assert all(torch.equal(found, weights) for found in trained)
    assert all(map(torch.equal, at_the_end[:5], at_the_end[5:]))
    assert len(at_the_end) == 2 * 5
    epoch, sizes = -(-count // batch), len({min(batch, count), count % min(batch, count) or min(batch, count)})
    if augment is None:
        assert played.graphs.launches == 5 * epoch - 2 * sizes  # each size of each phase once as it is


def orders(count: int, sgd: Sgd, generator: torch.Generator) -> Iterator[Tensor]:
    return (torch.randperm(count, generator=generator) for _ in range(sgd.epochs))


def test_a_network_trained_on_the_whole_set_by_captured_steps_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = fastdc.load_dataset("digits")
    options = WholeSetOptions(model="convnet:width=8,depth=1", epochs=2, engine="cuda", device="cpu", progress=False)
    engines: list[CudaEngine] = []

    def played(_: str, module: nn.Module) -> CudaEngine:
        engines.append(CudaEngine(module))
        engines[0].graphs = Played(module)
        return engines[0]

    expected = train_on_whole_set(train, dataclasses.replace(options, cache=tmp_path / "one"))
    monkeypatch.setattr(whole_set, "make_engine", played)
    found = train_on_whole_set(train, dataclasses.replace(options, cache=tmp_path / "another"))
    assert engines[0].graphs.launches == 2 * 6 - 4  # full batches and the last one, at each of two rates
    assert (found.losses, found.accuracies) == (expected.losses, expected.accuracies)
    assert torch.equal(found.forgetting, expected.forgetting)
    assert all(map(torch.equal, found.module.state_dict().values(), expected.module.state_dict().values()))


def test_what_cannot_be_captured_is_launched_kernel_by_kernel() -> None:
    class Refusing(Played):
        def captured(self, work: Work, tensors: Sequence[Tensor]) -> Any:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

    engine, theta, real, _ = problem()
    expected = engine.class_gradients(theta, real)
    engine.graphs = Refusing(engine.module)
    assert torch.equal(engine.class_gradients(theta, real), expected)
    with pytest.warns(UserWarning, match=r"cannot be captured as a CUDA graph \(operation not permitted when stream is capturing\)"):
        assert torch.equal(engine.class_gradients(theta, real), expected)
    assert torch.equal(engine.class_gradients(theta, real), expected)


def test_few_places_are_kept() -> None:
    graphs = Played(nn.Identity())
    for size in [*range(1, 40), 39, 39]:
        (found,) = graphs.done("sum", lambda values: (values.sum()[None],), [torch.ones(size)])
        assert found.item() == size
    assert graphs.launches == 2
    assert len(graphs._places) == 16


def test_graphs_that_are_dropped_leave_nothing() -> None:
    graphs = Played(nn.Identity())
    for _ in range(3):
        graphs.done("sum", lambda values: (values.sum()[None],), [torch.ones(3)])
    kept = [weakref.ref(place.tensors[0]) for place in graphs._places.values()]
    assert [tensor() is not None for tensor in kept] == [True]
    gc.disable()
    try:
        del graphs
        assert kept[0]() is None
    finally:
        gc.enable()
