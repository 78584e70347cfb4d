"""A run that several processes share: the memory that each of them holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench_world import noise, run


def bench_memory_of_a_share(record: Callable[..., None], tmp_path: Path) -> None:
    """A thousand classes of 64 x 64 at 10 images per class: what a process holds towards the end, alone and as one of two."""
    data = noise(tmp_path / "noise.npz", 1000, 300, 64)
    for processes in (1, 2):
        found = run(processes, 2 // processes, data, ipc=10, method="dm", model="convnet:width=32", iterations=4, batch_real=64)
        record("memory", processes=processes, held_mib=found["held_mib"], peak_mib=found["peak_mib"])
