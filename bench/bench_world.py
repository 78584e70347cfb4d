"""A run that several processes share: seconds of a matching step beside one process with as many threads, and bytes that pass between
them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RUN = """
import json, re, sys, threading, time, torch, fastdc
from fastdc.callbacks import IterationDone
from fastdc.parallel.world import launched, world

def resident(what):
    with open("/proc/self/status") as status:
        return int(re.search(what + r":\\s+(\\d+) kB", status.read())[1]) / 1024

data, options, warm = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
moments, bytes_then, held = [time.monotonic()], [], []

def watch():
    while True:
        time.sleep(0.1)
        held.append(resident("VmRSS"))

threading.Thread(target=watch, daemon=True).start()

def note(event):
    if isinstance(event, IterationDone):
        moments.append(time.monotonic())
        bytes_then.append(here.sent)

with launched():
    here = world()
    fastdc.condense(data, progress=False, callbacks=[note], **options)
    held, peak = world().gathered(max(held[-30:])), world().gathered(resident("VmHWM"))  # in the last three seconds of the run
    if world().leads:
        steps = [after - before for before, after in zip(moments[warm:], moments[1 + warm:])]
        passed = (bytes_then[-1] - bytes_then[warm - 1]) / len(steps)
        print(json.dumps({"seconds": steps, "bytes": passed, "held_mib": held, "peak_mib": peak}))
"""
LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--standalone")


def run(processes: int, threads: int, data: str, warm: int = 1, **options: Any) -> dict[str, Any]:
    """What a run says of itself: of each iteration after the first `warm` its seconds, the bytes that pass in one; the memory in MiB that
    each process holds in the last seconds of the run, and its peak."""
    launcher = (*LAUNCHER, f"--nproc-per-node={processes}") if processes > 1 else (sys.executable,)
    script = Path(os.environ.get("TMPDIR", "/tmp")) / f"fastdc_bench_world_{os.getpid()}.py"
    script.write_text(RUN)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    try:
        command = [*launcher, str(script), data, json.dumps(options), str(warm)]
        found = subprocess.run(command, env=environment, capture_output=True, text=True)
    finally:
        script.unlink()
    assert found.returncode == 0, found.stderr
    result: dict[str, Any] = json.loads(next(line for line in found.stdout.splitlines() if line.startswith("{")))
    return result


def noise(path: Path, classes: int, each: int, side: int, channels: int = 3) -> str:
    """A set of noise in a file, by the name that it is loaded by."""
    random = np.random.default_rng(0)
    images = random.integers(256, size=(classes * each, side, side, channels), dtype=np.uint8)
    labels = np.arange(classes * each) % classes
    np.savez(path, x_train=images, y_train=labels, x_test=images[:classes], y_test=labels[:classes])
    return f"npz:{path}"


def bench_step(record: Callable[..., None], tmp_path: Path) -> None:
    """One process of two threads, and two of one, in turn."""
    data = noise(tmp_path / "noise.npz", 10, 300, 32)
    cases: dict[str, dict[str, Any]] = {
        "dc, ipc 1": {"ipc": 1, "iterations": 7},
        "dc, ipc 10, one step": {"ipc": 10, "iterations": 4, "matching_steps": 1},
        "dc, ipc 10, two steps and a training between": {"ipc": 10, "iterations": 3, "matching_steps": 2, "model_epochs": 50},
        "dm, ipc 10": {"ipc": 10, "iterations": 8, "method": "dm"},
    }
    for name, options in cases.items():
        ways = {(1, 2): [], (2, 1): []}  # type: dict[tuple[int, int], list[dict[str, Any]]]
        for _ in range(2):
            for way, found in ways.items():
                found.append(run(*way, data, **options))
        for (processes, threads), found in ways.items():
            seconds = statistics.median(statistics.median(one["seconds"]) for one in found)
            record("iteration", name=name, processes=processes, threads=threads, seconds=seconds, bytes=found[0]["bytes"])


# Classes, images per class, pixels of a side, processes of one thread. The first two say what a class takes, a model what the others do.
COSTS = ((10, 1, 32, 1), (10, 10, 32, 1), (20, 1, 32, 1), (10, 1, 64, 1), (10, 1, 32, 2), (20, 10, 64, 2))


def bench_cost(record: Callable[..., None], tmp_path: Path) -> None:
    """A matching step of dc by classes, images per class, resolution and processes."""
    for classes, ipc, side, processes in COSTS:
        data = noise(tmp_path / "noise.npz", classes, 256, side)
        found = run(processes, 1, data, ipc=ipc, iterations=3, matching_steps=1)
        record("cost", classes=classes, ipc=ipc, side=side, processes=processes, seconds=statistics.median(found["seconds"]))
