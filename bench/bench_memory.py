"""Peak memory of one matching step, each in a process of its own: it must not grow with images per class."""

from __future__ import annotations

import subprocess
import sys

import pytest

STEP = """
import resource, sys, torch
from fastdc.engines import make_engine
from fastdc.models import build
name, ipc = sys.argv[1], int(sys.argv[2])
module = build("convnet", 1, 10, (28, 28))
engine = make_engine(name, module)
theta, images = engine.layout.flatten(module), torch.randn(10, max(ipc, 1), 1, 28, 28)
if ipc:
    engine.match(theta, images, engine.class_gradients(theta, torch.randn(10, 256, 1, 28, 28)), "layerwise_cosine")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak_mib(engine: str, ipc: int) -> float:
    """Peak resident memory of a process that does one whole matching step; ipc 0: of the interpreter with its imports."""
    return float(subprocess.run([sys.executable, "-W", "ignore", "-c", STEP, engine, str(ipc)], check=True, capture_output=True).stdout)


def bench_memory_does_not_grow_with_ipc(capsys: pytest.CaptureFixture[str]) -> None:
    idle = peak_mib("torch", 0)
    rows = {(name, ipc): peak_mib(name, ipc) for name, ipc in [("reference", 1), ("reference", 50), *(("torch", i) for i in (1, 50, 500))]}
    with capsys.disabled():
        print(f"\npeak memory of one matching step, MiB (the interpreter with its imports: {idle:.0f})")
        for (name, ipc), peak in rows.items():
            print(f"  {name:<9}  ipc {ipc:>3}  {peak:6.0f}")
    assert rows["torch", 500] < 1.1 * rows["torch", 50]
