"""fastdc selfcheck: what it checks, and that a miss is one."""

from __future__ import annotations

import dataclasses
from types import ModuleType

import pytest
import torch

from fastdc.cli import selfcheck
from fastdc.cli.selfcheck import Check
from fastdc.engines import ENGINES
from fastdc.metrics.backends import BACKENDS

CPU = torch.device("cpu")
GOOD = Check("backend cpp", "mse float32", error=1e-8, bar=1e-5, speedup=3.0)


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "_seconds", lambda job, device, rounds=0: 1.0)
    monkeypatch.setattr(selfcheck, "BACKENDS", {name: BACKENDS[name] for name in ("cpp", "reference")})


@pytest.mark.usefixtures("untimed")
def test_every_usable_backend_and_engine_passes_here() -> None:
    checks = list(selfcheck.selfcheck(CPU))
    assert [check for check in checks if not check.passed] == []
    assert {check.who for check in checks} == {f"backend {name}" for name in selfcheck.BACKENDS} | {f"engine {name}" for name in ENGINES}


@pytest.mark.usefixtures("untimed")
def test_a_backend_that_computes_something_else_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    right = selfcheck.layerwise_distance

    def wrong(*arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        distance, cotangent = right(*arguments)
        return distance, 1.0001 * cotangent if arguments[-1] == "cpp" else cotangent

    monkeypatch.setattr(selfcheck, "layerwise_distance", wrong)
    missed = [check for check in selfcheck.selfcheck(CPU) if not check.passed]
    assert {check.who for check in missed} == {"backend cpp"}
    assert any("float32" in check.what for check in missed)


@pytest.mark.parametrize("error", [1e-4, float("nan"), float("inf")])
def test_a_miss_is_shown_and_ends_with_1(
    error: float, cli: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fastdc.cli.selfcheck.selfcheck", lambda device: iter([GOOD, dataclasses.replace(GOOD, error=error)]))
    assert cli.main(["selfcheck", "--device", "cpu"]) == 1
    shown = capsys.readouterr()
    assert shown.out.count("  ok") == 1
    assert shown.out.count("  MISS") == 1
    assert "1 checks missed" in shown.err


def test_without_a_miss_it_ends_with_0_and_says_what_cannot_be_used(
    cli: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fastdc.cli.selfcheck.selfcheck", lambda device: iter([GOOD]))
    assert cli.main(["selfcheck", "--device", "cpu"]) == 0
    assert "'cuda' cannot serve float32 on cpu" in capsys.readouterr().out


@pytest.mark.cuda
def test_every_usable_backend_and_engine_passes_on_a_gpu() -> None:
    assert [check for check in selfcheck.selfcheck(torch.device("cuda")) if not check.passed] == []
