"""What the tests share: the mark `cuda`, Triton on the CPU, and every way in which the distance can be computed here."""

from __future__ import annotations

import functools
import importlib
import os
import signal
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from versions import triton_version

# Triton decides when it is imported whether kernels are compiled or interpreted, and without a GPU only the interpreter can run them.
# With a GPU they are compiled, as they are for users.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from helpers import INSTRUCTION_SETS, needs_extension

from fastdc.data.sources import named
from fastdc.runtime import compiled

# A shell ignores SIGINT for what it starts in the background, and so do all processes of that; the tests send it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

needs_fashion_mnist = pytest.mark.skipif(
    not named.DEBIAN_FASHION_MNIST.is_dir(), reason="FashionMNIST is missing: apt-get install dataset-fashion-mnist"
)


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
    compiles = pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles for the GPU and does not interpret")
    marks = {
        Arm("reference"): [],
        **{Arm("cpp", "cpu", name): [needs_extension] for name in INSTRUCTION_SETS or ["baseline"]},
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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for what is too small for two; and the handler of SIGTERM, which the command line replaces, is put back."""
    number, handler = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(number)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def every_step_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step."""
    monkeypatch.setattr("fastdc.runs.folder._CHECKPOINT_SHARE", 1e9)


def filled(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What `make` gives, filled: numbers with NaN, whole numbers with the largest there is. Left empty while torch compiles."""

    @functools.wraps(make)
    def make_and_fill(*args: Any, **options: Any) -> Tensor:
        result = make(*args, **options)
        if torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
            return result
        with torch.no_grad():
            if result.is_floating_point() or result.is_complex():
                return result.fill_(torch.nan)
            return result.fill_(True if result.dtype == torch.bool else torch.iinfo(result.dtype).max)

    return make_and_fill


@pytest.fixture(autouse=True, scope="session")
def nothing_is_empty() -> Iterator[None]:
    """`torch.empty` and `numpy.empty` give NaN instead of what lay in memory: what is read before it is written shows.

    Not by torch's deterministic mode, which a call of fastdc puts aside.
    """
    with torch.device("cpu"):
        torch.empty(0)  # torch notes at the first of these which of its functions make tensors, by what they are called then
    make_array = np.empty

    @functools.wraps(make_array)
    def array(*args: Any, **options: Any) -> np.ndarray:
        result = make_array(*args, **options)
        if np.issubdtype(result.dtype, np.inexact):
            result.fill(np.nan)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", filled(torch.empty))
        patch.setattr(torch, "empty_like", filled(torch.empty_like))
        patch.setattr(Tensor, "new_empty", filled(Tensor.new_empty))
        patch.setattr(np, "empty", array)
        yield


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cuda: needs a CUDA device; skipped without one, failed if FASTDC_REQUIRE_CUDA=1")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") is None or torch.cuda.is_available():
        return
    if os.environ.get("FASTDC_REQUIRE_CUDA") == "1":
        pytest.fail("torch sees no CUDA device, and FASTDC_REQUIRE_CUDA=1", pytrace=False)
    pytest.skip("torch sees no CUDA device")
