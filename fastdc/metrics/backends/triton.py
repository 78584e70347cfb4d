"""The triton backend: one Triton kernel on GPUs (fastdc.kernels); under TRITON_INTERPRET=1 on the CPU, for tests."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

import torch
from torch import Tensor

from fastdc.metrics.backends.one_by_one import one_by_one
from fastdc.metrics.backends.reasons import against_device, against_dtype
from fastdc.metrics.tiles import tiles_of

MEANT_FOR = "cuda"

_CAPABILITY = (7, 0)  # the lowest that Triton compiles for
_BFLOAT16_CAPABILITY = (8, 0)


def unsupported_reasons(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Every reason why tensors on this device, of this dtype, cannot be served."""
    reasons = [] if _installed() else ["triton is not installed"]
    if os.environ.get("TRITON_INTERPRET") == "1":
        reasons += [] if device.type == "cpu" else ["TRITON_INTERPRET=1 is set, and then it works on CPU tensors"]
    else:
        on_device = against_device(device, "cuda")
        reasons += [*on_device, *_missing_tools(os.environ.get("CC"), os.environ.get("PATH"))]
        if not on_device:
            reasons += _too_old(device, dtype)
    reasons += against_dtype(dtype)
    return reasons or _import_failure()


def metrics() -> tuple[str, ...]:
    """The names of the metrics that the kernel has code for."""
    from fastdc.kernels import layerwise_distance as kernel  # here, so that fastdc imports without Triton

    return kernel.METRICS


def layerwise_distance(synthetic: Tensor, real: Tensor, segments: tuple[int, ...], metric: str) -> tuple[Tensor, Tensor]:
    """The distance [C] of gradients [C, P], and its cotangent [C, P]; see `fastdc.metrics.operator`."""
    from fastdc.kernels import layerwise_distance as kernel

    tiles = tiles_of(segments, synthetic.shape[1], synthetic.device)
    # Triton launches on the current device, which need not be the gradients'.
    with torch.cuda.device(synthetic.device) if synthetic.is_cuda else contextlib.nullcontext():
        return kernel.layerwise_distance(synthetic, real, tiles, metric)


layerwise_distances = one_by_one(layerwise_distance)


@functools.cache
def _import_failure() -> list[str]:
    """Why the kernel cannot be imported, if it cannot: a Triton that is there may still be of no use."""
    try:
        from fastdc.kernels import layerwise_distance  # noqa: F401
    except Exception as error:  # whatever a broken installation raises
        return [f"Triton cannot be imported ({' '.join(str(error).split())})"]
    return []


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _missing_tools(compiler: str | None, path: str | None) -> list[str]:
    """What Triton lacks to compile the few lines of C that launch its kernels; looked for as Triton does it.

    Args:
        compiler: the environment variable CC, which goes before gcc and clang.
        path: where programs are looked for.
    """
    reasons = []
    if not any(shutil.which(name, path=path) for name in ([compiler] if compiler is not None else ["gcc", "clang"])):
        wanted = f"CC={compiler}" if compiler is not None else "gcc or clang"
        reasons.append(f"Triton needs a C compiler, and {wanted} is not there")
    scheme = sysconfig.get_default_scheme()
    header = Path(sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"]) / "Python.h"
    if not header.is_file():
        reasons.append(f"Triton needs Python's headers, and {header} is not there")
    return reasons


def _too_old(device: torch.device, dtype: torch.dtype) -> list[str]:
    needed = max(_CAPABILITY, _BFLOAT16_CAPABILITY) if dtype == torch.bfloat16 else _CAPABILITY
    capability = torch.cuda.get_device_capability(device)
    if capability >= needed:
        return []
    name = str(dtype).removeprefix("torch.")
    return ["{} has compute capability {}.{}; Triton needs {}.{} for {}".format(device, *capability, *needed, name)]
