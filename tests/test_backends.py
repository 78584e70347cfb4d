"""Which backend serves: the order of `auto`, FASTDC_BACKEND, and what is said where one cannot."""

from __future__ import annotations

import inspect
import os

import pytest
import torch

from fastdc import UsageError, compiled
from fastdc.backends import BACKENDS, DTYPES, Backend, cpp, resolve_backend
from fastdc.distance import layerwise_distance, match_loss
from fastdc.layout import Parameter, ParameterLayout

built = pytest.mark.skipif(compiled.extension is None, reason=f"fastdc._C is not there ({compiled.state('cpp')})")
LAYOUT = ParameterLayout((Parameter("weight", 0, (2, 3)),))


@pytest.fixture(autouse=True)
def _as_a_user_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTDC_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.fixture
def without_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "extension", None)
    monkeypatch.setattr(compiled, "BUILD", {"cpp": "not built: c++: command not found"})


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The reasons that each backend gives; a test fills them in."""
    reasons: dict[str, list[str]] = {name: [] for name in BACKENDS}
    for name, backend in BACKENDS.items():
        monkeypatch.setattr(backend, "unsupported_reasons", lambda device_type, dtype, name=name: reasons[name])
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


@built
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


@pytest.mark.parametrize("device_type", ["cpu", "cuda", "meta", "mps", "xpu"])
def test_the_reference_serves_anything(device_type: str) -> None:
    for dtype in (*DTYPES, torch.int32, torch.complex64):
        assert resolve_backend("reference", device_type, dtype) == "reference"
    assert resolve_backend("auto", "meta", torch.float32) == "reference"


@pytest.mark.cuda
def test_auto_takes_a_kernel_on_a_gpu() -> None:
    assert resolve_backend("auto", "cuda", torch.float32) == "triton"


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_takes_what_it_is_given(name: str) -> None:
    """The calls are by place: a backend that expects something else there is seen only where it can run."""
    for function in ("unsupported_reasons", "layerwise_distance"):
        expected = inspect.signature(getattr(Backend, function))
        assert list(inspect.signature(getattr(BACKENDS[name], function)).parameters) == [
            each for each in expected.parameters if each != "self"
        ]


def test_memory_of_a_result_is_used_again_only_when_nobody_holds_it() -> None:
    shape = torch.Size([3, 50])
    first = cpp._empty(shape, torch.float32)
    place = first.data_ptr()
    held = [cpp._empty(shape, torch.float32)]
    assert held[0].data_ptr() != place
    part, array = first[1:], held.pop().numpy()
    del first
    taken = [cpp._empty(shape, torch.float32) for _ in range(3)]
    assert len({part.untyped_storage().data_ptr(), array.ctypes.data, *(each.data_ptr() for each in taken)}) == 5
    last = taken[-1].data_ptr()
    del taken
    assert cpp._empty(shape, torch.float32).data_ptr() == last
    assert cpp._empty(torch.Size([3, 51]), torch.float32).shape == (3, 51)
