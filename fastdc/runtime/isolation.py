"""Isolation: a call computes as in a fresh process, whatever its caller has set in torch, and leaves all of it as it was.

Some settings belong to a thread (gradients, inference mode, autocast, the default device) and are put aside for the call's own thread.
The others belong to the process: the first of several calls that overlap puts them aside, the last one to end brings them back.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from fastdc.errors import UsageError
from fastdc.runtime.forking import FreshLock


class _Setting(NamedTuple):
    """A setting of the whole process: how it is read and written, and what it is during a call."""

    read: Callable[[], Any]
    write: Callable[[Any], None]
    inside: Any


def _set_determinism(state: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(state[0], warn_only=state[1])


def _setting_of(module: Any, name: str, inside: Any) -> _Setting:
    return _Setting(lambda: getattr(module, name), lambda value: setattr(module, name, value), inside)


class _Precision(NamedTuple):
    """How float32 products may be rounded, on both of the levels that torch keeps."""

    by_operation: tuple[str, ...]  # of each of _OPERATIONS, as set there and not as inherited; from torch 2.9 on
    products: str
    cudnn: bool


# Each inherits from those before it of the same backend, and these from the first, where it says "none".
_OPERATIONS = (
    ("generic", "all"),
    *((backend, operation) for backend in ("cuda", "mkldnn") for operation in ("all", "matmul", "conv", "rnn")),
)
_BY_OPERATION = hasattr(torch._C, "_get_fp32_precision_getter")
_EXACT = _Precision(("none", *2 * ("none", "ieee", "ieee", "ieee")), "highest", False)
_TF32 = _Precision(("none", "none", *3 * ("tf32",), "none", *3 * ("ieee",)), "high", True)


def _take_precision() -> _Precision:
    """What the caller has set; afterwards every operation is exact.

    A level that contradicts the other cannot be read, and one that inherits reads as what it inherits: so each is cleared once it is
    read, the one that others inherit from first.
    """
    by_operation = []
    for place, exact in zip(_OPERATIONS, _EXACT.by_operation, strict=True) if _BY_OPERATION else ():
        by_operation.append(torch._C._get_fp32_precision_getter(*place))
        torch._C._set_fp32_precision_setter(*place, "none" if exact == "none" else "ieee")
    products = torch.get_float32_matmul_precision()
    try:
        cudnn = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # it is set, against what each operation now says
        cudnn = True
    return _Precision(tuple(by_operation), products, cudnn)


def _set_precision(precision: _Precision) -> None:
    """The inverse of `_take_precision`; what torch does not keep is left out."""
    torch.set_float32_matmul_precision(precision.products)
    torch.backends.cudnn.allow_tf32 = precision.cudnn
    for place, value in zip(_OPERATIONS, precision.by_operation, strict=False) if _BY_OPERATION else ():  # last: the lines above write them
        torch._C._set_fp32_precision_setter(*place, value)


_SETTINGS = (
    _Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    _Setting(
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        _set_determinism,
        (False, False),  # it refuses some operations that are deterministic as they are used here
    ),
    _setting_of(torch.backends.cudnn, "enabled", True),
    _setting_of(torch.backends.cudnn, "benchmark", False),  # by timing: other bits from process to process
    _setting_of(torch.backends.cudnn, "deterministic", True),
    # Attention by its plain mathematics: what is fused has no second derivative.
    _Setting(torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp, True),
    _Setting(torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp, False),
    _Setting(torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp, False),
    _Setting(torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp, False),
)

_ALONE = (
    "precision='tf32' holds for the whole process while it computes, and another thread computes at the same time; run these calls one "
    "after another, or each in a process of its own."
)
_lock = FreshLock()
_calls: dict[int, int] = {}  # by thread
_rounding: int | None = None  # the thread that rounds products, from the first time on to the end of its call
_restore = contextlib.ExitStack()


def _enter() -> None:
    thread = threading.get_ident()
    with _lock:
        if _rounding not in (None, thread):
            raise UsageError(_ALONE)
        if not _calls:
            try:
                _put_aside()
            except BaseException:
                _restore.close()
                raise
        _calls[thread] = _calls.get(thread, 0) + 1


def _put_aside() -> None:
    """What the caller has set in torch."""
    with _no_warnings():
        _restore.callback(_set_precision, _take_precision())
        _set_precision(_EXACT)
    for setting in _SETTINGS:
        before = setting.read()
        if before != setting.inside:
            _restore.callback(setting.write, before)
            setting.write(setting.inside)


def _leave() -> None:
    global _rounding
    thread = threading.get_ident()
    with _lock:
        _calls[thread] -= 1
        if not _calls[thread]:
            del _calls[thread]
            _rounding = None if _rounding == thread else _rounding
        if not _calls:
            with _no_warnings():
                _restore.close()


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """The old names of some settings are deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _forget_other_threads() -> None:
    """Those of the parent, which a forked child does not have."""
    global _rounding
    for thread in _calls.keys() - {threading.get_ident()}:
        del _calls[thread]
    _rounding = _rounding if _rounding in _calls else None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_other_threads)


@contextlib.contextmanager
def rounding_to_tf32() -> Iterator[None]:
    """Products of float32 numbers on a GPU read ten bits behind the leading one of each. From the first time on to the end of the call
    that this is a part of, no other thread may compute.

    Raises:
        UsageError: another thread computes, for which this would hold as well.
    """
    global _rounding
    thread = threading.get_ident()
    with _lock:
        if _calls.keys() - {thread} or _rounding not in (None, thread):
            raise UsageError(_ALONE)
        _rounding = thread
        with _no_warnings():
            before = _take_precision()
            _set_precision(_TF32)
    try:
        yield
    finally:
        with _lock:
            _rounding = thread if thread in _calls else None
            with _no_warnings():
                _set_precision(before)


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Computes in full float32 precision, deterministically, with gradients, on the CPU where no device is named; also a decorator."""
    with contextlib.ExitStack() as stack:
        _enter()
        stack.callback(_leave)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
