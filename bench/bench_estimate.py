"""What `fastdc.estimate` says beside what the run then takes, in one process each: seconds, peak memory, bytes of the folder.

FashionMNIST (Debian's dataset-fashion-mnist) and digits. Runs are short in their iterations alone: dc at 1, 10 and 50 images per class has
the default network and the paper's numbers. Networks that a pool trains once are trained anew. Run nothing else meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

CALL = """
import json, sys, tempfile, time
from pathlib import Path
import torch, fastdc
from fastdc.parallel.devices import peak_memory, reset_peak_memory
from fastdc.training import whole_set
data, options, device = sys.argv[1], json.loads(sys.argv[2]), torch.device("cuda" if torch.cuda.is_available() else "cpu")
with tempfile.TemporaryDirectory() as folder:
    whole_set.DEFAULT_CACHE, out = Path(folder) / "networks", Path(folder) / "run"
    began = time.monotonic()
    estimate = fastdc.estimate(data, **options)
    asked = time.monotonic()
    reset_peak_memory(device)
    fastdc.condense(data, **options, out=out, progress=False)
    print(json.dumps({
        "estimated_seconds": estimate.seconds, "seconds": time.monotonic() - asked, "asking_seconds": asked - began,
        "estimated_memory": estimate.memory, "memory": peak_memory(device),
        "estimated_disk": estimate.disk, "disk": sum(file.stat().st_size for file in out.rglob("*.*")),
    }))
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
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CALL, data, json.dumps(options)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    record("run", dataset=data, **options, **found)
