"""The distance between two gradients, and its cotangent: what gradient matching makes small.

With a a row of the synthetic gradient, b the same row of the real one, and e = 1e-6 (Zhao et al., ICLR 2021, eq. 10):

    layerwise_cosine    sum over rows of  1 - <a, b> / (|a| |b| + e)
    cosine              the same, with all rows joined into one
    mse                 sum of (a - b)^2

Rows are the output units of parameters with two dimensions or more; biases and the scale and shift of norms count zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastdc.errors import UsageError, unknown_name
from fastdc.layout import ParameterLayout

EPSILON = 1e-6

# Both arguments [..., rows, row_length] -> the distance, summed over rows [...], and its cotangent by the first argument.
RowDistance = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def layerwise_distance(synthetic: Tensor, real: Tensor, layout: ParameterLayout, metric: str = "layerwise_cosine") -> tuple[Tensor, Tensor]:
    """The distance of every class's synthetic gradient from its real one, and the derivative by the synthetic one.

    The cotangent is in closed form, so that no graph is needed; for `layerwise_cosine`, row by row,

        d = 1 - <a, b> / (|a| |b| + e)
        dd/da = -b / (|a| |b| + e) + <a, b> |b| a / (|a| (|a| |b| + e)^2)      (second term 0 where |a| = 0)

    Args:
        synthetic: gradients of the synthetic images, [C, P].
        real: gradients of the real images, [C, P], of the same dtype and device.
        layout: says which elements are the rows.
        metric: "layerwise_cosine", "cosine" or "mse".

    Returns:
        The distance [C], and the cotangent d distance / d synthetic [C, P], zero where no row lies.

    Raises:
        UsageError: an unknown metric, or shapes or dtypes that differ.
    """
    row_distance = _row_distance(metric)
    _check_pair(synthetic, real, layout)
    distance = synthetic.new_zeros(synthetic.shape[:-1])  # [C]
    cotangent = torch.zeros_like(synthetic)  # [C, P]
    if metric == "cosine":
        parts = [torch.cat([rows.flatten(-2) for rows in _rows(flat, layout)], -1) for flat in (synthetic, real)]
        distance, joined = row_distance(parts[0].unsqueeze(-2), parts[1].unsqueeze(-2))  # [C], [C, 1, sum of sizes]
        pieces = joined.squeeze(-2).split([parameter.size for parameter in layout.matrices], -1)
        for parameter, piece in zip(layout.matrices, pieces, strict=True):
            layout.rows_of(cotangent, parameter).copy_(piece.view(*piece.shape[:-1], parameter.rows, parameter.row_length))
        return distance, cotangent
    for parameter in layout.matrices:
        rows = [layout.rows_of(flat, parameter) for flat in (synthetic, real)]  # [C, rows, row_length] each
        part, piece = row_distance(rows[0], rows[1])
        distance = distance + part
        layout.rows_of(cotangent, parameter).copy_(piece)
    return distance, cotangent


def match_loss(synthetic_gradients: Sequence[Tensor], real_gradients: Sequence[Tensor], *, metric: str = "layerwise_cosine") -> Tensor:
    """The distance between two lists of gradients as a differentiable scalar: the loss of a double-backward script.

    Args:
        synthetic_gradients: as `torch.autograd.grad(..., create_graph=True)` returns them, one tensor per parameter.
        real_gradients: the real images' gradients, of the same shapes.
        metric: "layerwise_cosine", "cosine" or "mse".

    Returns:
        A scalar; its `backward()` goes through `synthetic_gradients` to the images.

    Raises:
        UsageError: an unknown metric, or lists that do not agree in length or shapes.

    Example:
        >>> a, b = [torch.ones(2, 3), torch.ones(2)], [torch.ones(2, 3), torch.zeros(2)]
        >>> round(match_loss(a, b).item(), 4)
        0.0
    """
    _row_distance(metric)
    if any(gradient is None for gradient in (*synthetic_gradients, *real_gradients)):
        raise UsageError("a gradient is None: the loss does not depend on that parameter; leave it out of both lists.")
    shapes = [[tuple(gradient.shape) for gradient in gradients] for gradients in (synthetic_gradients, real_gradients)]
    if shapes[0] != shapes[1]:
        raise UsageError(f"the lists of gradients have shapes {shapes[0]} and {shapes[1]}; expected the same ones.")
    pairs = [(a.flatten(1), b.flatten(1)) for a, b in zip(synthetic_gradients, real_gradients, strict=True) if a.dim() >= 2]
    if not pairs:
        raise UsageError(f"the gradients have shapes {shapes[0]}; expected at least one of two dimensions or more, such as a weight's.")
    if metric == "mse":
        return torch.stack([((a - b) ** 2).sum() for a, b in pairs]).sum()
    if metric == "cosine":
        pairs = [(torch.cat([a.flatten() for a, _ in pairs])[None], torch.cat([b.flatten() for _, b in pairs])[None])]
    return torch.stack([(1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + EPSILON)).sum() for a, b in pairs]).sum()


def _cosine_rows(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    dot = (a * b).sum(-1, keepdim=True)  # [..., rows, 1], as are the others
    norm_a, norm_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    scale = norm_a * norm_b + EPSILON
    along = torch.where(norm_a > 0, dot * norm_b / (norm_a * scale * scale), torch.zeros_like(dot))
    return (1 - dot / scale).sum((-2, -1)), along * a - b / scale


def _squared_rows(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    difference = a - b
    return (difference * difference).sum((-2, -1)), 2 * difference


METRICS: dict[str, RowDistance] = {"layerwise_cosine": _cosine_rows, "cosine": _cosine_rows, "mse": _squared_rows}


def _row_distance(metric: str) -> RowDistance:
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    return METRICS[metric]


def _rows(flat: Tensor, layout: ParameterLayout) -> list[Tensor]:
    return [layout.rows_of(flat, parameter) for parameter in layout.matrices]


def _check_pair(synthetic: Tensor, real: Tensor, layout: ParameterLayout) -> None:
    for name, value in (("synthetic", synthetic), ("real", real)):
        if value.dim() != 2 or value.shape[-1] != layout.size:
            raise UsageError(f"{name} has shape {list(value.shape)}; expected [C, {layout.size}], one gradient per class.")
    if (synthetic.shape, synthetic.dtype, synthetic.device) != (real.shape, real.dtype, real.device):
        given = [f"{list(value.shape)} {value.dtype} on {value.device}" for value in (synthetic, real)]
        raise UsageError(f"synthetic is {given[0]} and real is {given[1]}; expected the same shape, dtype and device.")
