"""Backends of the layer-wise distance: who computes it. `auto` takes the first that can serve a device and dtype.

A backend is a module:

    MEANT_FOR                                                 the type of device it is made for; "": any
    unsupported_reasons(device, dtype)                        every reason why it cannot serve; empty: it can
    metrics()                                                 the names of those that it has code for; asked where it can serve
    layerwise_distance(synthetic, real, segments, metric)     [C, P], [C, P], ints, name -> [C], [C, P]
    layerwise_distances(synthetic, real, metric)              the same for lists of tensors, every one with rows: -> [], cotangents

Gradients come checked, with the elements of a class side by side; segments are the offset, rows and row_length of each
parameter that the distance looks at, one after another (`ParameterLayout.segments`). The distance is float64 for float64, else float32; the
cotangent has the gradients' dtype.

Where `auto` passes over a backend that is meant for such a device, the logger "fastdc" says so once, and why.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from fastdc.errors import RunError, UsageError, unknown_name
from fastdc.metrics.backends import cpp, cuda, reference, triton
from fastdc.metrics.backends.reasons import DTYPES
from fastdc.metrics.definitions import definition_of
from fastdc.parallel.out_of_memory import is_out_of_memory

__all__ = ["BACKENDS", "DTYPES", "Backend", "compute", "compute_lists", "resolve_backend", "unsupported_reasons"]


class Backend(Protocol):
    """What a module of this package offers."""

    MEANT_FOR: str

    def unsupported_reasons(self, device: torch.device, dtype: torch.dtype) -> list[str]:
        """Every reason why tensors on this device, of this dtype, cannot be served; none: they can."""

    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics that it has code for."""

    def layerwise_distance(self, synthetic: Tensor, real: Tensor, segments: tuple[int, ...], metric: str) -> tuple[Tensor, Tensor]:
        """The distance [C] of gradients [C, P], and its cotangent [C, P]."""

    def layerwise_distances(self, synthetic: Sequence[Tensor], real: Sequence[Tensor], metric: str) -> tuple[Tensor, list[Tensor]]:
        """The distance [] of lists of gradients, one tensor [rows, ...] per parameter, and its cotangents."""


# From the fastest to the plainest: the order in which `auto` asks.
BACKENDS: dict[str, Backend] = {"cpp": cpp, "triton": triton, "cuda": cuda, "reference": reference}

Result = TypeVar("Result")

_served: set[tuple[str, torch.device]] = set()
_failures: dict[tuple[str, torch.device], str] = {}  # of first launches: a reason against that backend on that device from then on


def unsupported_reasons(name: str, device: torch.device | str, dtype: torch.dtype, metric: str | None = None) -> list[str]:
    """Every reason why the backend `name` cannot serve tensors on `device`; a launch that failed there before is one.

    That it does not have the `metric` is the reason where there is no other.
    """
    device = torch.device(device)
    failure = _failures.get((name, device))
    reasons = [*BACKENDS[name].unsupported_reasons(device, dtype), *([failure] if failure else [])]
    if reasons or metric is None or metric in BACKENDS[name].metrics():
        return reasons
    own, others = ", ".join(BACKENDS[name].metrics()), " or ".join(_having(metric, device, dtype))
    return [f"it has no metric {metric!r} but {own}; {others} can take its place"]


def resolve_backend(name: str, device: torch.device | str, dtype: torch.dtype, metric: str | None = None) -> str:
    """The backend that serves: `name` itself, or for "auto" the one that FASTDC_BACKEND names, or else the first that can.

    Args:
        name: a backend, or "auto".
        device: of the gradients.
        dtype: of the gradients.
        metric: the name of the metric that it must have; None: any.

    Raises:
        UsageError: an unknown backend, or one that cannot serve; the text lists every reason.
    """
    wanted, source = _wanted(name)
    if wanted not in (*BACKENDS, "auto"):
        raise unknown_name(source, wanted, (*BACKENDS, "auto"))
    device = torch.device(device)
    if wanted == "auto":
        return _first_that_serves(device, dtype, metric)
    reasons = unsupported_reasons(wanted, device, dtype, metric)
    if reasons:
        raise UsageError(f"{source} {wanted!r} cannot serve {_short(dtype)} on {device}: {'; '.join(reasons)}.")
    return wanted


def compute(name: str, synthetic: Tensor, real: Tensor, segments: tuple[int, ...], metric: str) -> tuple[Tensor, Tensor]:
    """The distance and its cotangent by the backend `name`; for "auto", by the next one where the first launch of one fails.

    Raises:
        UsageError: an unknown metric, or as `resolve_backend`.
        RunError: the backend failed, and no other may take its place: it was named, or has served on this device before.
    """
    return _served_by(name, synthetic, metric, lambda backend: backend.layerwise_distance(synthetic, real, segments, metric))


def compute_lists(name: str, synthetic: Sequence[Tensor], real: Sequence[Tensor], metric: str) -> tuple[Tensor, list[Tensor]]:
    """As `compute`, of lists of gradients with one tensor per parameter."""
    return _served_by(name, synthetic[0], metric, lambda backend: backend.layerwise_distances(synthetic, real, metric))


def _served_by(name: str, synthetic: Tensor, metric: str, work: Callable[[Backend], Result]) -> Result:
    definition_of(metric)
    chosen = resolve_backend(name, synthetic.device, synthetic.dtype, metric)
    who = (chosen, synthetic.device)
    try:
        result = work(BACKENDS[chosen])
    except UsageError:
        raise
    except Exception as error:  # whatever a compiler, a driver or a library brings about
        if is_out_of_memory(error) or BACKENDS[chosen] is reference:
            raise
        failure = f"it failed with {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if _wanted(name)[0] != "auto" or who in _served:  # another one's sums differ in the last bits: not in the middle of a run
            raise RunError(
                f"backend {chosen!r} cannot go on with {_short(synthetic.dtype)} on {synthetic.device}: {failure}; "
                "choose another one with backend=, or for a whole process with FASTDC_BACKEND."
            ) from error
        _failures[who] = failure
        return _served_by(name, synthetic, metric, work)
    _served.add(who)
    return result


def _wanted(name: str) -> tuple[str, str]:
    """The backend asked for, and what asks for it."""
    by_environment = os.environ.get("FASTDC_BACKEND") or "auto"
    return (by_environment, "FASTDC_BACKEND") if name == "auto" else (name, "backend")


def _first_that_serves(device: torch.device, dtype: torch.dtype, metric: str | None) -> str:
    passed_over = []
    for name, backend in BACKENDS.items():
        reasons = unsupported_reasons(name, device, dtype, metric)
        if not reasons:
            break
        if device.type == backend.MEANT_FOR:
            passed_over.append(f"backend {name!r} cannot serve {_short(dtype)} on {device}: {'; '.join(reasons)}")
    if passed_over:
        _warn_once(f"{'. '.join(passed_over)}. {name!r} serves instead.")
    return name


def _having(metric: str, device: torch.device, dtype: torch.dtype) -> list[str]:
    """The backends that have a metric, of those that can serve."""
    usable = {name: backend for name, backend in BACKENDS.items() if not unsupported_reasons(name, device, dtype)}
    return [name for name, backend in usable.items() if metric in backend.metrics()]


@functools.cache
def _warn_once(line: str) -> None:
    logging.getLogger("fastdc").warning(line)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
