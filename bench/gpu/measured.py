"""Times, kernels, memory and errors of one job."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gpu.settings import DEVICE, GPU


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
