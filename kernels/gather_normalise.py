"""Images of a set gathered and normalised in one launch, written in Triton.

    result[n, c, h, w] = levels[c, images[index[n], c, h, w]]

Each channel has a table of what its 256 bytes become, which the cache holds: a byte is read once, a number written once, and nothing is
divided, so that the bits are those of whoever made the table. The plain definition is `fastdc.engines.gather_normalise`.

How the work is split: one program for each map of an image that is drawn. TRITON_INTERPRET=1, set before Triton is imported, runs it on
CPU tensors.
"""
# ruff: noqa: N803 (constexpr arguments are in capitals, as is usual in Triton)

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # pixels of a step: a map of 32x32
WARPS = 4


@triton.jit(do_not_specialize=["channels"])
def gather_normalise_kernel(images, index, levels, result, channels, area, BLOCK: tl.constexpr):
    """One map of `area` pixels."""
    program = tl.program_id(0).to(tl.int64)
    channel = program % channels
    images += (tl.load(index + program // channels) * channels + channel) * area
    levels += channel * 256
    result += program * area
    lanes = tl.arange(0, BLOCK)
    for start in range(0, area, BLOCK):
        inside = lanes < area - start
        pixels = tl.load(images + start + lanes, mask=inside, other=0)
        tl.store(result + start + lanes, tl.load(levels + pixels.to(tl.int32), mask=inside, other=0.0), mask=inside)


def gather_normalise(images: Tensor, index: Tensor, levels: Tensor) -> Tensor:
    """The images [N, channels, H, W] at `index`, in the dtype of the levels.

    Args:
        images: uint8 [M, channels, H, W], contiguous.
        index: positions among the M, int64 [N].
        levels: what each byte becomes in each channel [channels, 256], float32 or float64, contiguous.
    """
    channels, height, width = images.shape[1:]
    result = levels.new_empty(len(index), channels, height, width)
    if len(index):
        # Triton launches on the current device, which need not be that of the images.
        with torch.cuda.device(images.device) if images.is_cuda else contextlib.nullcontext():
            grid = (len(index) * channels,)
            gather_normalise_kernel[grid](images, index, levels, result, channels, height * width, BLOCK=BLOCK, num_warps=WARPS)
    return result
