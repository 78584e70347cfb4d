"""Arrays of images, in whichever order and type, as bytes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdc.errors import DataError


def as_images(images: Any) -> Tensor:
    """Images as uint8 [N, channels, H, W], from uint8 or float in 0..1, NCHW, NHWC or NHW.

    Where neither dimension 1 nor 3 is 1 or 3, the channels are the one that is smaller, dimension 1 where they are equal.
    """
    return _as_bytes(channels_first(_as_tensor(images)))


def channels_first(tensor: Tensor) -> Tensor:
    """Images [N, channels, H, W], of NCHW, NHWC or NHW: see `as_images`."""
    if tensor.dim() not in (3, 4):
        raise DataError(f"images have shape {list(tensor.shape)}; expected [N, channels, H, W], [N, H, W, channels] or [N, H, W].")
    if not tensor.numel():
        raise DataError(f"images have shape {list(tensor.shape)}: there are none; expected at least one.")
    if tensor.dim() == 3:
        return tensor.unsqueeze(1)
    if tensor.shape[1] not in (1, 3) and (tensor.shape[3] in (1, 3) or tensor.shape[3] < tensor.shape[1]):
        return tensor.permute(0, 3, 1, 2)
    return tensor


def _as_tensor(values: Any) -> Tensor:
    if isinstance(values, np.ndarray) and (not values.dtype.isnative or min(values.strides, default=0) < 0):
        values = values.astype(values.dtype.newbyteorder("="), order="C")  # torch takes neither as it is
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is only read here
            return torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"images cannot be read as an array ({' '.join(str(error).split())}); expected uint8 or float pixels.") from None


def _as_bytes(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return images
    if not images.dtype.is_floating_point:
        raise DataError(f"images are {images.dtype}; expected uint8 in 0..255 or float in 0..1.")
    result = torch.empty(images.shape, dtype=torch.uint8)
    for start in range(0, len(images), 1024):
        block = images[start : start + 1024]
        low, high = block.amin().item(), block.amax().item()  # NaN passes through both
        if not 0 <= low <= high <= 1:
            bad = next(i for i, image in enumerate(block) if not 0 <= image.amin() <= image.amax() <= 1)
            given = f"{block[bad].amin().item():.4g} to {block[bad].amax().item():.4g}"
            raise DataError(
                f"image {start + bad} has pixels from {given}; expected finite float pixels in 0..1, before any normalisation: "
                "scale them, remove NaN, or give uint8."
            )
        result[start : start + 1024] = (block * 255).round().to(torch.uint8)
    return result
