"""What every benchmark shares: readable rows, and the machine that they were taken on."""

from __future__ import annotations

from typing import Any

import pytest
import torch


@pytest.fixture
def timed(benchmark: Any) -> Any:
    """Times a function: one call to warm up, then three; notes threads and version of torch beside the result."""

    def run(function: Any, **extra: Any) -> None:
        benchmark.extra_info.update(threads=torch.get_num_threads(), torch=torch.__version__, **extra)
        benchmark.pedantic(function, rounds=3, warmup_rounds=1)

    return run
