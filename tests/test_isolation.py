"""What a caller has set in torch changes no result, and is as it was afterwards; what others do at the same time, neither."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fastdc
from fastdc.runtime import isolation
from fastdc.runtime.isolation import isolated, rounding_to_tf32

BY_OPERATION = isolation._BY_OPERATION
PLACES = isolation._OPERATIONS if BY_OPERATION else ()


def images_and_labels() -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 16, 16), generator=generator, dtype=torch.uint8, device="cpu")
    return images.numpy(), (torch.arange(60, device="cpu") % 3).numpy()


def condensed(model: str = "convnet:width=8") -> Tensor:
    options = {"iterations": 2, "matching_steps": 2, "model_epochs": 2, "batch_real": 8, "progress": False}
    return fastdc.condense(images_and_labels(), 2, model=model, device="cpu", **options).images


def condensed_by_torch() -> Tensor:
    return condensed("mlp:width=16")


def evaluated() -> Tensor:
    images = fastdc.coresets.random(images_and_labels(), 2)
    result = fastdc.evaluate(images, images_and_labels(), model="mlp:width=8", networks=2, epochs=3, device="cpu", progress=False)
    return torch.tensor(result.accuracies, dtype=torch.float64, device="cpu")


def chosen() -> Tensor:
    return fastdc.coresets.herding(images_and_labels(), 2, features="pixels", device="cpu", progress=False).images


def loaded() -> Tensor:
    train, test = fastdc.load_dataset("digits")
    return torch.cat([train.normalised(slice(0, 5)), test.normalised(slice(0, 5))])


@lru_cache
def module() -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    result = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Sigmoid(), nn.Linear(16, 2))
    with torch.no_grad():
        for value in result.parameters():
            value.copy_(torch.randn(value.shape, generator=generator))
    return result


@lru_cache
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randn(2, n, 1, 8, 8, generator=generator, device="cpu", dtype=torch.float32) for n in (2, 5))  # type: ignore[return-value]


def matched() -> Tensor:
    loss, gradient = fastdc.GradientMatcher(module(), engine="torch")(*pair())
    return torch.cat([loss[None], gradient.flatten()])


CALLS = [condensed, condensed_by_torch, evaluated, chosen, loaded, matched]


@pytest.fixture(scope="module")
def undisturbed() -> dict[Callable[[], Tensor], Tensor]:
    return {call: call() for call in CALLS}


def attempt(read: Callable[[], Any]) -> Any:
    """What a setting reads as; torch refuses to read one that contradicts another."""
    try:
        return read()
    except RuntimeError:
        return "contradictory"


def settings_now() -> dict[str, Any]:
    reads: dict[str, Callable[[], Any]] = {
        "default dtype": torch.get_default_dtype,
        "default device": torch.get_default_device,
        "gradients": torch.is_grad_enabled,
        "inference mode": torch.is_inference_mode_enabled,
        "deterministic": torch.are_deterministic_algorithms_enabled,
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled,
        "cudnn": lambda: torch.backends.cudnn.enabled,
        "cudnn.benchmark": lambda: torch.backends.cudnn.benchmark,
        "cudnn.deterministic": lambda: torch.backends.cudnn.deterministic,
        "autocast": lambda: (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
        **precision_reads(),
    }
    return {name: attempt(read) for name, read in reads.items()}


def precision_reads() -> dict[str, Callable[[], Any]]:
    reads: dict[str, Callable[[], Any]] = {
        "matmul precision": torch.get_float32_matmul_precision,
        "cuda.matmul.allow_tf32": lambda: torch.backends.cuda.matmul.allow_tf32,
        "cudnn.allow_tf32": lambda: torch.backends.cudnn.allow_tf32,
    }
    return reads | {".".join(place): partial(torch._C._get_fp32_precision_getter, *place) for place in PLACES}


def set_precision(place: tuple[str, str], value: str) -> None:
    torch._C._set_fp32_precision_setter(*place, value)


def assign(target: Any, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(target, name, value)


PRECISIONS: dict[str, Callable[[], None]] = {
    **{f"matmul precision {value}": partial(torch.set_float32_matmul_precision, value) for value in ("highest", "high", "medium")},
    **{f"cuda.matmul.allow_tf32 {value}": assign(torch.backends.cuda.matmul, "allow_tf32", value) for value in (True, False)},
    **{f"cudnn.allow_tf32 {value}": assign(torch.backends.cudnn, "allow_tf32", value) for value in (True, False)},
    **{f"{'.'.join(place)} {value}": partial(set_precision, place, value) for place in PLACES for value in ("none", "ieee", "tf32")},
    **{f"{'.'.join(place)} bf16": partial(set_precision, place, "bf16") for place in PLACES if place[0] != "cuda"},
}
OTHERS: dict[str, Callable[[], None]] = {
    "default dtype float64": partial(torch.set_default_dtype, torch.float64),
    "default dtype bfloat16": partial(torch.set_default_dtype, torch.bfloat16),
    "default device meta": partial(torch.set_default_device, "meta"),
    "no gradients": partial(torch.set_grad_enabled, False),
    "deterministic": partial(torch.use_deterministic_algorithms, True),
    "deterministic, warnings": partial(torch.use_deterministic_algorithms, True, warn_only=True),
    "cudnn off": assign(torch.backends.cudnn, "enabled", False),
    "cudnn.benchmark": assign(torch.backends.cudnn, "benchmark", True),
    "cudnn.deterministic": assign(torch.backends.cudnn, "deterministic", True),
}
CONTEXTS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "device": lambda: torch.device("meta"),
}


def to_defaults() -> None:
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = True, False, False
    precision_to_defaults()


def precision_to_defaults() -> None:
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for place in PLACES:
        set_precision(place, "tf32" if place in (("cuda", "conv"), ("cuda", "rnn")) else "none")


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    to_defaults()
    yield
    to_defaults()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", [*PRECISIONS, *OTHERS])
def test_no_setting_of_the_caller_changes_a_bit_and_all_are_put_back(setting: str, undisturbed: dict[Any, Tensor]) -> None:
    (PRECISIONS | OTHERS)[setting]()
    before = settings_now()
    results = {call: call() for call in CALLS}
    assert settings_now() == before
    to_defaults()
    assert [call.__name__ for call in CALLS if not torch.equal(results[call], undisturbed[call])] == []


@pytest.mark.parametrize("name", CONTEXTS)
def test_no_context_of_the_caller_changes_a_bit(name: str, undisturbed: dict[Any, Tensor]) -> None:
    with CONTEXTS[name]():
        before = settings_now()
        results = {call: call() for call in CALLS}
        assert settings_now() == before
    assert [call.__name__ for call in CALLS if not torch.equal(results[call], undisturbed[call])] == []


def test_images_and_weights_made_in_inference_mode_can_be_matched() -> None:
    expected = matched()
    with torch.inference_mode():
        images = [part.clone() for part in pair()]
        loss, gradient = fastdc.GradientMatcher(module(), engine="torch")(*images)
    assert torch.equal(torch.cat([loss[None], gradient.flatten()]), expected)


@settings(max_examples=200, deadline=None)
@given(chosen=st.lists(st.sampled_from(sorted(PRECISIONS)), max_size=5))
def test_precision_is_exact_within_and_all_its_levels_are_put_back(chosen: list[str]) -> None:
    """Also what cannot be read as it was set: an operation that inherits its precision goes on to do so."""

    def make() -> None:
        precision_to_defaults()
        for name in chosen:
            PRECISIONS[name]()

    def revealed() -> list[Any]:
        seen = [{name: attempt(read) for name, read in precision_reads().items()}]
        for place, value in itertools.product([place for place in PLACES if place[1] == "all"], ("ieee", "tf32")):
            set_precision(place, value)
            seen.append({name: attempt(read) for name, read in precision_reads().items()})
        return seen

    make()
    expected = revealed()
    make()
    with isolated():
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
        assert {torch._C._get_fp32_precision_getter(*place) for place in PLACES if place[1] != "all"} <= {"ieee"}
    assert revealed() == expected


def test_products_are_rounded_for_a_while_and_then_exact_again() -> None:
    before = settings_now()
    with isolated():
        exact = settings_now()
        with rounding_to_tf32(), isolated(), rounding_to_tf32():  # as a call within a call
            assert torch.get_float32_matmul_precision() == "high"
            assert torch.backends.cuda.matmul.allow_tf32
            assert torch.backends.cudnn.allow_tf32
            assert {place: torch._C._get_fp32_precision_getter(*place) for place in PLACES if place[1] in ("matmul", "conv")} == {
                place: "tf32" if place[0] == "cuda" else "ieee" for place in PLACES if place[1] in ("matmul", "conv")
            }
        assert settings_now() == exact
    assert settings_now() == before
    torch.set_float32_matmul_precision("medium")
    before = settings_now()
    with rounding_to_tf32():
        pass
    assert settings_now() == before


def test_products_are_not_rounded_for_another_thread() -> None:
    refusals: list[str] = []

    def elsewhere(context: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        try:
            with context():
                pass
        except fastdc.UsageError as error:
            refusals.append(str(error))

    with isolated():
        with rounding_to_tf32():
            pass
        thread = threading.Thread(target=elsewhere, args=(isolated,))  # the next rounding of this call would be refused for its sake
        thread.start()
        thread.join()
    for inside, other in ((rounding_to_tf32, isolated), (rounding_to_tf32, rounding_to_tf32), (contextlib.nullcontext, rounding_to_tf32)):
        with isolated(), inside():
            thread = threading.Thread(target=elsewhere, args=(other,))
            thread.start()
            thread.join()
    assert len(refusals) == 4
    assert all("another thread computes at the same time" in text for text in refusals)


def test_a_call_that_fails_puts_everything_back() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    before = settings_now()
    with pytest.raises(fastdc.UsageError, match="callbacks is 3"):
        fastdc.condense(images_and_labels(), 1, callbacks=3)  # type: ignore[arg-type]
    assert settings_now() == before


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_calls_that_overlap_put_back_what_the_first_one_found_when_the_last_one_ends(first_to_end: int) -> None:
    torch.set_default_dtype(torch.float64)
    torch.backends.cudnn.benchmark = True
    before = settings_now()
    calls = [contextlib.ExitStack(), contextlib.ExitStack()]
    inside, may_end = [threading.Event() for _ in calls], [threading.Event() for _ in calls]

    def overlap(number: int) -> None:
        with isolated():
            inside[number].set()
            may_end[number].wait(10)

    threads = [threading.Thread(target=overlap, args=(number,)) for number in range(2)]
    for number, thread in enumerate(threads):
        thread.start()
        assert inside[number].wait(10)
    for number in (first_to_end, 1 - first_to_end):
        assert torch.get_default_dtype() == torch.float32
        may_end[number].set()
        threads[number].join(10)
    assert settings_now() == before


@pytest.mark.parametrize("model", ["convnet:width=8", "mlp:width=16", "convnet:width=8,norm=batch"])
def test_calls_in_several_threads_give_the_bits_of_one_alone(model: str) -> None:
    expected = condensed(model)
    results: list[Tensor | BaseException] = []

    def run() -> None:
        try:
            results.append(condensed(model))
        except BaseException as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result for result in results if not isinstance(result, Tensor)] == []
    assert all(torch.equal(result, expected) for result in results if isinstance(result, Tensor))


def test_the_callers_generator_is_where_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    for call in CALLS:
        call()
    assert torch.equal(torch.randn(3), expected)


def test_a_call_before_cuda_is_used_decides_nothing_that_cuda_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeding where CUDA is not in use yet would leave an order for the moment when it is: none may be given."""
    orders: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, orders.append)
    for call in CALLS:
        call()
    assert orders == []


FORKING = """
import os, sys, threading
import torch
import fastdc
from fastdc.engines import torch_func
from fastdc.runtime import isolation, seeding

torch.set_num_threads(2)
options = {"model": "convnet:width=16,depth=2", "iterations": 1, "matching_steps": 2, "batch_real": 64, "progress": False}
expected = fastdc.condense("digits", 2, **options).images
torch.rand(10_000_000).sum()  # which uses torch's own threads
held = threading.Event()

def hold():
    with seeding._global_generators, isolation._lock, torch_func._forward_mode:
        held.set()
        threading.Event().wait()

threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if not child:
    found = fastdc.condense("digits", 2, **options).images
    torch.rand(10_000_000).sum()
    fastdc.condense("digits", 1, engine="torch", **options)
    os._exit(0 if torch.equal(found, expected) and torch.get_num_threads() == 1 else 3)
_, status = os.waitpid(child, 0)
os._exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_forked_child_computes_as_its_parent_does_whatever_the_parent_has_used() -> None:
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKING], timeout=240, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
