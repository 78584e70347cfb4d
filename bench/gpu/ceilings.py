"""What this machine can do at most: copies, products, launches, convolutions."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpu.measured import measure, products
from gpu.rows import Results
from gpu.settings import CLASSES, DEVICE, GPU, PRECISIONS


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
