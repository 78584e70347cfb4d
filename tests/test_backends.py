"""Which backend serves: the order of `auto`, FASTDC_BACKEND, and what is said where one cannot."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers import needs_extension
from torch import Tensor

from fastdc import RunError, UsageError
from fastdc.metrics import backends
from fastdc.metrics.backends import BACKENDS, DTYPES, Backend, compute, cpp, cuda, resolve_backend, triton, unsupported_reasons
from fastdc.metrics.backends.one_by_one import one_by_one
from fastdc.metrics.layout import Parameter, ParameterLayout
from fastdc.metrics.operator import layerwise_distance, match_loss
from fastdc.runtime import compiled

LAYOUT = ParameterLayout((Parameter("weight", 0, (2, 3)),))


@pytest.fixture(autouse=True)
def _as_a_user_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTDC_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(backends, "_failures", {})
    monkeypatch.setattr(backends, "_served", set())
    backends._warn_once.cache_clear()


@pytest.fixture
def without_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "extension", None)
    monkeypatch.setattr(compiled, "BUILD", {"cpp": "not built: c++: command not found"})


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The reasons that each backend gives; a test fills them in."""
    reasons: dict[str, list[str]] = {name: [] for name in BACKENDS}
    for name, backend in BACKENDS.items():
        monkeypatch.setattr(backend, "unsupported_reasons", lambda device, dtype, name=name: reasons[name])
    return reasons


def test_auto_takes_the_first_that_can(stubs: dict[str, list[str]]) -> None:
    for name in ("cpp", "triton", "cuda", "reference"):
        assert resolve_backend("auto", "cpu", torch.float32) == name
        stubs[name].append("no")


def test_the_environment_decides_for_auto_alone(stubs: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDC_BACKEND", "triton")
    assert resolve_backend("auto", "cpu", torch.float32) == "triton"
    assert resolve_backend("cpp", "cpu", torch.float32) == "cpp"
    for unset in ("auto", ""):
        monkeypatch.setenv("FASTDC_BACKEND", unset)
        assert resolve_backend("auto", "cpu", torch.float32) == "cpp"


def test_the_environment_reaches_the_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    ones = torch.ones(2, 6)
    monkeypatch.setenv("FASTDC_BACKEND", "cuda")
    with pytest.raises(UsageError, match="FASTDC_BACKEND 'cuda' cannot serve float32 on cpu"):
        layerwise_distance(ones, ones, LAYOUT)
    with pytest.raises(UsageError, match="FASTDC_BACKEND 'cuda' cannot serve float32 on cpu"):
        match_loss([ones], [ones])
    layerwise_distance(ones, ones, LAYOUT, backend="reference")


def test_an_unknown_name_is_refused_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"unknown backend 'cp'\. Did you mean 'cpp'\? Known: auto, cpp, cuda, reference, triton"):
        resolve_backend("cp", "cpu", torch.float32)
    with pytest.raises(UsageError, match="backend is None; expected one of auto, cpp, cuda, reference, triton"):
        resolve_backend(None, "cpu", torch.float32)
    monkeypatch.setenv("FASTDC_BACKEND", "refrence")
    with pytest.raises(UsageError, match=r"unknown FASTDC_BACKEND 'refrence'\. Did you mean 'reference'"):
        resolve_backend("auto", "cpu", torch.float32)


def test_a_backend_that_cannot_serve_gives_all_its_reasons(stubs: dict[str, list[str]]) -> None:
    stubs["cpp"] += ["it is Monday", "it rains"]
    with pytest.raises(UsageError, match=r"^backend 'cpp' cannot serve bfloat16 on cuda: it is Monday; it rains\.$"):
        resolve_backend("cpp", "cuda", torch.bfloat16)


@pytest.mark.usefixtures("without_cpp")
def test_cpp_lists_every_reason() -> None:
    with pytest.raises(UsageError) as caught:
        resolve_backend("cpp", "cuda", torch.int32)
    for reason in ("fastdc._C is not there (not built: c++: command not found)", "it works on CPU tensors", "torch.int32 is none of"):
        assert reason in str(caught.value)


