"""What only a GPU can tell, stage by stage: bench/gpu.sh runs this. Each row is one JSON line in FOLDER/results.jsonl, written at once.

    python -m gpu STAGE FOLDER [--until T]     in bench/; a stage is one of STAGES below, or table, which prints what the rows say

A row that fails is a row with `error`, one for which there is no time left or no device a row with `skipped`; the rest goes on. Times are
medians; `event_ms` lies between two CUDA events, `wall_ms` between two synchronisations, `kernel_ms` is the sum over all kernels of one
call, so that the difference is time in which the GPU waits. Without a GPU everything is tiny.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from gpu.card_tests import distance_tests, engine_tests
from gpu.ceilings import ceilings
from gpu.chunks import chunks
from gpu.compiled import compiled
from gpu.condensation import condensation
from gpu.convolutions import convolutions
from gpu.distance import distance
from gpu.engines import engines
from gpu.graphs import graphs
from gpu.rows import Results
from gpu.settings import GPU
from gpu.table import table

STAGES: dict[str, Callable[[Results], None]] = {
    "ceilings": ceilings,
    "distance-tests": distance_tests,
    "engine-tests": engine_tests,
    "engines": engines,
    "chunks": chunks,
    "graphs": graphs,
    "convolutions": convolutions,
    "distance": distance,
    "condensation": condensation,
    "compiled": compiled,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*STAGES, "table"])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--until", type=float, default=time.time() + 100, help="seconds since 1970: rows that would begin later are skipped"
    )
    arguments = parser.parse_args()
    if arguments.stage == "table":
        table(arguments.folder)
        return 0
    if not GPU:
        torch.set_num_threads(1)  # what is this small only waits for a second thread
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which `timeout` sends; a shell in the background ignores it
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.stage, arguments.folder, arguments.until)
    try:
        STAGES[arguments.stage](results)
    except Exception as error:
        traceback.print_exc()
        results.row("the whole stage", error=f"{type(error).__name__}: {error}"[:1000])
        return 1
    return int(results.failed)


if __name__ == "__main__":
    sys.exit(main())
