"""Whole calls on 60,000 images, every coreset and every method beside DC: seconds, and peak memory, each in a process of its own.

ConvNet of width 32 and 10 images per class; networks are trained on the whole set for 5 epochs, methods take 20 iterations with 64
real images per class and step. FashionMNIST where it is installed (Debian's dataset-fashion-mnist), else noise of its size.
"""

from __future__ import annotations

from collections.abc import Callable

from processes import measure

CALL = """
import sys, time, tempfile, torch, fastdc
from fastdc.coresets import SELECTIONS
from fastdc.errors import DataError
try:
    data = fastdc.load_dataset("fashion-mnist")[0]
except DataError:
    data = fastdc.ImageData.of(torch.randint(256, (60000, 1, 28, 28), dtype=torch.uint8), torch.arange(60000) % 10)
name, model, started = sys.argv[1], "convnet:width=32", time.monotonic()
with tempfile.TemporaryDirectory() as cache:
    if name in ("herding", "k_center", "forgetting"):
        SELECTIONS[name](data, 10, model=model, epochs=5, cache=cache, progress=False)
    elif name == "random":
        SELECTIONS[name](data, 10)
    elif name != "idle":
        fastdc.condense(data, 10, model=model, method=name, iterations=20, batch_real=64, progress=False)
print(time.monotonic() - started)
"""
CALLS = ("random", "herding", "k_center", "forgetting", "dc", "curriculum", "dd:unroll=10", "parameter_matching:unroll=10")


def bench_whole_calls(record: Callable[..., None]) -> None:
    _, idle = measure(CALL, "idle")
    for name in CALLS:
        runs = [measure(CALL, name) for _ in range(2)]
        record("whole call", name=name, seconds=min(run[0] for run in runs), each_mib=[run[1] for run in runs], idle_mib=idle)