@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_gpu_backends_list_every_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError) as caught:
        resolve_backend(name, "cpu", torch.int32)
    text = str(caught.value)
    assert text.startswith(f"backend {name!r} cannot serve int32 on cpu: ")
    assert all(reason in text.lower() for reason in ("cuda", "torch sees no cuda device", "int32"))
    assert text.count("; ") >= 2


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="Triton compiles for the GPU and does not interpret")
def test_triton_serves_the_cpu_under_its_interpreter_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="it works on CUDA tensors"):
        resolve_backend("triton", "cpu", torch.float32)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert resolve_backend("triton", "cpu", torch.float32) == "triton"
    with pytest.raises(UsageError, match="TRITON_INTERPRET=1 is set, and then it works on CPU tensors"):
        resolve_backend("triton", "cuda", torch.float32)


@needs_extension
@pytest.mark.parametrize("dtype", DTYPES)
def test_cpp_serves_the_cpu(dtype: torch.dtype) -> None:
    assert resolve_backend("auto", "cpu", dtype) == resolve_backend("cpp", "cpu", dtype) == "cpp"


@pytest.mark.usefixtures("without_cpp")
def test_without_the_extension_the_reference_serves() -> None:
    assert resolve_backend("auto", "cpu", torch.float32) == "reference"
    ones = torch.ones(2, 6)
    distance, _ = layerwise_distance(ones, -ones, LAYOUT)
    torch.testing.assert_close(distance, torch.full((2,), 4.0))
    with pytest.raises(UsageError, match=r"fastdc\._C is not there \(not built: c\+\+: command not found\)"):
        layerwise_distance(ones, ones, LAYOUT, backend="cpp")


@pytest.mark.usefixtures("without_cpp")
def test_without_a_record_of_a_build_the_error_says_how_to_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "BUILD", {})
    with pytest.raises(UsageError, match=r"this is a source tree; pip install \. builds it"):
        resolve_backend("cpp", "cpu", torch.float32)


@pytest.mark.usefixtures("without_cpp")
def test_an_extension_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_failure", "it does not load: undefined symbol")
    with pytest.raises(UsageError, match="it does not load: undefined symbol"):
        resolve_backend("cpp", "cpu", torch.float32)


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1", "meta", "mps", "xpu"])
def test_the_reference_serves_anything(device: str) -> None:
    for dtype in (*DTYPES, torch.int32, torch.complex64):
        assert resolve_backend("reference", device, dtype) == resolve_backend("reference", torch.device(device), dtype) == "reference"
    assert resolve_backend("auto", "meta", torch.float32) == "reference"


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One CUDA device, as torch would see it; a test may set its compute capability."""
    capability = [9, 0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: tuple(capability))
    return capability


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs, the only one on the PATH, with a gcc in it; Triton and Python's headers are there."""
    header = tmp_path / "include" / "Python.h"
    header.parent.mkdir()
    header.touch()
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gcc").touch(mode=0o755)
    monkeypatch.setattr(triton, "_installed", lambda: True)
    monkeypatch.setattr(triton.sysconfig, "get_paths", lambda scheme: {"include": str(header.parent)})
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("CC", raising=False)
    triton._missing_tools.cache_clear()
    return tmp_path


def triton_reasons(dtype: torch.dtype = torch.float32, device: str = "cuda:0") -> list[str]:
    return unsupported_reasons("triton", device, dtype)


