"""The command `selfcheck`: every usable backend and engine against the float64 reference, here: errors, and speed beside it."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fastdc.cli.arguments import Common
from fastdc.engines import ENGINES, make_engine
from fastdc.errors import RunError, UsageError
from fastdc.metrics.backends import BACKENDS, DTYPES, resolve_backend, unsupported_reasons
from fastdc.metrics.layout import ParameterLayout
from fastdc.metrics.operator import layerwise_distance
from fastdc.models import build
from fastdc.parallel.devices import resolve_device
from fastdc.runtime.isolation import isolated

# Largest errors allowed, relative in the 2-norm. A gradient stored in a dtype cannot be nearer than its rounding.
_BACKEND_BARS = {torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 1e-3, torch.bfloat16: 1e-2}
_ENGINE_BAR = 1e-4
_CLASSES, _SIZE = 10, (28, 28)
_ENGINE_MODEL = "convnet:width=32,activation=swish"  # smooth: near zero, rounding decides which way a ReLU goes


@dataclass(frozen=True)
class Check:
    """One thing computed by one backend or engine: its error, what is allowed, and how many times faster than the reference."""

    who: str
    what: str
    error: float
    bar: float
    speedup: float

    @property
    def passed(self) -> bool:
        """Whether the error is a number within the bar."""
        return self.error <= self.bar

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "MISS"
        return f"{self.who:<18} {self.what:<28} {self.error:>8.1e} {self.bar:>8.0e} {self.speedup:>8.2f}  {verdict}"


HEADER = f"{'':<18} {'':<28} {'error':>8} {'allowed':>8} {'speed-up':>8}"


def selfcheck(device: torch.device) -> Iterator[Check]:
    """Check everything that can be used on `device`, one result at a time; nothing is raised for a miss."""
    torch.manual_seed(0)
    with isolated():
        yield from _backend_checks(device)
        yield from _engine_checks(device)


def unusable(device: torch.device) -> list[str]:
    """The backends that cannot be used on `device`, each with its reasons."""
    lines = []
    for name in BACKENDS:
        try:
            resolve_backend(name, device, torch.float32)
        except UsageError as error:
            lines.append(str(error))
    return lines


def _backend_checks(device: torch.device) -> Iterator[Check]:
    layout = ParameterLayout.of(build("convnet", 1, _CLASSES, _SIZE))
    pair = 0.01 * torch.randn(2, _CLASSES, layout.size, dtype=torch.float64)  # of a size that float16 holds, as is its cotangent
    for name in BACKENDS:
        for dtype in DTYPES:
            if unsupported_reasons(name, device, dtype):
                continue
            synthetic, real = pair.to(device, dtype)
            for metric in BACKENDS[name].metrics():
                exact = layerwise_distance(synthetic.cpu().double(), real.cpu().double(), layout, metric, "reference")
                call = functools.partial(layerwise_distance, synthetic, real, layout, metric)
                plain, fast = (_seconds(functools.partial(call, who), device) for who in ("reference", name))
                what = f"{metric} {str(dtype).removeprefix('torch.')}"
                yield Check(f"backend {name}", what, _error(call(name), exact), _BACKEND_BARS[dtype], plain / fast)


def _engine_checks(device: torch.device) -> Iterator[Check]:
    module = build(_ENGINE_MODEL, 1, _CLASSES, _SIZE).double()
    real, synthetic = torch.randn(_CLASSES, 16, 1, *_SIZE).double(), torch.randn(_CLASSES, 2, 1, *_SIZE).double()
    exact = _engine_results("reference", module, real, synthetic)
    module, real, synthetic = module.float().to(device), real.float().to(device), synthetic.float().to(device)
    plain = _engine_results("reference", module, real, synthetic)
    for name in ENGINES:
        if ENGINES.entry(name).unsupported_reasons(module):
            continue
        for what, (value, seconds) in _engine_results(name, module, real, synthetic).items():
            yield Check(f"engine {name}", what, _error((value,), (exact[what][0],)), _ENGINE_BAR, plain[what][1] / seconds)


def _engine_results(name: str, module: torch.nn.Module, real: Tensor, synthetic: Tensor) -> dict[str, tuple[Tensor, float]]:
    """What an engine computes, and how long it takes."""
    engine = make_engine(name, module)
    theta = engine.layout.flatten(module)
    gradients = engine.class_gradients(theta, real)  # [C, P]
    jobs: dict[str, Callable[[], Tensor]] = {
        "class gradients": lambda: engine.class_gradients(theta, real),
        "image gradients": lambda: engine.image_gradients(theta, synthetic, gradients),
        "hessian products": lambda: engine.hessian_products(theta, synthetic, gradients[0])[0],
        "matching": lambda: engine.match(theta, synthetic, gradients, "layerwise_cosine")[1],
        "logits": lambda: engine.logits(theta, real.flatten(0, 1)),
    }
    return {what: (job(), _seconds(job, theta.device, rounds=3)) for what, job in jobs.items()}


def _error(result: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> float:
    """The largest relative error of the tensors, in the 2-norm; not a number where a result is not."""
    errors = torch.stack([(a.cpu().double() - b).norm() / b.norm() for a, b in zip(result, exact, strict=True)])
    return float(errors.max())


def _seconds(job: Callable[[], object], device: torch.device, rounds: int = 7) -> float:
    times = []
    job()
    for _ in range(rounds):
        start = time.perf_counter()
        job()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@dataclass(frozen=True, kw_only=True)
class Selfcheck(Common):
    """Compare all backends and engines usable on this machine with the float64 reference. The exit code is 1 if an error is too large."""

    device: str = "auto"
    """Where: auto, cpu, cuda or cuda:N."""

    def run(self) -> None:
        """Check, print a row each."""
        device = resolve_device(self.device)
        print(f"fastdc selfcheck on {device}\n{HEADER}")
        missed = 0
        for check in selfcheck(device):
            print(check, flush=True)
            missed += not check.passed
        for line in unusable(device):
            print(line)
        if missed:
            raise RunError(f"{missed} checks missed what is allowed on {device}; please report the table above.")
