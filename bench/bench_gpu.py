"""What only a GPU can tell, stage by stage: bench/gpu.sh runs this. Each row is one JSON line in FOLDER/results.jsonl, written at once.

    python bench/bench_gpu.py STAGE FOLDER [--until T]     ceilings, distance-tests, engine-tests, engines, chunks, graphs, convolutions,
                                                             distance, condensation, compiled; or table, which prints what the rows say

A row that fails is a row with `error`, one for which there is no time left or no device a row with `skipped`; the rest goes on. Times are
medians; `event_ms` lies between two CUDA events, `wall_ms` between two synchronisations, `kernel_ms` is the sum over all kernels of one
call, so that the difference is time in which the GPU waits. Without a GPU everything is tiny.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from record import commit
from torch import Tensor, nn

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
TESTS = Path(__file__).parent.parent / "tests"
MODEL = "convnet" if GPU else "convnet:width=4,depth=2"
SIZE = (32, 32) if GPU else (8, 8)
CLASSES, REAL, COUNT = (10, 256, 20_000) if GPU else (10, 4, 200)
IPCS = (10, 1, 50, 200) if GPU else (2, 1)  # the most wanted first
METRIC, PRECISIONS = "layerwise_cosine", ("float32", "tf32", "bfloat16")
LR_MODEL, LR_IMAGES = 0.01, 0.1


# Rows


class Results:
    """The rows of one stage."""

    def __init__(self, stage: str, folder: Path, until: float) -> None:
        self.stage, self.folder, self.until = stage, folder, until
        self.failed = False
        self.machine = {"card": torch.cuda.get_device_name() if GPU else "cpu", "torch": torch.__version__, "cuda": torch.version.cuda}
        self.machine |= {"triton": version_of("triton"), "commit": commit()}

    def left(self) -> float:
        """Seconds of this stage's time that are left."""
        return self.until - time.time()

    def row(self, what: str, **figures: Any) -> None:
        figures = {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in figures.items()}
        with (self.folder / "results.jsonl").open("a") as file:
            file.write(json.dumps({"stage": self.stage, "what": what, **self.machine, **figures}) + "\n")
        shown = {key: value for key, value in figures.items() if key != "top_kernels"}
        print(f"{self.stage}: {what}: " + ", ".join(f"{key} {value}" for key, value in shown.items()), flush=True)

    def attempt(self, what: str, job: Callable[[], dict[str, Any]], needs: float = 3, **labels: Any) -> dict[str, Any]:
        """A row of what `job` gives, or of why it gives nothing."""
        if self.left() < needs:
            self.row(what, **labels, skipped=f"{self.left():.0f} s are left")
            return {}
        try:
            figures = job()
        except Exception as error:
            self.failed = True
            traceback.print_exc(limit=-3)
            self.row(what, **labels, error=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
            if GPU:
                torch.cuda.empty_cache()
            return {}
        self.row(what, **labels, **figures)
        return figures


def version_of(package: str) -> str | None:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def synchronise() -> None:
    if GPU:
        torch.cuda.synchronize()


def measure(job: Callable[[], object], seconds: float = 0.4, most: int = 15, calls: int = 1, profiled: bool = True) -> dict[str, Any]:
    """Times of `job`, which makes `calls` calls: medians per call; its launches and kernels. In the second call an engine captures what it
    captures."""
    first, _ = one_call(job)
    if GPU and first < 3:
        one_call(job)
    figures: dict[str, Any] = {"first_ms": 1e3 * first}
    walls, events = zip(*repeated(job, seconds, most), strict=True)
    figures |= {"wall_ms": 1e3 * statistics.median(walls) / calls, "repeats": len(walls)}
    if GPU:
        figures |= {"event_ms": statistics.median(events) / calls}
        if profiled and walls[-1] < 3:
            figures |= kernels_of(job, calls)
    return figures


def repeated(job: Callable[[], object], seconds: float, most: int) -> list[tuple[float, float]]:
    """Calls for about that many seconds: twice at least, unless one takes much longer."""
    begun, found = time.perf_counter(), [one_call(job)]
    while len(found) < most and time.perf_counter() - begun < (seconds if len(found) > 1 else 4 * seconds):
        found.append(one_call(job))
    return found


def one_call(job: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and milliseconds between two events."""
    if not GPU:
        start = time.perf_counter()
        job()
        return time.perf_counter() - start, 0.0
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start = time.perf_counter()
    begin.record()
    job()
    end.record()
    torch.cuda.synchronize()
    return time.perf_counter() - start, begin.elapsed_time(end)


def reserved_bytes(make: Callable[[], Callable[[], object]], calls: int) -> int:
    """What torch holds for these calls of a job at its peak, graphs and what it keeps for later included."""
    free_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    job = make()
    for _ in range(calls):
        job()
    synchronise()
    return torch.cuda.max_memory_reserved() - before


def free_cache() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def profiled_kernels(job: Callable[[], object]) -> list[tuple[str, float]]:
    """Name and milliseconds of all that the GPU did in one call."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        job()
        torch.cuda.synchronize()
    found = profiler.profiler.kineto_results.events()
    return [(e.name(), e.duration_ns() / 1e6) for e in found if e.device_type() == DeviceType.CUDA and not e.name().startswith("Optimizer")]


def kernels_of(job: Callable[[], object], calls: int = 1) -> dict[str, Any]:
    try:
        done = profiled_kernels(job)
    except Exception as error:  # a profiler that does not work here costs no other figure
        return {"profiler_error": f"{type(error).__name__}: {error}"[:300]}
    kernels = [(name, ms) for name, ms in done if not name.startswith(("Memcpy", "Memset"))]
    total: Counter[str] = Counter()
    for name, ms in kernels:
        total[name] += ms
    counts = Counter(name for name, _ in kernels)
    return {
        "launches": len(kernels) / calls,
        "copies": (len(done) - len(kernels)) / calls,
        "kernel_ms": sum(ms for _, ms in kernels) / calls,
        "top_kernels": [[name[:90], counts[name] / calls, round(ms / calls, 4)] for name, ms in total.most_common(8)],
    }


@contextlib.contextmanager
def products(precision: str, deterministic: bool = False) -> Iterator[None]:
    """How products and convolutions are computed: float32, tf32, or bfloat16 by autocast; what was set before is put back."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
        cudnn.deterministic, cudnn.benchmark = deterministic, False
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before


def relative(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm())


# ceilings


def ceilings(results: Results) -> None:
    results.attempt("machine", machine)
    results.attempt("copy", copy_rate)
    for precision in PRECISIONS:
        results.attempt("matmul", functools.partial(matmul_rate, precision), precision=precision)
    results.attempt("launch", launch_overhead)
    for precision in PRECISIONS:
        for channels_last in (False, True):
            labels = {"precision": precision, "channels_last": channels_last}
            results.attempt("convolution 128 to 128, 16x16", functools.partial(convolution_rates, **labels), **labels)


def machine() -> dict[str, Any]:
    if not GPU:
        return {"cpus": os.cpu_count(), "cudnn": None}
    found = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.max.sm,power.limit,memory.total", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        driver = f"nvidia-smi: {error}"
    return {
        "cpus": os.cpu_count(),
        "cudnn": torch.backends.cudnn.version(),
        "capability": list(torch.cuda.get_device_capability()),
        "processors": found.multi_processor_count,
        "memory_GiB": found.total_memory / 2**30,
        "cache_MiB": found.L2_cache_size / 2**20,
        "nvidia_smi": driver,
        "python": sys.version.split()[0],
    }


def copy_rate() -> dict[str, Any]:
    source = torch.randn((1 << 28) if GPU else (1 << 20), device=DEVICE)  # 1 GiB
    target = torch.empty_like(source)
    figures = measure(lambda: target.copy_(source), profiled=False)
    return {"GB/s": 2 * source.nbytes / 1e6 / figures.get("event_ms", figures["wall_ms"]), **figures}


def matmul_rate(precision: str) -> dict[str, Any]:
    if precision == "tf32" and not GPU:
        return {"skipped": "no TF32 on the CPU"}
    side = 8192 if GPU else 256
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = torch.randn(2, side, side, device=DEVICE).to(dtype)
    with products("float32" if precision == "bfloat16" else precision):
        figures = measure(lambda: a @ b, profiled=False)
    return {"TFLOP/s": 2 * side**3 / 1e9 / figures.get("event_ms", figures["wall_ms"]), **figures}


def launch_overhead() -> dict[str, Any]:
    """Microseconds per kernel of one element, from Python and from a captured graph."""
    value, count = torch.zeros(1, device=DEVICE), 1000

    def many() -> None:
        for _ in range(count):
            value.add_(1)

    figures = {"python_us": 1e3 * measure(many, calls=count, profiled=False)["wall_ms"]}
    if GPU:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            many()
        figures["graph_us"] = 1e3 * measure(graph.replay, calls=count, profiled=False)["wall_ms"]
    return figures


def convolution_rates(precision: str, channels_last: bool) -> dict[str, Any]:
    """TFLOP/s of the middle convolution of the ConvNet over all real images: forward, and gradient by the weights at once, by class."""
    if precision == "tf32" and not GPU:
        return {"skipped": "no TF32 on the CPU"}
    width, side, images = (128, 16, CLASSES * 256) if GPU else (4, 4, CLASSES * 2)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    layout = torch.channels_last if channels_last else torch.contiguous_format
    maps, gradient = (torch.randn(images, width, side, side, device=DEVICE, dtype=dtype).to(memory_format=layout) for _ in range(2))
    weight = torch.randn(width, width, 3, 3, device=DEVICE, dtype=dtype).to(memory_format=layout)

    def by_weight(some: slice) -> Tensor:
        arguments = [width], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False]
        return torch.ops.aten.convolution_backward(gradient[some], maps[some], weight, *arguments)[1]

    each = images // CLASSES
    jobs = {
        "forward": lambda: F.conv2d(maps, weight, padding=1),
        "by_weight": lambda: by_weight(slice(None)),
        "by_weight_of_each_class": lambda: [by_weight(slice(c * each, (c + 1) * each)) for c in range(CLASSES)],
    }
    operations = 2 * 9 * images * width * width * side * side
    figures = {}
    with products("float32" if precision == "bfloat16" else precision, deterministic=True):
        for name, job in jobs.items():
            times = measure(job, seconds=0.1, most=5, profiled=False)
            ms = times.get("event_ms", times["wall_ms"])
            figures |= {f"{name}_ms": ms, f"{name}_TFLOP/s": operations / 1e9 / ms}
    return figures


# distance-tests, engine-tests


class Recorder:
    """A plugin of pytest: each failure is a row at once, and the counts are one at the end, or when the time is over."""

    def __init__(self, results: Results) -> None:
        self.results, self.counts, self.reasons = results, Counter[str](), Counter[str]()
        self.slowest: list[tuple[float, str]] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call":
            self.slowest = sorted([*self.slowest, (round(report.duration, 2), report.nodeid.split("::", 1)[-1])])[-8:]
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.failed:
            self.results.row("failure", test=report.nodeid.split("::", 1)[-1], phase=report.when, error=str(report.longrepr)[-1500:])
        if report.skipped and isinstance(report.longrepr, tuple):
            self.reasons[report.longrepr[2]] += 1

    @pytest.hookimpl(tryfirst=True)  # before xdist waits for its processes, for which there may be no time
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        unfinished = exitstatus == pytest.ExitCode.INTERRUPTED
        self.results.row("tests", **self.counts, unfinished=unfinished, why_skipped=dict(self.reasons), slowest_s=self.slowest[::-1])


def run_tests(results: Results, marked: str, *files: str) -> None:
    """The tests so marked in these files of tests/, with this package and without the project's pytest settings; where xdist is there, in
    several processes of one thread each, since compiling kernels and the references on the CPU take most of the time."""
    settings = Path.cwd() / "pytest.ini"
    settings.write_text("[pytest]\nmarkers = slow\n")
    options = ["-c", str(settings), "-p", "no:cacheprovider", "-p", "tests_in_order", "-q", "--tb=short", "--maxfail=60", "-m", marked]
    if version_of("pytest-xdist"):
        os.environ["OMP_NUM_THREADS"] = "1"
        options += ["-n", str(min(os.cpu_count() or 1, 12)), "--maxschedchunk=1"]
    code = pytest.main([*options, *(str(TESTS / file) for file in files)], plugins=[Recorder(results)])
    results.failed = code != 0


def distance_tests(results: Results) -> None:
    run_tests(results, "cuda and not slow", "test_layerwise_distance.py", "test_backends.py", "test_launches.py")


def engine_tests(results: Results) -> None:
    kernels = ("test_norm_act_pool.py", "test_class_sums.py", "test_products.py", "test_gather_normalise.py")  # interpreted elsewhere
    run_tests(results, "not slow", "test_cuda_engines.py", *(kernels if GPU else ()))


# engines: a plain script beside every engine


class Problem:
    """What every arm works on: images of a set, one network, and synthetic images of any number."""

    def __init__(self) -> None:
        from fastdc.data import ImageData

        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (COUNT, 3, *SIZE), dtype=torch.uint8, generator=generator)
        self.data = ImageData.of(pixels, torch.arange(COUNT) % CLASSES)
        torch.manual_seed(0)
        self.module = self.fresh()
        normalised = self.data.normalised(torch.arange(CLASSES * REAL)).to(DEVICE)  # classes in turn
        self.real = normalised.unflatten(0, (REAL, CLASSES)).transpose(0, 1).contiguous()  # [C, B, channels, H, W]

    def fresh(self) -> nn.Module:
        """Another network of its kind."""
        from fastdc.models import build

        return build(MODEL, 3, CLASSES, SIZE).to(DEVICE)

    @functools.cache  # noqa: B019  one object
    def synthetic(self, ipc: int) -> Tensor:
        return torch.randn(CLASSES, ipc, 3, *SIZE, generator=torch.Generator().manual_seed(ipc)).to(DEVICE)


class Plain:
    """The yardstick: eager double backward, one class after the other, as the paper's authors do it."""

    name = "plain"

    def __init__(self, problem: Problem, precision: str) -> None:
        self.again = functools.partial(Plain, problem, precision)
        self.precision, self.module = precision, problem.module
        self.images = problem.data.normalised(slice(None)).to(DEVICE)  # the whole set, float32
        self.members = [(problem.data.labels == c).nonzero()[:, 0] for c in range(CLASSES)]
        self.build = problem.fresh

    def settings(self) -> contextlib.AbstractContextManager[None]:
        return products(self.precision)

    def draw(self) -> list[Tensor]:
        return [self.draw_class(c) for c in range(CLASSES)]

    def draw_class(self, c: int) -> Tensor:
        members = self.members[c]
        return self.images[members[torch.randperm(len(members))[:REAL]].to(DEVICE)]

    def gradients(self, module: nn.Module, images: Tensor, c: int, create_graph: bool = False) -> tuple[Tensor, ...]:
        labels = torch.full((len(images),), c, device=DEVICE)
        loss = F.cross_entropy(module(images), labels)
        return torch.autograd.grad(loss, list(module.parameters()), create_graph=create_graph)

    def real_side(self, real: Tensor) -> list[tuple[Tensor, ...]]:
        return [self.gradients(self.module, images, c) for c, images in enumerate(real)]

    def synthetic_side(self, synthetic: Tensor, real: list[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor]:
        leaf = synthetic.detach().requires_grad_()
        distances = [plain_distance(self.gradients(self.module, leaf[c], c, True), real[c]) for c in range(CLASSES)]
        distance = torch.stack(distances)
        return distance.detach(), torch.autograd.grad(distance.sum(), leaf)[0]

    def stepper(self, synthetic: Tensor, module: nn.Module | None = None) -> Callable[[], float]:
        """A whole matching step: draw, real side, synthetic side, images moved."""
        module = module if module is not None else self.module
        leaf = synthetic.clone().requires_grad_()
        optimizer = torch.optim.SGD([leaf], lr=LR_IMAGES, momentum=0.5)

        def step() -> float:
            loss = torch.zeros((), device=DEVICE)
            for c in range(CLASSES):
                real = self.gradients(module, self.draw_class(c), c)
                loss = loss + plain_distance(self.gradients(module, leaf[c], c, True), real)
            (leaf.grad,) = torch.autograd.grad(loss, leaf)
            optimizer.step()
            return loss.item()

        return step

    def train(self, images: Tensor, epochs: int, module: nn.Module | None = None) -> None:
        module = module if module is not None else self.build()
        flat, labels = images.detach().flatten(0, 1), torch.arange(CLASSES, device=DEVICE).repeat_interleave(images.shape[1])
        optimizer = torch.optim.SGD(module.parameters(), lr=LR_MODEL)
        for _ in range(epochs):
            for index in torch.randperm(len(flat)).to(DEVICE).split(256):
                optimizer.zero_grad()
                F.cross_entropy(module(flat[index]), labels[index]).backward()
                optimizer.step()

    def iteration(self, problem: Problem, ipc: int, iterations: int) -> dict[str, Any]:
        from fastdc.training.schedule import paper_schedule

        steps, epochs = paper_schedule(ipc)
        synthetic, seconds = problem.synthetic(ipc), []
        iterations = max(iterations - 1, 1)  # it has nothing to capture in a first one
        for _ in range(iterations):
            synchronise()
            start = time.perf_counter()
            module = self.build()
            step = self.stepper(synthetic, module)
            for i in range(steps):
                step()
                if i + 1 < steps:
                    self.train(synthetic, epochs, module)
            synchronise()
            seconds.append(time.perf_counter() - start)
        return {"seconds": statistics.median(seconds), "iterations": iterations}


def plain_distance(synthetic: tuple[Tensor, ...], real: tuple[Tensor, ...]) -> Tensor:
    total = torch.zeros((), device=synthetic[0].device)
    for a, b in zip(synthetic, real, strict=True):
        if a.dim() > 1:
            a, b = a.flatten(1), b.flatten(1)
            total = total + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
    return total


class Ours:
    """An engine of fastdc, through the calls that the loop of `condense` makes."""

    def __init__(self, problem: Problem, spec: str, precision: str = "float32") -> None:
        from fastdc.data import ClassSampler
        from fastdc.engines import make_engine
        from fastdc.engines.gather_normalise import near

        self.again = functools.partial(Ours, problem, spec, precision)
        self.name, self.precision = spec, precision
        self.of_engine = {"precision": precision} if spec == "cuda" else {}  # the others are told by torch's settings
        self.engine = make_engine(spec, problem.module, **self.of_engine)
        self.theta = self.engine.layout.flatten(problem.module)
        self.sampler = ClassSampler(near(problem.data, DEVICE), seed=0, device=DEVICE)

    def settings(self) -> contextlib.AbstractContextManager[None]:
        return products("float32" if self.of_engine else self.precision, deterministic=True)

    def draw(self) -> Tensor:
        return self.sampler.draw(range(CLASSES), REAL, "real images")

    def real_side(self, real: Tensor) -> Tensor:
        return self.engine.class_gradients(self.theta, real)

    def synthetic_side(self, synthetic: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        return self.engine.match(self.theta, synthetic, real, METRIC)

    def stepper(self, synthetic: Tensor) -> Callable[[], float]:
        images, velocity = synthetic.clone(), torch.zeros_like(synthetic)

        def step() -> float:
            losses, gradient = self.engine.match(self.theta, images, self.real_side(self.draw()), METRIC)
            velocity.mul_(0.5).add_(gradient)
            images.sub_(velocity, alpha=LR_IMAGES)
            assert torch.isfinite(images).all()
            return losses.sum().item()

        return step

    def train(self, images: Tensor, epochs: int) -> None:
        from fastdc.engines import Sgd

        labels = torch.arange(CLASSES, device=DEVICE).repeat_interleave(images.shape[1])
        self.engine.train(self.theta.clone(), images.flatten(0, 1), labels, Sgd(epochs, LR_MODEL), torch.Generator().manual_seed(0))

    def iteration(self, problem: Problem, ipc: int, iterations: int) -> dict[str, Any]:
        start = time.perf_counter()
        _, seconds = condensed(problem.data, ipc, iterations, engine=self.name, **self.of_engine)
        whole = time.perf_counter() - start
        return {"seconds": statistics.median(seconds[1:] or seconds), "iterations": iterations, "whole_call_seconds": whole}


def condensed(data: Any, ipc: int, iterations: int, **options: Any) -> tuple[Any, list[float]]:
    """What `condense` makes of a set, and the seconds of each iteration."""
    import fastdc
    from fastdc.callbacks import IterationDone

    seconds: list[float] = []

    def note(event: object) -> None:
        if isinstance(event, IterationDone):
            seconds.append(event.seconds)

    settings = {"model": MODEL, "batch_real": REAL, "device": DEVICE.type, "progress": False, "callbacks": [note]}
    return fastdc.condense(data, ipc, iterations=iterations, **settings, **options), seconds


def engines(results: Results) -> None:
    rows = EngineRows(results, Problem())
    first, *others = IPCS[:3]
    rows.real_side()
    rows.synthetic_side(first)
    for ipc in (first, *others):
        rows.step(ipc)
    rows.training(first, epochs=10)
    rows.training(50 if GPU else 3, epochs=5)
    rows.iteration(first, 2)
    if GPU:
        rows.iteration(50, 1, rows.some(("plain", "tf32"), ("cuda", "tf32"), ("cuda", "float32")), needs=15)
    for ipc in IPCS:
        rows.memory(ipc)
    for ipc in others:
        rows.synthetic_side(ipc)
    rows.iteration(1, 5 if GPU else 2)
    rows.side_by_side(first, 5, epochs=10 if GPU else 2)
    for ipc in IPCS[3:]:
        rows.step(ipc)
    rows.memory(1000 if GPU else 3, rows.some(("cuda", "tf32")))  # that it runs at all
    rows.draw()
    rows.side_by_side(first, 20, epochs=10 if GPU else 2)


class EngineRows:
    """One job after the other, each by every arm."""

    def __init__(self, results: Results, problem: Problem) -> None:
        self.results, self.problem = results, problem
        self.plain = [Plain(problem, precision) for precision in PRECISIONS if GPU or precision != "tf32"]  # no TF32 on the CPU
        self.cuda = [Ours(problem, "cuda", precision) for precision in PRECISIONS]
        self.both: list[Any] = [*self.plain, *self.cuda]
        self.all = [*self.both, Ours(problem, "torch")]
        with self.plain[0].settings():
            gradients = self.plain[0].real_side(problem.real)
        self.real = torch.stack([torch.cat([g.flatten() for g in each]) for each in gradients])  # [C, P], float32, of the plain script

    def some(self, *wanted: tuple[str, str]) -> list[Any]:
        """The arms of these names and precisions, in this order."""
        return [arm for each in wanted for arm in self.both if (arm.name, arm.precision) == each]

    def each(self, what: str, arms: list[Any], job: Callable[[Any], dict[str, Any]], needs: float = 3, **labels: Any) -> None:
        for arm in arms:

            def within(arm: Any = arm) -> dict[str, Any]:
                with arm.settings():
                    return job(arm)

            self.results.attempt(what, within, needs, arm=arm.name, precision=arm.precision, **labels)

    def timed(self, arm: Any, job: Callable[[], object], ipc: int) -> dict[str, Any]:
        """Of the plain script, whose thousands of kernels take long to list, only the first."""
        return measure(job, profiled=arm.name != "plain" or ipc == IPCS[0])

    def draw(self) -> None:
        self.each("draw", self.both, lambda arm: measure(arm.draw))

    def checked(self, arm: Any, found: Tensor, expected: Tensor) -> dict[str, Any]:
        """The error against the plain script in float32, which must be small where an engine computes in float32."""
        error = relative(found, expected)
        assert error < (1e-2 if arm.precision == "float32" else 1), f"the relative error is {error}"
        return {"error": error}

    def real_side(self) -> None:
        def job(arm: Any) -> dict[str, Any]:
            found = arm.real_side(self.problem.real)
            if isinstance(arm, Plain):
                found = torch.stack([torch.cat([g.flatten() for g in each]) for each in found])
            return {**self.checked(arm, found, self.real), **measure(lambda: arm.real_side(self.problem.real))}

        self.each("real side", self.both, job)

    def gradients_for(self, arm: Any) -> Any:
        """The real gradients of the plain script as an arm takes them."""
        if not isinstance(arm, Plain):
            return self.real
        parameters = list(arm.module.parameters())
        return [
            [part.view(p.shape) for part, p in zip(flat.split([p.numel() for p in parameters]), parameters, strict=True)]
            for flat in self.real
        ]

    def synthetic_side(self, ipc: int) -> None:
        synthetic = self.problem.synthetic(ipc)
        with self.plain[0].settings():
            expected = self.plain[0].synthetic_side(synthetic, self.gradients_for(self.plain[0]))

        def job(arm: Any) -> dict[str, Any]:
            real = self.gradients_for(arm)
            distance, gradient = arm.synthetic_side(synthetic, real)
            errors = {**self.checked(arm, gradient, expected[1]), "distance_error": relative(distance, expected[0])}
            return {**errors, **self.timed(arm, lambda: arm.synthetic_side(synthetic, real), ipc)}

        self.each("synthetic side", self.both, job, ipc=ipc)

    def step(self, ipc: int) -> None:
        self.each("step", self.all, lambda arm: self.timed(arm, arm.stepper(self.problem.synthetic(ipc)), ipc), ipc=ipc)

    def memory(self, ipc: int, arms: list[Any] | None = None) -> None:
        """What three matching steps of a fresh arm hold beyond the set: as they are, captured, replayed."""
        if not GPU:
            self.results.row("memory", ipc=ipc, skipped="torch sees no CUDA device")
            return

        def job(arm: Any) -> dict[str, Any]:
            fresh, synthetic = arm.again(), self.problem.synthetic(ipc)
            return {"reserved_MiB": reserved_bytes(lambda: fresh.stepper(synthetic), calls=3) / 2**20}

        for arm in arms or self.both:
            self.each("memory", [arm], job, ipc=ipc)
            free_cache()

    def training(self, ipc: int, epochs: int) -> None:
        images = self.problem.synthetic(ipc)
        steps = epochs * -(-CLASSES * ipc // 256)
        labels = {"ipc": ipc, "images": min(CLASSES * ipc, 256)}
        self.each("SGD step", self.both, lambda arm: measure(lambda: arm.train(images, epochs), calls=steps), **labels)

    def side_by_side(self, ipc: int, networks: int, epochs: int) -> None:
        """A step of SGD of several networks: at once, and one after another."""
        from fastdc.engines import Engine, Sgd

        images, sgd = self.problem.synthetic(ipc).flatten(0, 1), Sgd(epochs, LR_MODEL, 0.9, 5e-4)
        labels = torch.arange(len(images), device=DEVICE) // ipc
        generators = [torch.Generator().manual_seed(number) for number in range(networks)]
        for what, train in (
            ("at once", lambda engine: engine.train_side_by_side),
            ("in turn", lambda engine: functools.partial(Engine.train_side_by_side, engine)),
        ):

            def job(arm: Any, train: Callable[[Any], Callable[..., None]] = train) -> dict[str, Any]:
                thetas = arm.theta.repeat(networks, 1)
                return measure(lambda: train(arm.engine)(thetas, images, labels, sgd, generators), calls=epochs * -(-len(images) // 256))

            self.each(f"SGD step of networks {what}", self.cuda, job, ipc=ipc, networks=networks)

    def iteration(self, ipc: int, iterations: int, arms: list[Any] | None = None, needs: float = 8) -> None:
        self.each("iteration", arms or self.all, lambda arm: arm.iteration(self.problem, ipc, iterations), needs, ipc=ipc)


def chunks(results: Results) -> None:
    """What the engine should hold at once, one of the limits changed at a time: the MiB that a chunk keeps; the numbers of a class, in
    2**20, up to which convolutions with weights of each class go through patches; those that patches take at once; and those that the
    planes of Winograd take, 0 for none of it."""
    problem, usual = Problem(), (512, 8, 32, 8)
    others = (
        *((512, 8, 32, planes) for planes in (0, 2, 4, 32)),
        *((memory, 8, 32, 8) for memory in (128, 256, 1024)),
        *((512, few, 32, 8) for few in (0, 2, 32)),
        *((512, 8, most, 8) for most in (8, 128)),
    )
    for precision in ("float32", "tf32") if GPU else ("float32",):
        for limits in (usual, *(limits for limits in others if precision == "float32" or limits[3] == usual[3])):
            with held_at_once(*limits):
                arm = Ours(problem, "cuda", precision)
                labels = {"arm": "{} MiB, few {}, most {}, planes {}".format(*limits), "precision": precision}
                real = arm.real_side(problem.real)
                jobs = {"real side": functools.partial(arm.real_side, problem.real)}
                jobs |= {f"synthetic side of {ipc}": functools.partial(matched, arm, problem.synthetic(ipc), real) for ipc in IPCS[:3]}
                for what, job in jobs.items():
                    results.attempt(what, functools.partial(measure, job, seconds=0.2, most=7, profiled=False), **labels)
                if GPU:
                    results.attempt("memory", functools.partial(held_by, arm, problem.synthetic(50)), ipc=50, **labels)


def held_by(arm: Ours, synthetic: Tensor) -> dict[str, Any]:
    """What three matching steps of a fresh arm hold."""
    fresh = arm.again()
    return {"reserved_MiB": reserved_bytes(lambda: fresh.stepper(synthetic), calls=3) / 2**20}


@contextlib.contextmanager
def held_at_once(memory: int, few: int, most: int, planes: int) -> Iterator[None]:
    """Other limits of the engine cuda than its own."""
    from fastdc.engines import cuda
    from fastdc.engines.chain import products as of_chain
    from fastdc.engines.chain import winograd

    before = cuda._MEMORY, of_chain.FEW, of_chain.MOST, winograd.MOST, winograd.FEWEST
    cuda._MEMORY, of_chain.FEW, of_chain.MOST = {**before[0], DEVICE.type: memory}, few << 20, most << 20
    winograd.MOST, winograd.FEWEST = planes << 20, before[-1] if planes else COUNT
    try:
        yield
    finally:
        cuda._MEMORY, of_chain.FEW, of_chain.MOST, winograd.MOST, winograd.FEWEST = before


# graphs


def graphs(results: Results) -> None:
    """What is left of a job when its launches cost nothing: captured once as a CUDA graph, and replayed."""
    if not GPU:
        results.row("graphs", skipped="torch sees no CUDA device")
        return
    problem = Problem()
    for precision in ("float32", "tf32"):
        arm = Ours(problem, "torch", precision)
        jobs: dict[str, Callable[[], Tensor]] = {"real side": lambda arm=arm: arm.real_side(problem.real)}  # type: ignore[misc]
        gradients = arm.real_side(problem.real)
        for ipc in IPCS[:3]:
            jobs[f"synthetic side, ipc {ipc}"] = functools.partial(matched, arm, problem.synthetic(ipc), gradients)
        for count in (100, 256):
            jobs[f"SGD step, {count} images"] = sgd_step(arm, problem.real.flatten(0, 1)[:: CLASSES * REAL // count][:count])
        for what, job in jobs.items():
            results.attempt(what, functools.partial(replayed, arm, job), arm="torch as a graph", precision=precision)


def matched(arm: Ours, synthetic: Tensor, real: Tensor) -> Tensor:
    return arm.synthetic_side(synthetic, real)[1]


def sgd_step(arm: Ours, images: Tensor) -> Callable[[], Tensor]:
    """Forward, backward and update on one batch that stays where it is."""
    from torch.func import functional_call

    theta, module = arm.theta.clone(), arm.engine.module
    labels = torch.arange(len(images), device=DEVICE) % CLASSES

    def step() -> Tensor:
        weights = {name: view.detach().requires_grad_() for name, view in arm.engine.layout.views(theta).items()}
        loss = F.cross_entropy(functional_call(module, weights, (images,)), labels)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(weights.values()))])
        theta.sub_(gradient, alpha=0)  # the work of a step, and the same one each time
        return gradient

    return step


def replayed(arm: Ours, job: Callable[[], Tensor]) -> dict[str, Any]:
    with arm.settings():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                expected = job()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = job()
        eager = measure(job, seconds=0.2, most=7, profiled=False)
        graph.replay()
        figures = measure(graph.replay, seconds=0.2, most=7)
        return {"difference": relative(found, expected), "eager_ms": eager["event_ms"], **figures}


# convolutions


@contextlib.contextmanager
def convolved_by(arm: str) -> Iterator[None]:
    """Convolutions with weights of each class through patches, by a call of the library for each, by Winograd, or as the engine chooses."""
    from fastdc.engines.chain import winograd
    from fastdc.engines.chain.products import ConvolutionPass

    before = ConvolutionPass._by_patches, winograd.TILES
    if arm in ("patches", "each class"):
        ConvolutionPass._by_patches = lambda *_: arm == "patches"  # type: ignore[method-assign]
    if arm == "winograd":
        winograd.TILES = 0
    try:
        yield
    finally:
        ConvolutionPass._by_patches, winograd.TILES = before  # type: ignore[method-assign]


def convolutions(results: Results) -> None:
    """The convolutions of the ConvNet with weights of each class: products, their transposes, and gradients by the weights; of some classes
    of some images, and as in training of a batch that is one class."""
    width, sides = (128, (32, 16, 8)) if GPU else (4, (6, 3))
    gradients, *others = "weight gradients", "products", "transposed"
    jobs = [
        (gradients, CLASSES, REAL),
        (gradients, 1, REAL),
        *((what, CLASSES, ipc) for ipc in (IPCS[0], 1) for what in (gradients, *others)),
    ]
    for precision in PRECISIONS:
        for channels, side in zip((3, *[width] * len(sides[1:])), sides, strict=True):
            for what, count, each in jobs:
                labels = {"precision": precision, "channels": channels, "side": side, "count": count, "each": each}
                convolution_rows(results, f"{what}, {count} of {each}, {channels} to {width}, {side}x{side}", what, width, labels)


def convolution_rows(results: Results, title: str, what: str, width: int, labels: dict[str, Any]) -> None:
    """One job by every arm, the first of which says what is right."""
    from fastdc.engines.chain.base import Network
    from fastdc.engines.chain.precision import PRECISIONS as ROUNDINGS
    from fastdc.engines.chain.products import ConvolutionPass
    from fastdc.engines.chain.winograd import WinogradPass
    from fastdc.engines.plan import Convolution

    channels, side, count, each = (labels[key] for key in ("channels", "side", "count", "each"))
    precision = ROUNDINGS[labels["precision"]]
    step = Convolution("weight", None, channels, width, (3, 3), (1, 1), (1, 1), (1, 1), 1)
    weights = torch.randn(count, width, channels, 3, 3, device=DEVICE)
    x, gy = (torch.randn(count * each, c, side, side, device=DEVICE) for c in (channels, width))
    operations = 2 * 9 * count * each * channels * width * side**2
    expected: list[Tensor] = []

    def job(kind: type[ConvolutionPass]) -> dict[str, Any]:
        made = kind(step, Network({"weight": weights[0]}, {}, precision), x)
        gradients, v = made.round(gy), made.round(weights)
        calls = {
            "weight gradients": (weights, lambda to: made._add_gradients({"weight": to}, made.x, gradients, None)),
            "products": (gy, lambda to: made.add_product_by_class(to, made.x, v)),
            "transposed": (x, lambda to: made.add_transposed_by_class(to, gradients, v)),
        }
        like, call = calls[what]
        found = torch.zeros_like(like)
        call(found)
        expected.append(found)
        error = relative(found, expected[0])
        assert error < (1e-4 if labels["precision"] == "float32" else 3e-2), f"the relative error is {error}"
        place = torch.zeros_like(like)  # which the graph adds to, as long as it is launched
        graph = replay_of(functools.partial(call, place))
        figures = measure(graph, seconds=0.1, most=5, profiled=False)
        return {"TFLOP/s": operations / 1e9 / figures.get("event_ms", figures["wall_ms"]), "error": error, **figures}

    rounded = labels["precision"] == "bfloat16"
    by_winograd = ("winograd",) if GPU and channels > 3 and not rounded else ()  # which the engine takes for float32
    for arm in ("each class", "patches", "chosen", *by_winograd):

        def within(arm: str = arm) -> dict[str, Any]:
            with products("float32", deterministic=True), precision.computing(x), torch.no_grad(), convolved_by(arm):
                return job(WinogradPass if arm == "winograd" or (arm == "chosen" and by_winograd) else ConvolutionPass)

        results.attempt(title, within, arm=arm, **labels)


def replay_of(job: Callable[[], object]) -> Callable[[], object]:
    """The job as the engine does it on a GPU, where launches cost next to nothing."""
    if not GPU:
        return job
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        job()
    return graph.replay


# distance


def distance(results: Results) -> None:
    if not GPU:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    from fastdc.metrics.backends import BACKENDS
    from fastdc.metrics.layout import ParameterLayout
    from fastdc.metrics.operator import layerwise_distance
    from fastdc.models import build

    layout = ParameterLayout.of(build(MODEL, 3, CLASSES, SIZE))
    for classes in (10, 100) if GPU else (2,):
        # Several pairs in turn, more than the last cache holds.
        pairs = [torch.randn(2, classes, layout.size, device=DEVICE).unbind() for _ in range(6 if classes == 10 else 2)]
        first = [side[:10].cpu().double() for side in pairs[0]]
        expected = layerwise_distance(*first, layout, METRIC, "reference")
        jobs: dict[str, Callable[..., Any]] = {}
        for name in BACKENDS:
            if reason := why_not(name):
                results.row("distance", arm=name, classes=classes, skipped=reason)
            else:
                jobs[name] = functools.partial(layerwise_distance, layout=layout, metric=METRIC, backend=name)
        jobs["plain"] = functools.partial(plain_double, layout=layout)
        for name, job in jobs.items():
            measured = functools.partial(distance_row, job, pairs, expected)
            results.attempt("distance", measured, arm=name, classes=classes)
        configurations_of_triton(results, layout, pairs, expected)


def why_not(backend: str) -> str:
    """Why a backend cannot serve here, or nothing; what fails on a GPU is a row that failed."""
    from fastdc.errors import UsageError
    from fastdc.metrics.layout import ParameterLayout
    from fastdc.metrics.operator import layerwise_distance

    ones = torch.ones(1, 8, device=DEVICE)
    try:
        layerwise_distance(ones, ones, ParameterLayout.of(nn.Linear(3, 2)), METRIC, backend)
    except UsageError as error:
        return str(error)
    except Exception as error:
        return "" if GPU else f"{type(error).__name__}: {error}"  # Triton 3.6 cannot interpret with numpy 2.5
    return ""


def plain_double(synthetic: Tensor, real: Tensor, layout: Any) -> tuple[Tensor, Tensor]:
    """Class by class with autograd, as a script does it."""
    leaf = synthetic.detach().requires_grad_()
    views = [[tuple(layout.views(flat).values()) for flat in side] for side in (leaf, real)]
    found = torch.stack([plain_distance(a, b) for a, b in zip(*views, strict=True)])
    return found.detach(), torch.autograd.grad(found.sum(), leaf)[0]


def distance_row(job: Callable[..., Any], pairs: list[Any], expected: Any) -> dict[str, Any]:
    found = [result[:10] for result in job(*pairs[0])]
    errors = {f"{name}_error": relative(a, b) for name, a, b in zip(("distance", "cotangent"), found, expected, strict=True)}
    assert max(errors.values()) < 1e-3, errors

    def in_turn() -> None:
        for synthetic, real in pairs:
            job(synthetic, real)

    figures = measure(in_turn, calls=len(pairs))
    gigabytes = 3 * pairs[0][0].nbytes / 1e9  # reads both, writes one
    figures["GB/s"] = gigabytes / figures.get("event_ms", figures["wall_ms"]) * 1e3
    if figures.get("kernel_ms"):
        figures["kernel_GB/s"] = gigabytes / figures["kernel_ms"] * 1e3
    return {**errors, **figures}


def configurations_of_triton(results: Results, layout: Any, pairs: list[Any], expected: Any) -> None:
    """The Triton kernel itself in fixed configurations, so that the best can be chosen."""
    try:
        from fastdc.kernels import layerwise_distance as module

        from fastdc.metrics.tiles import tiles_of
    except ImportError as error:
        results.row("configuration of triton", skipped=str(error))
        return
    kernel = module.layerwise_distance_kernel
    if reason := why_not("triton"):
        results.row("configuration of triton", skipped=reason)
        return
    tiles = tiles_of(layout.segments(), layout.size, DEVICE)
    classes, size = pairs[0][0].shape
    distance, cotangent = pairs[0][0].new_empty(classes), torch.empty_like(pairs[0][0])
    parts = torch.empty(classes, 3, len(tiles), dtype=torch.float64, device=DEVICE)
    tickets = torch.zeros(classes, dtype=torch.int32, device=DEVICE)

    def call(synthetic: Tensor, real: Tensor, block: int, warps: int) -> tuple[Tensor, Tensor]:
        arguments = [synthetic, real, tiles, distance, cotangent, parts, tickets, size, len(tiles), synthetic.stride(0), real.stride(0)]
        kernel[(classes * len(tiles),)](*arguments, METRIC=METRIC, BLOCK=block, num_warps=warps)
        return distance, cotangent

    for block in (256, 512, 1024) if GPU else (256, 1024):
        for warps in (4, 8) if GPU else (4,):
            job = functools.partial(call, block=block, warps=warps)
            measured = functools.partial(distance_row, job, pairs, expected)
            results.attempt("configuration of triton", measured, block=block, warps=warps, classes=classes)


# condensation


# Images per class, precision, most iterations, and which share of the time that is left may go to them.
RUNS = (
    ((1, "float32", 300, 0.45), (1, "tf32", 300, 0.4), (10, "tf32", 1000, 0.65)) if GPU else ((1, "float32", 2, 1.0), (2, "tf32", 1, 1.0))
)


def condensation(results: Results) -> None:
    import fastdc

    train, test = fashion_mnist(results)
    results.attempt("same bits", functools.partial(same_bits, train), needs=5, data=train.name)
    for ipc in dict.fromkeys(ipc for ipc, *_ in RUNS):
        evaluation = functools.partial(evaluate, fastdc.coresets.random(train, ipc), test)
        results.attempt("evaluate", evaluation, needs=6, subject=f"random {ipc}", data=train.name)
    for ipc, precision, wanted, share in RUNS:
        labels, made = {"precision": precision, "data": train.name}, []
        condense = functools.partial(condense_in_time, results, train, ipc, precision, wanted, share, made)
        results.attempt("condense", condense, needs=5, ipc=ipc, **labels)
        for images in made:
            results.attempt("evaluate", functools.partial(evaluate, images, test), needs=6, subject=f"condensed {ipc}", **labels)


def condense_in_time(results: Results, train: Any, ipc: int, precision: str, wanted: int, share: float, made: list[Any]) -> dict[str, Any]:
    """As many iterations of those wanted as fit into the share of the time that is left; the images go to `made`."""
    options = {"engine": "cuda", "precision": precision}
    *_, one = condensed(train, ipc, 3, **options)[1]  # the first with all that is done once in a process, the second captured
    iterations = max(1, min(wanted, int(share * results.left() / one)))
    start = time.perf_counter()
    images, each = condensed(train, ipc, iterations, **options)
    seconds = time.perf_counter() - start
    images.save_grid(results.folder / f"condensed-{train.name}-{ipc}-{precision}.png")
    made.append(images)
    return {"seconds": seconds, "iterations": iterations, "seconds_per_iteration": statistics.median(each)}


def fashion_mnist(results: Results) -> tuple[Any, Any]:
    """Its images to train on and to test on, or the digits where it is missing or too large."""
    import fastdc

    root = os.environ.get("FASTDC_GPU_DATA")
    if GPU and root:
        return fastdc.load_dataset("fashion-mnist", root=root)
    reason = "set FASHION_MNIST to the folder of its files" if GPU else "it is too large without a GPU"
    results.row("data", data="digits", skipped=f"FashionMNIST: {reason}")
    return fastdc.load_dataset("digits")


def same_bits(train: Any) -> dict[str, Any]:
    """One run twice."""
    iterations = 10 if GPU else 2
    first, second = (condensed(train, 1, iterations, engine="cuda")[0].images for _ in range(2))
    assert torch.equal(first, second), "the images of two runs differ"
    return {"iterations": iterations, "equal": True}


def evaluate(images: Any, test: Any) -> dict[str, Any]:
    import fastdc

    networks, epochs = (5, 300) if GPU else (2, 3)
    start = time.perf_counter()
    options = {"model": MODEL, "engine": "cuda", "device": DEVICE.type, "progress": False}
    found = fastdc.evaluate(images, test, networks=networks, epochs=epochs, **options)
    seconds = time.perf_counter() - start
    return {"accuracy_%": 100 * found.mean, "std_%": 100 * found.std, "networks": networks, "epochs": epochs, "seconds": seconds}


# compiled


def compiled(results: Results) -> None:
    problem = Problem()
    arm = Ours(problem, "torch:compile=true")
    plain = Plain(problem, "float32")
    synthetic = problem.synthetic(IPCS[0])

    def job(name: str, ours: Callable[[], Tensor], expected: Callable[[], Tensor]) -> dict[str, Any]:
        with plain.settings():
            right = expected()
        with arm.settings():
            synchronise()
            start = time.perf_counter()
            found = ours()
            synchronise()
            seconds = time.perf_counter() - start
            error = relative(found, right)
            assert error < 1e-2, f"the relative error is {error}"
            figures = measure(ours)
        return {"compile_and_first_call_seconds": seconds, "error": error, **figures}

    def flat() -> Tensor:
        return torch.stack([torch.cat([g.flatten() for g in each]) for each in plain.real_side(problem.real)])

    results.attempt("real side", lambda: job("real side", lambda: arm.real_side(problem.real), flat), arm=arm.name)
    if not GPU:
        results.row("synthetic side", arm=arm.name, skipped="a minute of compiling without a GPU")
        return
    real = arm.theta.new_zeros(CLASSES, len(arm.theta)).normal_()
    parameters = list(problem.module.parameters())
    pieces = [
        tuple(part.view(p.shape) for part, p in zip(row.split([p.numel() for p in parameters]), parameters, strict=True)) for row in real
    ]
    results.attempt(
        "synthetic side",
        lambda: job("", lambda: arm.synthetic_side(synthetic, real)[1], lambda: plain.synthetic_side(synthetic, pieces)[1]),
        arm=arm.name,
        ipc=IPCS[0],
    )


# table


def table(folder: Path) -> None:
    """What the rows of all stages say, short enough for the end of an output."""
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    print("\n== results")
    for row in rows:
        if row["what"] == "stage":
            print(f"stage {row['stage']}: " + (f"rc {row['rc']}, {row['seconds']} s" if "rc" in row else f"skipped, {row['skipped']}"))
    failures = [row for row in rows if isinstance(row.get("error"), str)]
    for row in failures[:12]:
        print(f"FAILED {row['stage']}: {row['what']} {label_of(row)}: ... {' '.join(row['error'].split())[-160:]}")
    if failures[12:]:
        print(f"and {len(failures[12:])} more failures: results.jsonl has them")
    lines: dict[str, list[str]] = {}
    for row in rows:
        if row not in failures and "skipped" not in row and (cell := cell_of(row)):
            line = row["what"] + (f", ipc {row['ipc']}" if "ipc" in row else "")
            line += f", {row['classes']} classes" if row["stage"] == "distance" else ""
            line += f", {row['networks']} networks" if row["stage"] == "engines" and "networks" in row else ""
            lines.setdefault(line, []).append(f"{label_of(row)} {cell}")
    for line, cells in lines.items():
        print(f"{line}: " + " | ".join(cells))


def label_of(row: dict[str, Any]) -> str:
    """What tells a row from the others in its line of the table."""
    keys = ("arm", "precision", "block", "warps", "subject", "test") + (() if row["stage"] == "distance" else ("classes",))
    return " ".join(str(row[key]) for key in keys if row.get(key) not in (None, "float32"))


def cell_of(row: dict[str, Any]) -> str:
    if "accuracy_%" in row:
        return f"{row['accuracy_%']:.1f} +- {row['std_%']:.1f} %, {row['seconds']:.1f} s"
    if "seconds" in row and "rc" not in row:
        return f"{row['seconds']:.4g} s" + (f" of {row['iterations']}" if row["what"] == "condense" else "")
    if "forward_TFLOP/s" in row:
        rates = [f"{row[f'{name}_TFLOP/s']:.3g}" for name in ("forward", "by_weight", "by_weight_of_each_class")]
        return f"{'channels last ' * row['channels_last']}{' / '.join(rates)} TFLOP/s"
    for rate in ("TFLOP/s", "kernel_GB/s", "GB/s"):
        if rate in row:
            return f"{row.get('kernel_ms', row.get('event_ms', row['wall_ms'])):.3g} ms {row[rate]:.4g} {rate}"
    if "reserved_MiB" in row:
        return f"{row['reserved_MiB']:.0f} MiB"
    if "wall_ms" not in row:
        return ""
    text = f"{row.get('event_ms', row['wall_ms']):.4g} ms"
    return text + (f" ({row['kernel_ms']:.3g} in {row['launches']:.0f} kernels)" if "kernel_ms" in row else "")


STAGES: dict[str, Callable[[Results], None]] = {
    "ceilings": ceilings,
    "distance-tests": distance_tests,
    "engine-tests": engine_tests,
    "engines": engines,
    "chunks": chunks,
    "graphs": graphs,
    "convolutions": convolutions,
    "distance": distance,
    "condensation": condensation,
    "compiled": compiled,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*STAGES, "table"])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--until", type=float, default=time.time() + 100, help="seconds since 1970: rows that would begin later are skipped"
    )
    arguments = parser.parse_args()
    if arguments.stage == "table":
        table(arguments.folder)
        return 0
    if not GPU:
        torch.set_num_threads(1)  # what is this small only waits for a second thread
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which `timeout` sends; a shell in the background ignores it
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.stage, arguments.folder, arguments.until)
    try:
        STAGES[arguments.stage](results)
    except Exception as error:
        traceback.print_exc()
        results.row("the whole stage", error=f"{type(error).__name__}: {error}"[:1000])
        return 1
    return int(results.failed)


if __name__ == "__main__":
    sys.exit(main())