@pytest.mark.usefixtures("card")
def test_triton_needs_a_compiler_as_triton_looks_for_it(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert triton_reasons() == []
    (tools / "bin" / "gcc").rename(tools / "bin" / "clang")
    triton._missing_tools.cache_clear()
    assert triton_reasons() == []
    (tools / "bin" / "clang").rename(tools / "bin" / "icc")
    triton._missing_tools.cache_clear()
    assert triton_reasons() == ["Triton needs a C compiler, and gcc or clang is not there"]
    monkeypatch.setenv("CC", "icc")
    assert triton_reasons() == []
    monkeypatch.setenv("CC", "/opt/cc")
    assert triton_reasons() == ["Triton needs a C compiler, and CC=/opt/cc is not there"]


@pytest.mark.usefixtures("card")
def test_triton_needs_the_headers_of_python(tools: Path) -> None:
    header = tools / "include" / "Python.h"
    header.unlink()
    assert triton_reasons() == [f"Triton needs Python's headers, and {header} is not there"]


@pytest.mark.usefixtures("tools")
def test_triton_needs_a_card_that_it_compiles_for(card: list[int]) -> None:
    card[:] = [7, 5]
    assert triton_reasons(torch.float16) == []
    assert triton_reasons(torch.bfloat16) == ["cuda:0 has compute capability 7.5; Triton needs 8.0 for bfloat16"]
    card[:] = [6, 1]
    assert triton_reasons() == ["cuda:0 has compute capability 6.1; Triton needs 7.0 for float32"]


@pytest.mark.usefixtures("tools", "card")
@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_a_card_that_is_not_there_is_a_reason(name: str) -> None:
    assert "torch sees no cuda:1" in unsupported_reasons(name, "cuda:1", torch.float32)


class Library:
    """A compiled CUDA library that refuses every card."""

    asked: ClassVar[list[int]] = []

    def fastdc_cuda_unusable(self, device: int) -> bytes:
        self.asked.append(device)
        return b"no kernel image is available"


@pytest.fixture
def library_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What lies where the compiled CUDA library is looked for."""
    path = tmp_path / "_cuda.so"
    path.write_bytes(b"not a library")
    monkeypatch.setattr(cuda, "_LIBRARY", path)
    monkeypatch.setattr(compiled, "BUILD", {"cuda": "built: for others"})
    for cached in (cuda._library, cuda._unusable):
        cached.cache_clear()
    yield path
    cuda._unusable.cache_clear()


@pytest.mark.usefixtures("card", "library_file")
def test_cuda_needs_code_for_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_library", Library)
    expected = ["fastdc/_cuda.so does not run on cuda:0 (no kernel image is available; built: for others)"]
    assert unsupported_reasons("cuda", "cuda:0", torch.float32) == unsupported_reasons("cuda", "cuda", torch.float32) == expected
    assert Library.asked == [0]


@pytest.mark.usefixtures("card")
def test_a_cuda_library_that_does_not_load_is_a_reason(library_file: Path) -> None:
    (reason,) = unsupported_reasons("cuda", "cuda:0", torch.float32)
    assert reason.startswith(f"fastdc/_cuda.so does not load ({library_file}: ")
    assert reason.endswith("; built: for others)")
    library_file.unlink()
    assert unsupported_reasons("cuda", "cuda:0", torch.float32) == ["fastdc/_cuda.so is not there (built: for others)"]


def test_what_auto_passes_over_is_said_once_for_each_cause(stubs: dict[str, list[str]], caplog: pytest.LogCaptureFixture) -> None:
    stubs["cpp"].append("it works on CPU tensors")
    stubs["triton"] += ["it rains", "it snows"]
    for _ in range(2):
        assert resolve_backend("auto", "cuda:0", torch.float32) == "cuda"
    stubs["cuda"].append("it is Monday")
    for _ in range(2):
        assert resolve_backend("auto", "cuda:0", torch.float32) == "reference"
    triton_cannot = "backend 'triton' cannot serve float32 on cuda:0: it rains; it snows. "
    assert [(record.name, record.levelname, record.message) for record in caplog.records] == [
        ("fastdc", "WARNING", triton_cannot + "'cuda' serves instead."),
        ("fastdc", "WARNING", triton_cannot + "backend 'cuda' cannot serve float32 on cuda:0: it is Monday. 'reference' serves instead."),
    ]


def test_nothing_is_said_of_a_backend_for_other_devices(stubs: dict[str, list[str]], caplog: pytest.LogCaptureFixture) -> None:
    for name in ("triton", "cuda"):
        stubs[name].append("it works on CUDA tensors")
    resolve_backend("auto", "cpu", torch.float32)
    stubs["cpp"].append("it works on CPU tensors")
    resolve_backend("auto", "meta", torch.float32)
    assert not caplog.records


@pytest.fixture
def failing(stubs: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """What the backend cpp raises, while there is something in the list."""
    errors: list[Exception] = []
    serve = BACKENDS["reference"].layerwise_distance

    def launch(*arguments: Any) -> Any:
        if errors:
            raise errors[0]
        return serve(*arguments)

    monkeypatch.setattr(cpp, "layerwise_distance", launch)
    for name in ("triton", "cuda"):
        stubs[name].append("it works on CUDA tensors")
    return errors


PAIR = (torch.ones(2, 6), -torch.ones(2, 6), LAYOUT.segments(), "layerwise_cosine")


def test_auto_goes_on_without_a_backend_whose_first_launch_fails(failing: list[Exception], caplog: pytest.LogCaptureFixture) -> None:
    failing.append(RuntimeError("PassManager\n failed"))
    distance, _ = compute("auto", *PAIR)
    torch.testing.assert_close(distance, torch.full((2,), 4.0))
    failing.clear()
    compute("auto", *PAIR)
    expected = "backend 'cpp' cannot serve float32 on cpu: it failed with RuntimeError: PassManager failed. 'reference' serves instead."
    assert [record.message for record in caplog.records] == [expected]
    assert unsupported_reasons("cpp", "cpu", torch.float32) == ["it failed with RuntimeError: PassManager failed"]
    assert unsupported_reasons("cpp", "meta", torch.float32) == []


def test_auto_goes_on_with_lists_where_the_first_launch_fails(failing: list[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpp, "layerwise_distances", one_by_one(cpp.layerwise_distance))
    failing.append(RuntimeError("PassManager failed"))
    torch.testing.assert_close(match_loss([torch.ones(2, 3)], [-torch.ones(2, 3)]), torch.tensor(4.0))
    with pytest.raises(UsageError, match=r"backend 'cpp' cannot serve .* it failed with RuntimeError: PassManager failed"):
        match_loss([torch.ones(2, 3)], [-torch.ones(2, 3)], backend="cpp")


def test_a_backend_that_was_named_raises(failing: list[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    failing.append(RuntimeError("PassManager failed"))
    expected = "backend 'cpp' cannot go on with float32 on cpu: it failed with RuntimeError: PassManager failed; choose another one"
    with pytest.raises(RunError, match=expected):
        compute("cpp", *PAIR)
    monkeypatch.setenv("FASTDC_BACKEND", "cpp")
    with pytest.raises(RunError, match=expected):
        compute("auto", *PAIR)
    failing.clear()
    compute("cpp", *PAIR)


def test_auto_does_not_change_who_serves_in_the_middle(failing: list[Exception]) -> None:
    compute("auto", *PAIR)
    failing.append(RuntimeError("unspecified launch failure"))
    with pytest.raises(RunError, match="backend 'cpp' cannot go on"):
        compute("auto", *PAIR)


@pytest.mark.parametrize(
    "error",
    [
        UsageError("call it once before"),
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_what_another_backend_would_not_cure_is_raised(failing: list[Exception], error: Exception) -> None:
    failing.append(error)
    with pytest.raises(type(error)):
        compute("auto", *PAIR)
    failing.clear()
    assert unsupported_reasons("cpp", "cpu", torch.float32) == []


@pytest.mark.cuda
def test_auto_takes_a_kernel_on_a_gpu() -> None:
    assert resolve_backend("auto", "cuda", torch.float32) == "triton"


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_takes_what_it_is_given(name: str) -> None:
    """The calls are by place: a backend that expects something else there is seen only where it can run."""
    assert BACKENDS[name].MEANT_FOR in ("cpu", "cuda", "")
    for function in ("unsupported_reasons", "metrics", "layerwise_distance", "layerwise_distances"):
        expected = inspect.signature(getattr(Backend, function))
        assert list(inspect.signature(getattr(BACKENDS[name], function)).parameters) == [
            each for each in expected.parameters if each != "self"
        ]


def mapped_again(x: Tensor) -> Tensor:
    """The same memory as another process has it to which a tensor was sent."""
    handle = x.untyped_storage()._share_filename_cpu_()
    return torch.empty(0, dtype=x.dtype).set_(torch.UntypedStorage._new_shared_filename_cpu(*handle), 0, x.shape)


HOLD: dict[str, Any] = {
    "itself": lambda x: x,
    "a view": lambda x: x[1:],
    "an array": lambda x: x.numpy(),
    "another process": mapped_again,
    "its storage": lambda x: torch.empty(0, dtype=x.dtype).set_(x.untyped_storage(), 0, x.shape),
}


@needs_extension
@pytest.mark.parametrize("hold", HOLD.values(), ids=HOLD)
def test_a_result_that_is_held_in_any_way_is_left_alone_by_later_calls(hold: Any) -> None:
    ones, layout = torch.ones(3, 50_000), ParameterLayout((Parameter("weight", 0, (5, 10_000)),))  # large enough to be kept
    held = hold(layerwise_distance(ones, -ones, layout, "mse", "cpp")[1])
    for number in range(4, 7):
        layerwise_distance(number * ones, ones, layout, "mse", "cpp")
    assert torch.equal(torch.as_tensor(held), torch.full(held.shape, 4.0))
