"""Matching of characteristic functions (Wang et al., "Dataset Distillation with Neural Characteristic Function", CVPR 2025).

With f the features that a network theta gives, each divided by its length, and t a vector as long as they are, the images s of a class
have the characteristic function

    phi(t)  =  mean over s of  exp(i < t, f(theta, s) >)

It says all about the distribution of the features, not of their mean alone. With phi that of the synthetic images, psi that of
the real ones, and F random frequencies t from the standard normal distribution, the loss of a class is

    300 * mean over t of  sqrt( a (|phi| - |psi|)^2  +  (1 - a) 2 (|phi| |psi| - Re(phi conj(psi))) )

the first term by amplitudes, the second by phases, a the option `amplitude`. As the two squares with a = 1/2 add up to
|phi - psi|^2 / 2, what is under the root is computed as (1 - a) |phi - psi|^2 + (2 a - 1) (|phi| - |psi|)^2, which does not
cancel. Derivatives are in closed form. Three have no value, and are taken for 0: that of a root of 0, as where phi = psi; that of
|phi| where phi is 0; and that of the direction of features which are all 0, and stay so when divided. The authors' code bounds the
term by phases from below by 1e-12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastdc.errors import UsageError
from fastdc.options.checks import check_count
from fastdc.parallel.devices import check_fits, free_memory, to_device
from fastdc.parallel.threads import compute_threads, one_thread_each, result_of
from fastdc.recipe.match.by_class import ClassMatchOptions
from fastdc.recipe.match.features import FeatureMatching
from fastdc.recipe.state import State
from fastdc.runtime.seeding import make_generator

_SCALE = 300.0


@dataclass(frozen=True)
class CharacteristicOptions(ClassMatchOptions):
    """Options of `characteristic`: frequencies (drawn anew for each step, the same for all classes), amplitude (its share of what is
    compared, 0 to 1; the rest is that of the phase), and cross_entropy."""

    frequencies: int = 1024
    amplitude: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("frequencies", self.frequencies)
        if not 0 <= self.amplitude <= 1:
            raise UsageError(f"amplitude is {self.amplitude!r}; expected a number from 0 to 1.")


class CharacteristicMatching(FeatureMatching):
    """`characteristic`: the characteristic functions of the features of a class; `distance` has no part in it."""

    Options = CharacteristicOptions

    def compare_features(self, state: State, found: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """The distance of the characteristic functions, a class at a time for each thread, as the phases of a class are F for each image.
        A class is computed by one thread: its products have other bits with another number of threads."""
        generator = make_generator(self.problem.seed, "frequencies", *state.moment)
        size = (found.shape[1] + real.shape[1] + found.shape[2]) * self.options.frequencies * found.element_size()
        check_fits(f"the phases at {self.options.frequencies:,} frequencies", size, found.device, "give fewer frequencies")
        frequencies = to_device(torch.randn(self.options.frequencies, found.shape[2], generator=generator), found.device).to(found.dtype)

        def of_class(number: int) -> tuple[Tensor, Tensor]:
            return characteristic_distance(found[number], real[number], frequencies, self.options.amplitude)

        numbers = range(len(found))
        if found.device.type == "cpu" and compute_threads() > 1:
            with one_thread_each(max(1, min(len(found), compute_threads(), free_memory(found.device) // size))) as pool:
                pairs = [result_of(future) for future in [pool.submit(of_class, number) for number in numbers]]
        else:
            pairs = list(map(of_class, numbers))
        losses, cotangents = zip(*pairs, strict=True)
        return torch.stack(losses), torch.stack(cotangents)


def characteristic_distance(found: Tensor, real: Tensor, frequencies: Tensor, amplitude: float) -> tuple[Tensor, Tensor]:
    """The distance of two sets of features by their characteristic functions, and its gradient by the first.

    Args:
        found: features of synthetic images [n, D].
        real: features of real images [B, D].
        frequencies: where the functions are compared [F, D].
        amplitude: the share of the amplitude, 0 to 1.

    Returns:
        The distance, a scalar, and its gradient [n, D].
    """
    units, lengths = _directions(found)  # [n, D], [n, 1]
    cosines, sines = _waves(units, frequencies)  # [n, F] each
    here = torch.stack([cosines.mean(0), sines.mean(0)])  # [2, F], real and imaginary part
    there = torch.stack([part.mean(0) for part in _waves(_directions(real)[0], frequencies)])
    (towards, radius), (_, other) = _directions(here, 0), _directions(there, 0)  # [2, F], [1, F]
    apart, wider = here - there, radius - other
    squares = (1 - amplitude) * apart.square().sum(0) + (2 * amplitude - 1) * wider.square()[0]  # [F]
    squares = squares.clamp(min=0)  # which rounding may have missed
    roots = squares.sqrt()
    by_here = (1 - amplitude) * apart + (2 * amplitude - 1) * wider * towards  # half the derivative of the squares
    by_here = by_here / _divisor(roots) * (_SCALE / len(frequencies))
    by_phases = (cosines * by_here[1] - sines * by_here[0]) / len(found)  # [n, F]
    by_units = by_phases @ frequencies  # [n, D]
    along = (by_units * units).sum(1, keepdim=True)
    return _SCALE * roots.mean(), (by_units - along * units) / _divisor(lengths)


def _waves(units: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines [n, F] of the phases of units [n, D]."""
    phases = units @ frequencies.T
    return phases.cos(), phases.sin()


def _directions(vectors: Tensor, dim: int = 1) -> tuple[Tensor, Tensor]:
    """Vectors along a dimension divided by their lengths, 0 where these are; and the lengths, that dimension being 1."""
    lengths = vectors.square().sum(dim, keepdim=True).sqrt()
    return vectors / _divisor(lengths), lengths


def _divisor(lengths: Tensor) -> Tensor:
    """Infinite where a length is 0, so that what is divided by it is 0."""
    return lengths.masked_fill(lengths == 0, math.inf)
