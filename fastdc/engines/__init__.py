"""Engines: who computes the gradients. `auto` takes the fastest that can do the job."""

from __future__ import annotations

import torch
from torch import nn

from fastdc.engines.augmentation import Augmentation, DrawnAugmentation
from fastdc.engines.base import Distillation, Engine, Sgd
from fastdc.engines.chain.precision import PRECISIONS, check_precision
from fastdc.engines.cuda import CudaEngine
from fastdc.engines.native import NativeEngine
from fastdc.engines.reference import ReferenceEngine
from fastdc.engines.torch_func import TorchEngine
from fastdc.errors import UsageError, unknown_name
from fastdc.options.registry import Registry
from fastdc.options.specs import split_spec

__all__ = [
    "ENGINES",
    "PRECISIONS",
    "Augmentation",
    "CudaEngine",
    "Distillation",
    "DrawnAugmentation",
    "Engine",
    "NativeEngine",
    "ReferenceEngine",
    "Sgd",
    "TorchEngine",
    "check_engine",
    "make_engine",
    "resolve_engine",
]

_CLOSED = {  # by the names of their classes, whose modules take seconds to import: what to give in their place
    "ScriptModule": "the module that was scripted or traced",
    "DataParallel": "its .module",
    "DistributedDataParallel": "its .module",
    "OptimizedModule": "the module that was compiled, its ._orig_mod; engine='torch:compile=true' compiles",
}

# From the fastest to the plainest: the order in which `auto` asks.
ENGINES: Registry[Engine] = Registry(
    "engine", {"native": NativeEngine, "cuda": CudaEngine, "torch": TorchEngine, "reference": ReferenceEngine}
)


def check_engine(spec: str, precision: str = "float32") -> None:
    """Raise unless `spec` is "auto" or names a known engine, with known options, and the precision is known.

    Raises:
        UsageError: an unknown engine, option or precision.
    """
    check_precision(precision)
    name, options = split_spec(spec)
    if name not in (*ENGINES, "auto"):
        raise unknown_name("engine", name, (*ENGINES, "auto"))
    if name != "auto":
        ENGINES.options(spec)
    elif options:
        raise UsageError(f"engine 'auto' takes no options; {spec!r} gives {', '.join(options)}.")


def resolve_engine(spec: str, module: nn.Module, precision: str = "float32") -> str:
    """The engine that serves `module` at a precision: `spec` itself, or for "auto" the first that has no reason against it.

    Raises:
        UsageError: an unknown engine, or one that cannot serve; the text lists every reason.
    """
    check_engine(spec, precision)
    check_open(module)
    name = split_spec(spec)[0]
    kind = next(module.parameters(), torch.empty(0)).device.type
    candidates = [each for each in ENGINES if ENGINES.entry(each).chosen_on in (None, kind)] if name == "auto" else [name]
    refusals = {each: _reasons_against(ENGINES.entry(each), module, precision) for each in candidates}
    for each, reasons in refusals.items():
        if not reasons:
            return each if name == "auto" else spec
    given = "; ".join(f"{each}: {', '.join(reasons)}" for each, reasons in refusals.items())
    raise UsageError(f"engine {spec!r} cannot serve {type(module).__name__}: {given}.")


def _reasons_against(engine: type[Engine], module: nn.Module, precision: str) -> list[str]:
    if precision in engine.precisions:
        missing = engine.missing_for(precision)
    else:
        others = [each for each in ENGINES if precision in ENGINES.entry(each).precisions]
        missing = [f"it does not compute in {precision}, as engine={', '.join(others)} does"]
    return [*missing, *engine.unsupported_reasons(module)]


def check_open(module: nn.Module) -> None:
    """Raise a UsageError where a network, or a part of it, is wrapped in a way that no engine can look through."""
    for name, part in module.named_modules():
        for kind in type(part).__mro__:
            if kind.__name__ in _CLOSED:
                raise UsageError(
                    f"{name or 'the network'} is wrapped as {kind.__name__}, through which no engine sees; give {_CLOSED[kind.__name__]}."
                )


def make_engine(spec: str, module: nn.Module, precision: str = "float32") -> Engine:
    """The engine called `spec` ("auto", "reference", "torch", "torch:memory=256,compile=true") for `module`, at a precision."""
    return ENGINES.make(resolve_engine(spec, module, precision), module, precision)
