"""Backends of the layer-wise distance: who computes it. `auto` takes the first that can serve a device and dtype.

A backend is a module with two functions:

    unsupported_reasons(device_type, dtype)                   every reason why it cannot serve; empty: it can
    layerwise_distance(synthetic, real, segments, metric)     [C, P], [C, P], ints, name -> [C], [C, P]

Gradients come checked, with the elements of a class side by side; segments are the offset, rows and row_length of each
parameter that has rows, one after another (`ParameterLayout.segments`). The distance is float64 for float64, else float32; the
cotangent has the gradients' dtype.
"""

from __future__ import annotations

import os
from typing import Protocol

import torch
from torch import Tensor

from fastdc.backends import cpp, cuda, reference, triton
from fastdc.errors import UsageError, unknown_name

__all__ = ["BACKENDS", "DTYPES", "Backend", "resolve_backend"]

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Backend(Protocol):
    """What a module of this package offers."""

    def unsupported_reasons(self, device_type: str, dtype: torch.dtype) -> list[str]:
        """Every reason why tensors on such a device, of this dtype, cannot be served; none: they can."""

    def layerwise_distance(self, synthetic: Tensor, real: Tensor, segments: tuple[int, ...], metric: str) -> tuple[Tensor, Tensor]:
        """The distance [C] of gradients [C, P], and its cotangent [C, P]."""


# From the fastest to the plainest: the order in which `auto` asks.
BACKENDS: dict[str, Backend] = {"cpp": cpp, "triton": triton, "cuda": cuda, "reference": reference}


def resolve_backend(name: str, device_type: str, dtype: torch.dtype) -> str:
    """The backend that serves: `name` itself, or for "auto" the one that FASTDC_BACKEND names, or else the first that can.

    Raises:
        UsageError: an unknown backend, or one that cannot serve; the text lists every reason.
    """
    wanted, source = name, "backend"
    if name == "auto":
        wanted, source = os.environ.get("FASTDC_BACKEND") or "auto", "FASTDC_BACKEND"
    if wanted not in (*BACKENDS, "auto"):
        raise unknown_name(source, wanted, (*BACKENDS, "auto"))
    if wanted == "auto":
        return next(each for each, backend in BACKENDS.items() if not backend.unsupported_reasons(device_type, dtype))
    reasons = BACKENDS[wanted].unsupported_reasons(device_type, dtype)
    if reasons:
        raise UsageError(f"{source} {wanted!r} cannot serve {str(dtype).removeprefix('torch.')} on {device_type}: {'; '.join(reasons)}.")
    return wanted
