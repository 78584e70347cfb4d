"""The reference backend: the definitions of the metrics, in plain torch, for any device and dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdc.metrics.backends.one_by_one import one_by_one
from fastdc.metrics.definitions import METRICS, definition_of

MEANT_FOR = ""  # any device: whatever else cannot serve


def unsupported_reasons(device: torch.device, dtype: torch.dtype) -> list[str]:
    """None: what torch can compute, this can."""
    return []


def metrics() -> tuple[str, ...]:
    """All: a metric is defined in plain torch."""
    return tuple(METRICS)


def layerwise_distance(synthetic: Tensor, real: Tensor, segments: tuple[int, ...], metric: str) -> tuple[Tensor, Tensor]:
    """The distance [C] of gradients [C, P], and its cotangent [C, P]; see `fastdc.metrics.operator`."""
    definition = definition_of(metric)
    sum_dtype = torch.promote_types(synthetic.dtype, torch.float32)
    distance = torch.zeros(len(synthetic), dtype=sum_dtype, device=synthetic.device)  # [C]
    cotangent = torch.zeros_like(synthetic, memory_format=torch.contiguous_format)  # [C, P]
    spans = list(zip(*[iter(segments)] * 3, strict=True))
    if definition.joined and spans:
        parts = [torch.cat([flat[:, i : i + rows * length] for i, rows, length in spans], 1) for flat in (synthetic, real)]
        a, b = (part.to(sum_dtype).unsqueeze(1) for part in parts)  # [C, 1, elements of all rows]
        pieces = definition.cotangent(a, b).squeeze(1).split([rows * length for _, rows, length in spans], 1)
        for (offset, _, _), piece in zip(spans, pieces, strict=True):
            cotangent[:, offset : offset + piece.shape[1]] = piece.to(cotangent.dtype)
        return definition.distance(a, b), cotangent
    for offset, rows, length in spans:
        shape, end = (len(synthetic), rows, length), offset + rows * length
        a, b = (flat[:, offset:end].reshape(shape).to(sum_dtype) for flat in (synthetic, real))
        distance = distance + definition.distance(a, b)
        cotangent[:, offset:end] = definition.cotangent(a, b).flatten(1).to(cotangent.dtype)
    return distance, cotangent


layerwise_distances = one_by_one(layerwise_distance)
