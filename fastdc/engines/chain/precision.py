"""How the products of a network may be rounded: what goes into them, never the sums, the norms or the distance.

A product of two float32 numbers on the tensor cores of a GPU reads fewer bits of each: TF32 ten behind the leading one, bfloat16
seven; they add up in float32. On a GPU torch is told to use these units, and what products of bfloat16 give is rounded to bfloat16 as
well. Elsewhere operands are rounded as the units do it, so that what a precision costs can be measured. float64 is never rounded.
The native engine rounds by itself, in C++.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from fastdc.errors import unknown_name
from fastdc.runtime.isolation import rounding_to_tf32

_TF32_LOST = 13  # of the 23 bits of float32 behind the leading one


@dataclass(frozen=True)
class Precision:
    """What becomes of a float32 operand of a product, on a GPU and elsewhere; and what a GPU is told while it computes."""

    elsewhere: Callable[[Tensor], Tensor] = lambda values: values
    on_gpu: Callable[[Tensor], Tensor] = lambda values: values
    telling: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    dot: str = "ieee"
    """How Triton multiplies float32 numbers."""

    def operand(self, values: Tensor) -> Tensor:
        """The numbers as a product reads them."""
        if values.dtype != torch.float32:
            return values
        return self.on_gpu(values) if values.is_cuda else self.elsewhere(values)

    def computing(self, theta: Tensor) -> AbstractContextManager[None]:
        """What a call with these weights is made within."""
        return self.telling() if theta.is_cuda and theta.dtype == torch.float32 else contextlib.nullcontext()


def rounded_to_tf32(values: Tensor) -> Tensor:
    """float32 numbers to the nearest of ten bits behind the leading one, of two equally near to the even one; infinite and NaN as they are.

    >>> rounded_to_tf32(torch.tensor([1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11])).tolist()
    [1.0009765625, 1.0, 1.001953125]
    """
    bits = values.contiguous().view(torch.int32)
    half = (1 << (_TF32_LOST - 1)) - 1 + ((bits >> _TF32_LOST) & 1)
    rounded = ((bits + half) & -(1 << _TF32_LOST)).view(torch.float32)
    return torch.where(values.isfinite(), rounded, values)


PRECISIONS: dict[str, Precision] = {
    "float32": Precision(),
    "tf32": Precision(rounded_to_tf32, telling=rounding_to_tf32, dot="tf32"),
    "bfloat16": Precision(lambda values: values.bfloat16().float(), Tensor.bfloat16),
}
EXACT = PRECISIONS["float32"]


def check_precision(name: str) -> None:
    """Raise a UsageError unless `name` is one of PRECISIONS."""
    if name not in PRECISIONS:
        raise unknown_name("precision", name, PRECISIONS)
