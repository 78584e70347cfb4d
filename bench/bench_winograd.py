"""How fast the products of the native engine's convolutions are, beside torch's sgemm in the same run, with 1 and 2 threads."""

from __future__ import annotations

import runpy
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fastdc.runtime import compiled

ROOT = Path(__file__).parent.parent
SIDE = 2048


def sgemm_rate(threads: int, rounds: int = 10) -> float:
    """GFLOP/s of a square product in float32, the best of some rounds."""
    a, b, before = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE), torch.get_num_threads()
    torch.set_num_threads(threads)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    torch.set_num_threads(before)
    return 2 * SIDE**3 / min(times) / 1e9


def bench_products(tmp_path: Path, record: Callable[..., None]) -> None:
    assert compiled.extension is not None
    widest = compiled.extension.usable_instruction_sets()[0]
    setup = runpy.run_path(str(ROOT / "setup.py"), run_name="options")
    flags = [*setup["FLAGS"], *setup["INSTRUCTION_SETS"][widest]]
    program, source = tmp_path / "products", ROOT / "bench" / "winograd_products.cpp"
    subprocess.run(["g++", *flags, "-w", "-I", str(ROOT), "-I", str(ROOT / "csrc"), str(source), "-o", str(program)], check=True)
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    rates = {name: (float(one), float(two)) for name, one, two in map(str.split, lines)}
    rates["sgemm"] = sgemm_rate(1), sgemm_rate(2)
    for name, (one, two) in rates.items():
        record("GFLOP/s", name=name, instructions=widest, one_thread=one, two_threads=two)
    assert min(rates["maps"]) > 0
