"""The reference backend: the closed form in plain torch, for any device and dtype."""

from __future__ import annotations

import torch
from torch import Tensor

MEANT_FOR = ""  # any device: whatever else cannot serve

EPSILON = 1e-6


def unsupported_reasons(device: torch.device, dtype: torch.dtype) -> list[str]:
    """None: what torch can compute, this can."""
    return []


def layerwise_distance(synthetic: Tensor, real: Tensor, segments: tuple[int, ...], metric: str) -> tuple[Tensor, Tensor]:
    """The distance [C] of gradients [C, P], and its cotangent [C, P]; see `fastdc.metrics.operator`."""
    sum_dtype = torch.promote_types(synthetic.dtype, torch.float32)
    distance = torch.zeros(len(synthetic), dtype=sum_dtype, device=synthetic.device)  # [C]
    cotangent = torch.zeros_like(synthetic, memory_format=torch.contiguous_format)  # [C, P]
    spans = list(zip(*[iter(segments)] * 3, strict=True))
    if metric == "cosine" and spans:
        parts = [torch.cat([flat[:, i : i + rows * length] for i, rows, length in spans], 1) for flat in (synthetic, real)]
        distance, joined = _cosine_rows(*(part.to(sum_dtype).unsqueeze(1) for part in parts))  # [C], [C, 1, elements of all rows]
        pieces = joined.squeeze(1).split([rows * length for _, rows, length in spans], 1)
        for (offset, _, _), piece in zip(spans, pieces, strict=True):
            cotangent[:, offset : offset + piece.shape[1]] = piece.to(cotangent.dtype)
        return distance, cotangent
    row_distance = _squared_rows if metric == "mse" else _cosine_rows
    for offset, rows, length in spans:
        shape, end = (len(synthetic), rows, length), offset + rows * length
        part, piece = row_distance(*(flat[:, offset:end].reshape(shape).to(sum_dtype) for flat in (synthetic, real)))
        distance = distance + part
        cotangent[:, offset:end] = piece.flatten(1).to(cotangent.dtype)
    return distance, cotangent


def _cosine_rows(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    dot = (a * b).sum(-1, keepdim=True)  # [C, rows, 1], as are the others
    # Not .norm(), which adds up one after another: at 11 million elements in float32 it is off by 4e-4.
    norm_a, norm_b = ((x * x).sum(-1, keepdim=True).sqrt() for x in (a, b))
    scale = norm_a * norm_b + EPSILON
    along = torch.where(norm_a > 0, dot * norm_b / (norm_a * scale * scale), torch.zeros_like(dot))
    return (1 - dot / scale).sum((-2, -1)), along * a - b / scale


def _squared_rows(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    difference = a - b
    return (difference * difference).sum((-2, -1)), 2 * difference
