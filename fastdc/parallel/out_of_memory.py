"""Memory that ran out, whoever says so: torch, its drivers, numpy, compiled code and Python all have an error of their own for it."""

from __future__ import annotations

import errno
import re

import torch

# What a RuntimeError says: torch's allocators on the CPU, CUDA and its libraries outside of torch's allocator, C++.
_SAID = re.compile(r"can't allocate memory|not enough memory|out of memory|_STATUS_ALLOC_FAILED|bad_alloc", re.IGNORECASE)
_OF_A_GPU = re.compile(r"cuda|cublas|cudnn", re.IGNORECASE)
_ASKED_FOR = re.compile(r"(?:tried|unable) to allocate ([\d.,]+ ?(?:bytes|[KMGTPE]iB))", re.IGNORECASE)
_CURE = (
    "Take a smaller model (width=) or batch_real, fewer images per class or fewer workers at once, or an engine that takes fewer images "
    "at a time, such as torch:memory=64."
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a GPU or of the machine.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("a size does not fit"))
    (True, False)
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and bool(_SAID.search(str(error))))


def out_of_memory_sentence(error: BaseException) -> str:
    """What ran out and what to do about it, of an error that `is_out_of_memory`.

    >>> out_of_memory_sentence(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")).split(". ")[0]
    'the memory of the GPU ran out when 2.00 GiB more were asked for'
    >>> out_of_memory_sentence(MemoryError()).split(". ")[0]
    'memory ran out'
    """
    text = str(error)
    asked = _ASKED_FOR.search(text)
    where = "the memory of the GPU" if isinstance(error, torch.OutOfMemoryError) or _OF_A_GPU.search(text) else "memory"
    return f"{where} ran out{f' when {asked[1]} more were asked for' if asked else ''}. {_CURE}"
