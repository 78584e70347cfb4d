"""What the tests share: the mark `cuda`, Triton on the CPU, and every way in which the distance can be computed here."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from versions import triton_version

# Triton decides when it is imported whether kernels are compiled or interpreted, and without a GPU only the interpreter can run them.
# With a GPU they are compiled, as they are for users.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from fastdc.data.sources import named
from fastdc.runtime import compiled

# A shell ignores SIGINT for what it starts in the background, and so do all processes of that; the tests send it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

needs_fashion_mnist = pytest.mark.skipif(
    not named.DEBIAN_FASHION_MNIST.is_dir(), reason="FashionMNIST is missing: apt-get install dataset-fashion-mnist"
)
INSTRUCTION_SETS: list[str] = compiled.extension.usable_instruction_sets() if compiled.extension is not None else []


class Arm(NamedTuple):
    """A backend, the device whose tensors it is given, and for cpp the instruction set."""

    backend: str
    device: str = "cpu"
    instruction_set: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.backend, self.instruction_set, self.device)))


# Without a GPU, Triton's kernels are interpreted.
needs_triton = pytest.mark.skipif(triton_version() == (0, 0), reason="triton is not installed")
needs_triton_to_run = pytest.mark.skipif(
    not torch.cuda.is_available() and triton_version() < (3, 7) and np.lib.NumpyVersion(np.__version__) >= "2.4.0",
    reason="the interpreter of Triton before 3.7 does not work with numpy 2.4: it takes int() of arrays with one element",
)


def arms(*backends: str) -> list[pytest.param]:
    """One for each device of each backend, or of those named; a backend that is not there is skipped, and the skip says why."""
    no_extension = pytest.mark.skipif(compiled.extension is None, reason=f"fastdc._C is not there ({compiled.state('cpp')})")
    compiles = pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles for the GPU and does not interpret")
    marks = {
        Arm("reference"): [],
        **{Arm("cpp", "cpu", name): [no_extension] for name in INSTRUCTION_SETS or ["baseline"]},
        Arm("triton"): [needs_triton, needs_triton_to_run, compiles],
        Arm("triton", "cuda"): [pytest.mark.cuda],
        Arm("cuda", "cuda"): [pytest.mark.cuda],
    }
    return [pytest.param(arm, marks=each, id=str(arm)) for arm, each in marks.items() if not backends or arm.backend in backends]


@pytest.fixture(params=arms())
def arm(request: pytest.FixtureRequest) -> Iterator[Arm]:
    """Each backend in turn, for cpp with each instruction set that this processor runs."""
    if request.param.instruction_set:
        compiled.extension.select_instruction_set(request.param.instruction_set)
    yield request.param
    if request.param.instruction_set:
        compiled.extension.select_instruction_set(INSTRUCTION_SETS[0])


@pytest.fixture
def cli() -> ModuleType:
    """The command line."""
    pytest.importorskip("tyro", reason="tyro is not installed, which the command line needs")
    return importlib.import_module("fastdc.cli")


@pytest.fixture
def threads() -> Iterator[None]:
    """Lets a test call `torch.set_num_threads`."""
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


@pytest.fixture
def nan_filled() -> Iterator[None]:
    """`torch.empty` gives NaN instead of what lay in memory: what is read before it is written shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(9).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cuda: needs a CUDA device; skipped without one, failed if FASTDC_REQUIRE_CUDA=1")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") is None or torch.cuda.is_available():
        return
    if os.environ.get("FASTDC_REQUIRE_CUDA") == "1":
        pytest.fail("torch sees no CUDA device, and FASTDC_REQUIRE_CUDA=1", pytrace=False)
    pytest.skip("torch sees no CUDA device")
