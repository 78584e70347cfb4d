"""Several smaller images in the storage of one (Kim et al., ICML 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdc.data.image_data import per_channel
from fastdc.errors import UsageError
from fastdc.options.checks import check_count
from fastdc.recipe.formation.base import PixelFormation


@dataclass(frozen=True)
class TilesOptions:
    """Options of `tiles`: factor, how many smaller images lie along each side of a stored one; and clamp, whether pixels are brought
    back to 0..1 after each iteration."""

    factor: int = 2
    clamp: bool = False

    def __post_init__(self) -> None:
        check_count("factor", self.factor)


class Tiles(PixelFormation):
    """`tiles`: a stored image of H x W holds factor x factor smaller ones, each brought to H x W bilinearly (Kim et al., ICML 2022).

    Along each side, with U [H, h] the bilinear enlargement of h = H / factor pixels and x a tile, an image is U x U^T; so the adjoint is
    U^T g U. Where the factor does not divide a side, h is rounded up, and the last tiles end in pixels of 0.5 that are not stored, as in
    the authors' code, whose files are read so.
    """

    Options = TilesOptions

    @property
    def images_each(self) -> int:
        """factor x factor."""
        return self.options.factor**2

    def encode(self, images: Tensor) -> Tensor:
        """Tiles of the images, each pixel the mean of what it covers."""
        size = self._tile(images.shape[-2:])
        tiles = F.interpolate(images.flatten(0, 1), size, mode="bilinear", antialias=True).unflatten(0, images.shape[:2])
        return self._joined(tiles, images.shape[-2:])

    def decode(self, stored: Tensor) -> Tensor:
        """The tiles, row by row, each enlarged."""
        height, width = stored.shape[-2:]
        tiles = self._apart(stored)  # [C, ipc * factor^2, channels, h, w]
        up, across = (_enlargement(size, whole, stored) for size, whole in zip(tiles.shape[-2:], (height, width), strict=True))
        return up @ tiles @ across.T

    def adjoint(self, gradient: Tensor) -> Tensor:
        """Each tile takes up what its pixels gave."""
        size = tuple(gradient.shape[-2:])
        up, across = (_enlargement(size_of_tile, whole, gradient) for size_of_tile, whole in zip(self._tile(size), size, strict=True))
        return self._joined(up.T @ gradient @ across, size)

    def _tile(self, size: tuple[int, ...]) -> tuple[int, int]:
        f = self.options.factor
        height, width = (-(-side // f) for side in size)
        if height * (f - 1) >= size[0] or width * (f - 1) >= size[1]:
            raise UsageError(f"tiles of factor {f} leave nothing of images of {size[0]}x{size[1]}; give a smaller factor.")
        return height, width

    def _apart(self, stored: Tensor) -> Tensor:
        """Stored images [C, ipc, channels, H, W] as tiles [C, ipc * factor^2, channels, h, w]."""
        f, (height, width) = self.options.factor, self._tile(stored.shape[-2:])
        whole = self._filled(stored, f * height - stored.shape[-2], f * width - stored.shape[-1])
        blocks = whole.unflatten(-2, (f, height)).unflatten(-1, (f, width))  # [C, ipc, channels, f, h, f, w]
        return blocks.movedim((3, 5), (2, 3)).flatten(1, 3)

    def _filled(self, stored: Tensor, below: int, right: int) -> Tensor:
        """Stored images with so many more rows and columns, of pixels of 0.5."""
        if not below and not right:
            return stored
        mean, std = (per_channel(values, stored) for values in (self.scale.mean, self.scale.std))
        grey = (0.5 - mean) / std
        return F.pad(stored - grey, (0, right, 0, below)) + grey

    def _joined(self, tiles: Tensor, size: tuple[int, ...]) -> Tensor:
        """Tiles [C, ipc * factor^2, channels, h, w] as stored images [C, ipc, channels, H, W], without what lies outside."""
        f = self.options.factor
        blocks = tiles.unflatten(1, (-1, f, f)).movedim((2, 3), (3, 5))  # [C, ipc, channels, f, h, f, w]
        return blocks.flatten(-2).flatten(-3, -2)[..., : size[0], : size[1]]


def _enlargement(size: int, whole: int, like: Tensor) -> Tensor:
    """The bilinear enlargement of `size` pixels to `whole`, [whole, size]."""
    unit = torch.eye(size, dtype=like.dtype, device=like.device)
    return F.interpolate(unit[None], whole, mode="linear", align_corners=False)[0].T
