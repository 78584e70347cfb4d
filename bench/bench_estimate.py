"""What `fastdc.estimate` says beside what the run then takes, in a process each: seconds, peak memory, bytes of the folder.

FashionMNIST (Debian's dataset-fashion-mnist) and digits. Runs are short in their iterations alone: dc at 1, 10 and 50 images per class has
the default network and the paper's numbers. Networks that a pool trains once are trained anew. Run nothing else meanwhile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import pytest

BEGIN = """
import json, sys, tempfile, time
from pathlib import Path
import torch, fastdc
from fastdc.parallel.devices import peak_memory, reset_peak_memory
from fastdc.training import whole_set
data, options, device = sys.argv[1], json.loads(sys.argv[2]), torch.device("cuda" if torch.cuda.is_available() else "cpu")
folder = Path(tempfile.mkdtemp())
whole_set.DEFAULT_CACHE = folder / "networks"
began = time.monotonic()
"""
ESTIMATE = """
estimate = fastdc.estimate(data, **options)
found = {"estimated_seconds": estimate.seconds, "estimated_memory": estimate.memory, "estimated_disk": estimate.disk}
print(json.dumps(found | {"asking_seconds": time.monotonic() - began}))
"""
RUN = """
reset_peak_memory(device)
fastdc.condense(data, **options, out=folder / "run", progress=False)
disk = sum(file.stat().st_size for file in (folder / "run").rglob("*.*"))
print(json.dumps({"seconds": time.monotonic() - began, "memory": peak_memory(device), "disk": disk}))
"""
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dc, 1 per class": ("fashion-mnist", {"ipc": 1, "iterations": 20}),
    "dc, 10 per class": ("fashion-mnist", {"ipc": 10, "iterations": 2}),
    "dc, 50 per class": ("fashion-mnist", {"ipc": 50, "iterations": 1}),
    "dsa, 10 per class": ("fashion-mnist", {"ipc": 10, "iterations": 6, "method": "dsa", "scale": "laptop"}),
    "dm, 10 per class": ("fashion-mnist", {"ipc": 10, "iterations": 60, "method": "dm"}),
    "dream, 1 per class": ("fashion-mnist", {"ipc": 1, "iterations": 2, "method": "dream", "scale": "laptop"}),
    "dance, 1 per class": (
        "fashion-mnist",
        {"ipc": 1, "iterations": 100, "method": "dance", "scale": "laptop", "pool": "pretrained:networks=2,epochs=2,change=interpolate"},
    ),
    "curriculum, 10 per class": ("fashion-mnist", {"ipc": 10, "iterations": 30, "method": "curriculum", "scale": "laptop"}),
    "dd on digits, 10 per class": ("digits", {"ipc": 10, "iterations": 40, "method": "dd"}),
}


@pytest.mark.parametrize("name", CASES)
def bench_estimate(record: Callable[..., None], name: str) -> None:
    data, options = CASES[name]
    record("run", dataset=data, **options, **said_by(ESTIMATE, data, options), **said_by(RUN, data, options))


def said_by(program: str, data: str, options: dict[str, Any]) -> dict[str, Any]:
    """What a program prints in a process of its own."""
    call = [sys.executable, "-W", "ignore", "-c", BEGIN + program, data, json.dumps(options)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(call, capture_output=True, text=True, env={**os.environ, "TMPDIR": folder})
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
