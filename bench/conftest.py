"""What every benchmark shares: readable rows, and the machine that they were taken on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastdc.runtime.compiled import BUILD


@pytest.fixture
def timed(benchmark: Any) -> Any:
    """Times a function: one call to warm up, then `rounds`; notes threads, versions and device beside the result."""

    def run(function: Any, rounds: int = 3, group: str | None = None, **extra: Any) -> None:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else torch.backends.cpu.get_cpu_capability()
        benchmark.group = group or benchmark.group
        notes = {"threads": torch.get_num_threads(), "torch": torch.__version__, "device": device}
        benchmark.extra_info.update(notes, compiler=BUILD.get("compiler", "none"), **extra)
        benchmark.pedantic(function, rounds=rounds, warmup_rounds=1)

    return run
