"""Metrics: what each of them computes, in plain torch. What stands here is known by name everywhere, and is the measure of every backend.

With a a row of the synthetic gradient, b the same row of the real one, and e = 1e-6 (Zhao et al., ICLR 2021, eq. 10):

    layerwise_cosine    sum over rows of  1 - <a, b> / (|a| |b| + e)
    cosine              the same, with all rows joined into one
    mse                 sum of (a - b)^2
    l1                  sum of |a - b|
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastdc.errors import unknown_name
from fastdc.metrics.layout import fewest_dimensions
from fastdc.options.specs import split_spec

_EPSILON = 1e-6


@dataclass(frozen=True)
class Definition:
    """A metric: how far rows are from each other, and which way to go.

    Both functions take rows [..., rows, row_length] of the synthetic and of the real gradient, those of one parameter or, joined, the
    single row of all parameters. Backends that have no code of their own for a metric leave it to the one in plain torch, which
    calls these.

    Example:
        >>> METRICS["twice_mse"] = Definition(lambda a, b: 2 * ((a - b) ** 2).sum((-2, -1)), lambda a, b: 4 * (a - b))
        >>> Metric.of("twice_mse:rows=convolutions")
        Metric(name='twice_mse', rows='convolutions')
        >>> del METRICS["twice_mse"]
    """

    distance: Callable[[Tensor, Tensor], Tensor]
    """[..., rows, row_length] twice -> [...], summed over rows; autograd can differentiate it twice."""
    cotangent: Callable[[Tensor, Tensor], Tensor]
    """Its derivative by the first argument, of the same shape, in closed form."""
    joined: bool = False
    """All rows of a class are one row."""
    symmetric: bool = True
    """The two arguments may be exchanged. The derivative by the real gradient is taken in that way, and refused where it is False."""


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    dot, norm_a, norm_b = _products(a, b)
    return (1 - dot / (norm_a * norm_b + _EPSILON)).sum((-2, -1))


def _cosine_cotangent(a: Tensor, b: Tensor) -> Tensor:
    dot, norm_a, norm_b = _products(a, b)
    scale = norm_a * norm_b + _EPSILON
    along = torch.where(norm_a > 0, dot * norm_b / (norm_a * scale * scale), torch.zeros_like(dot))
    return along * a - b / scale


def _products(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """<a, b>, |a| and |b| of every row, [..., rows, 1]."""
    return (a * b).sum(-1, keepdim=True), _norm(a), _norm(b)


def _norm(rows: Tensor) -> Tensor:
    # Not .norm(), which adds up one after another: at 11 million elements in float32 it is off by 4e-4.
    squares = (rows * rows).sum(-1, keepdim=True)
    zero = squares == 0  # where the derivative is taken for 0
    return squares.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)


def _squares(a: Tensor, b: Tensor) -> Tensor:
    difference = a - b
    return (difference * difference).sum((-2, -1))


def _squares_cotangent(a: Tensor, b: Tensor) -> Tensor:
    return 2 * (a - b)


def _absolute(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().sum((-2, -1))


def _absolute_cotangent(a: Tensor, b: Tensor) -> Tensor:
    difference = a - b
    one = torch.ones_like(difference)
    return torch.where(difference > 0, one, torch.where(difference < 0, -one, difference))  # 0 where they are equal; NaN stays


METRICS: dict[str, Definition] = {
    "layerwise_cosine": Definition(_cosine, _cosine_cotangent),
    "cosine": Definition(_cosine, _cosine_cotangent, joined=True),
    "mse": Definition(_squares, _squares_cotangent),
    "l1": Definition(_absolute, _absolute_cotangent),
}
BUILT_IN = tuple(METRICS)  # without those that others put there


@dataclass(frozen=True)
class Metric:
    """A metric and the rows it looks at, as a spec names them: `l1`, or `l1:rows=convolutions`.

    Example:
        >>> Metric.of("l1:rows=convolutions"), str(Metric.of("mse:rows=all"))
        (Metric(name='l1', rows='convolutions'), 'mse')
    """

    name: str
    rows: str = "all"
    """A name in `ROWS`: `ParameterLayout.seen(rows)` are the parameters that the metric looks at."""

    def __post_init__(self) -> None:
        definition_of(self.name)
        fewest_dimensions(self.rows)

    @classmethod
    def of(cls, spec: str) -> Metric:
        """What a spec names.

        Raises:
            UsageError: an unknown metric, option or choice of rows.
        """
        name, options = split_spec(spec) if isinstance(spec, str) else (spec, {})
        for option in options:
            if option != "rows":
                raise unknown_name(f"option of {name!r}", option, ("rows",))
        return cls(name, **options)

    def __str__(self) -> str:
        return self.name if self.rows == "all" else f"{self.name}:rows={self.rows}"


def definition_of(name: str) -> Definition:
    """What the metric `name` computes.

    Raises:
        UsageError: an unknown name.
    """
    if not isinstance(name, str) or name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[name]
