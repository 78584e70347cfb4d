"""Images of a set that lies on a GPU, gathered and normalised at once.

    result[n, c, h, w] = levels[c, images[index[n], c, h, w]]

`levels` says what each byte becomes; the CPU computes it, once, so that images have the same bits wherever they are drawn. On a GPU that
is one launch (`fastdc.kernels.gather_normalise`).
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import torch
from torch import Tensor

from fastdc.data import ImageData
from fastdc.data.part import PartOfImages
from fastdc.engines.chain.norm_act_pool import kernels_can_serve
from fastdc.parallel.devices import free_memory, to_device

_SHARE_OF_DEVICE = 0.25  # of a GPU's free memory, for the images of a set


def gather_normalise(images: Tensor, index: Tensor, levels: Tensor, kernel: bool) -> Tensor:
    """The images [N, channels, H, W] at `index`, in the dtype of the levels.

    Args:
        images: uint8 [M, channels, H, W].
        index: positions among the M, int64 [N].
        levels: what each byte becomes in each channel [channels, 256].
        kernel: whether the Triton kernel does it.
    """
    if kernel:
        from fastdc.kernels import gather_normalise  # here, so that fastdc imports without Triton

        return gather_normalise.gather_normalise(images.contiguous(), index, levels)
    channels = torch.arange(len(levels), device=images.device)[:, None, None]
    return levels[channels, images.index_select(0, index).long()]


class DeviceImages(ImageData):
    """A set of which the images lie on the device where they are drawn, of a CUDA device as `near` makes it."""

    def normalised(self, index: Tensor | slice, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
        """As any set gives them, to the bit; the positions are all that goes to the device."""
        here = self.images.device
        positions = torch.arange(*index.indices(len(self)), device=here) if isinstance(index, slice) else to_device(index, here)
        if dtype not in self._levels:
            self._levels[dtype] = to_device(self.levels(dtype), here)
        found = gather_normalise(self.images, positions, self._levels[dtype], kernels_can_serve(here, dtype))
        return found if device is None else found.to(device)

    @cached_property
    def _levels(self) -> dict[torch.dtype, Tensor]:
        return {}


def near(data: ImageData, device: torch.device) -> ImageData:
    """A set with its images on a CUDA device, where they take no more than a share of its free memory; else as it is."""
    if isinstance(data, PartOfImages):
        return data if data.held is None else dataclasses.replace(data, held=near(data.held, device))
    if device.type != "cuda" or data.images.nbytes > _SHARE_OF_DEVICE * free_memory(device):
        return data
    kept = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    return DeviceImages(**kept | {"images": data.images.to(device)})
