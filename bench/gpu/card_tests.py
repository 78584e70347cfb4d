"""The project's tests that a GPU is wanted for."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gpu.rows import Results, version_of
from gpu.settings import GPU

TESTS = Path(__file__).parents[2] / "tests"


class Recorder:
    """A plugin of pytest: each failure is a row at once, and the counts are one at the end, or when the time is over."""

    def __init__(self, results: Results) -> None:
        self.results, self.counts, self.reasons = results, Counter[str](), Counter[str]()
        self.slowest: list[tuple[float, str]] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call":
            self.slowest = sorted([*self.slowest, (round(report.duration, 2), report.nodeid.split("::", 1)[-1])])[-8:]
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.failed:
            self.results.row("failure", test=report.nodeid.split("::", 1)[-1], phase=report.when, error=str(report.longrepr)[-1500:])
        if report.skipped and isinstance(report.longrepr, tuple):
            self.reasons[report.longrepr[2]] += 1

    @pytest.hookimpl(tryfirst=True)  # before xdist waits for its processes, for which there may be no time
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        unfinished = exitstatus == pytest.ExitCode.INTERRUPTED
        self.results.row("tests", **self.counts, unfinished=unfinished, why_skipped=dict(self.reasons), slowest_s=self.slowest[::-1])


def run_tests(results: Results, marked: str, *files: str) -> None:
    """The tests so marked in these files of tests/, with this package and without the project's pytest settings; where xdist is there, in
    several processes of one thread each, since compiling kernels and the references on the CPU take most of the time."""
    settings = Path.cwd() / "pytest.ini"
    settings.write_text("[pytest]\nmarkers = slow\n")
    options = ["-c", str(settings), "-p", "no:cacheprovider", "-p", "tests_in_order", "-q", "--tb=short", "--maxfail=60", "-m", marked]
    if version_of("pytest-xdist"):
        os.environ["OMP_NUM_THREADS"] = "1"
        options += ["-n", str(min(os.cpu_count() or 1, 12)), "--maxschedchunk=1"]
    code = pytest.main([*options, *(str(TESTS / file) for file in files)], plugins=[Recorder(results)])
    results.failed = code != 0


def distance_tests(results: Results) -> None:
    run_tests(results, "cuda and not slow", "test_layerwise_distance.py", "test_backends.py", "test_launches.py")


def engine_tests(results: Results) -> None:
    stems = ("norm_act_pool", "class_sums", "products", "convolution", "cross_entropy", "gather_normalise")
    kernels = [f"test_{stem}.py" for stem in stems if GPU]  # interpreted elsewhere
    run_tests(results, "not slow", "test_cuda_engines.py", *kernels)
