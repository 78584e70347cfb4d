"""What Triton's kernels would occupy of GPUs, compiled ahead of time: no GPU is needed, and nothing is timed.

python bench/bench_kernels.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from record import ROOT, Row, write

THREADS, REGISTERS, SHARED = 2048, 65536, 160 << 10  # of a multiprocessor of compute capability 8.0, 9.0 and 10.0, the least of the three
GRAIN = 8  # registers are given out by so many


def occupancy(registers: int, shared: int, warps: int) -> float:
    """The share of a multiprocessor's threads that programs of a kernel fill at once."""
    threads = 32 * warps
    given = -(-registers // GRAIN) * GRAIN
    programs = min(THREADS // threads, REGISTERS // (given * threads), SHARED // max(shared, 1))
    return programs * threads / THREADS


def main() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = ROOT / "tests" / "test_triton_compiles.py"
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    rows: list[Row] = []
    for case, used in json.loads(done.stdout.splitlines()[-1]).items():
        name, _, architecture = case.rpartition("-")
        rows.append(
            {"kernel": name, "architecture": architecture, **used, "occupancy": occupancy(used["registers"], used["shared"], used["warps"])}
        )
    write(ROOT / "bench" / "results" / "kernels.json", "python bench/bench_kernels.py", rows)


if __name__ == "__main__":
    main()
