"""Several images in the storage of one: each keeps the frequencies that vary most among the real ones (Shin et al., NeurIPS 2023)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdc.data import ImageData
from fastdc.errors import DataError, UsageError
from fastdc.options.checks import check_count
from fastdc.options.ipc import mean_ipc
from fastdc.recipe.formation.base import Formation

_IMAGES = (16, 12, 8, 6, 4, 3, 2)  # in the storage of one, most first, from which `chosen` takes:
_MOST = 16  # at one image per class, and
_FEWER = 0.3  # as this power of the number per class fewer: 8 at 10, 4 at 50,
_LEAST_EXPLAINED = 0.78  # the share of variance that the frequencies kept must hold
_FITTED_ON = 10_000  # images at most, evenly over the set, from which the variances are taken
_BLOCK = 1000  # of them at once


@dataclass(frozen=True)
class FrequencyOptions:
    """Options of `frequency`: images, how many lie in the storage of one, chosen by `Frequency.chosen` where it is left out; and clamp,
    whether pixels are kept in 0..1."""

    images: int | None = None
    clamp: bool = True

    def __post_init__(self) -> None:
        check_count("images", self.images, optional=True)


class Frequency(Formation):
    """`frequency`: an image is a sum of K = H W // images cosines, those whose weights vary most among the real images.

    With A [H, H] and B [W, W] the orthonormal discrete cosine transforms (type II), an image is A^T X B, X zero but for the K
    frequencies that are kept, the same ones for all images and channels. So `encode` is the transform A x B^T at these frequencies,
    and it is the adjoint of the sum too. With `clamp` pixels outside 0..1 are cut off when images are made of what is stored, and
    gradients go past the cut as if it were not there: a pixel that was cut could never come back otherwise.

    What is stored has the shape of an image: of each channel the weights of one image after another, then zeros where they leave room.
    """

    Options = FrequencyOptions

    @classmethod
    def chosen(cls, options: FrequencyOptions, real: ImageData, ipc: Sequence[int]) -> FrequencyOptions:
        """Without a number of images: as many as the number per class and the real images allow.

        16 at one per class, 8 at ten, 4 at fifty, since many images need less variety from each; but no more than leave 78% of the
        variance of the real images in the frequencies that are kept, or than a class has to start from.
        """
        if options.images is not None:
            return options
        explained = explained_variance(real)  # [H W], by the one, two, ... frequencies of most variance
        fewest = min(count // number for count, number in zip(real.class_counts.tolist(), ipc, strict=True))
        most = min(_MOST / mean_ipc(ipc) ** _FEWER, fewest)
        allowed = (m for m in _IMAGES if m <= most and m <= len(explained) and explained[len(explained) // m - 1] >= _LEAST_EXPLAINED)
        return dataclasses.replace(options, images=next(allowed, 1))

    @classmethod
    def fit(cls, real: ImageData, options: FrequencyOptions) -> dict[str, Tensor]:
        """The frequencies kept, in the order of rows and columns: int64 [K], those of most variance, added up over channels."""
        height, width = real.image_size
        assert options.images is not None
        keep = height * width // options.images
        if not keep:
            raise UsageError(
                f"formation frequency with images={options.images} leaves no frequency of images of {height}x{width}; give fewer images."
            )
        return {"frequencies": _variances(real).argsort(descending=True, stable=True)[:keep].sort().values}

    @property
    def images_each(self) -> int:
        """As many as the options say."""
        if self.options.images is None:
            raise DataError("formation frequency does not say how many images lie in the storage of one; give images=N.")
        return self.options.images

    def encode(self, images: Tensor) -> Tensor:
        """The weights of the frequencies that are kept."""
        return self._packed(_transformed(images))

    def decode(self, stored: Tensor) -> Tensor:
        """The sums of cosines."""
        height, width = stored.shape[-2:]
        kept = self._checked(stored)
        used = stored.flatten(-2)[..., : self.images_each * len(kept)].unflatten(-1, (self.images_each, -1))  # [C, ipc, channels, m, K]
        weights = used.new_zeros(*used.shape[:-1], height * width)
        weights[..., kept] = used
        images = _summed(weights.movedim(3, 2).flatten(1, 2).unflatten(-1, (height, width)))  # [C, ipc * m, channels, H, W]
        return self.scale.clamp_(images) if self.options.clamp else images

    def adjoint(self, gradient: Tensor) -> Tensor:
        """The transform of the gradient; past the cut at 0 and 1."""
        return self._packed(_transformed(gradient))

    def _packed(self, weights: Tensor) -> Tensor:
        """Weights of all frequencies [C, ipc * m, channels, H, W]: those kept, as they are stored [C, ipc, channels, H, W]."""
        height, width = weights.shape[-2:]
        kept = weights.flatten(-2)[..., self._kept(weights)].unflatten(1, (-1, self.images_each)).movedim(2, 3).flatten(-2)
        return F.pad(kept, (0, height * width - kept.shape[-1])).unflatten(-1, (height, width))

    def _checked(self, stored: Tensor) -> Tensor:
        """The frequencies that are kept; raises where they are not those of such images."""
        kept, size = self.fitted.get("frequencies"), math.prod(stored.shape[-2:])
        if kept is None:
            raise DataError("formation frequency lacks 'frequencies' in what it took from the real images; expected the set's own fitted=.")
        if kept.dtype != torch.int64 or len(kept) * self.images_each > size or kept.min() < 0 or kept.max() >= size:
            raise DataError(
                f"the frequencies {list(kept.shape)} do not fit {self.images_each} images in the storage of one of {size} values; expected "
                f"int64 numbers from 0 to {size - 1}, {size // self.images_each} of them."
            )
        if stored.shape[-3] != len(self.scale.mean):
            raise DataError(f"what is stored has {stored.shape[-3]} channels, mean has {len(self.scale.mean)}; expected as many.")
        return self._kept(stored)

    def _kept(self, like: Tensor) -> Tensor:
        return self.fitted["frequencies"].to(like.device)


def explained_variance(real: ImageData) -> Tensor:
    """The share of the variance of real images that the one, two, ... frequencies of most variance hold, [H W]."""
    variances = _variances(real).sort(descending=True).values
    return variances.cumsum(0) / variances.sum().clamp(min=torch.finfo(variances.dtype).tiny)


def _variances(real: ImageData) -> Tensor:
    """Of the weight of each frequency among the real images, added up over channels: [H W]."""
    index = torch.linspace(0, len(real) - 1, min(len(real), _FITTED_ON), dtype=torch.float64).long()
    total = squares = torch.zeros(())
    for some in index.split(_BLOCK):
        weights = _transformed(real.normalised_for_all(some, torch.float64))  # [b, channels, H, W]
        total, squares = total + weights.sum(0), squares + weights.square().sum(0)
    return (squares / len(index) - (total / len(index)).square()).sum(0).flatten()


def _transformed(images: Tensor) -> Tensor:
    """The discrete cosine transform of images [..., H, W]."""
    down, across = (_cosines(side, images) for side in images.shape[-2:])
    return down @ images @ across.T


def _summed(weights: Tensor) -> Tensor:
    """The images [..., H, W] of which `_transformed` gives these weights."""
    down, across = (_cosines(side, weights) for side in weights.shape[-2:])
    return down.T @ weights @ across


def _cosines(side: int, like: Tensor) -> Tensor:
    """The orthonormal discrete cosine transform of type II, [side, side]: a row for each frequency."""
    places = torch.arange(side, dtype=torch.float64)
    rows = torch.cos(math.pi / side * (places + 0.5) * places[:, None]) * math.sqrt(2 / side)
    rows[0] /= math.sqrt(2)
    return rows.to(like)
