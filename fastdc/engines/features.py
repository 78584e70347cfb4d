"""Features: what the last linear layer of a network reads."""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call

from fastdc.errors import UsageError


def features_of(module: nn.Module, weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """What the last nn.Linear of a module with these weights reads for images [N, channels, H, W]: [N, F].

    Raises:
        UsageError: a module without nn.Linear, or whose last one does not read one row for each image.
    """
    linear = next((part for part in reversed(list(module.modules())) if isinstance(part, nn.Linear)), None)
    if linear is None:
        raise UsageError(f"{type(module).__name__} has no nn.Linear, whose input would be the features; choose a network that has one.")
    read: list[Tensor] = []
    handle = linear.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    try:
        functional_call(module, weights, (images,))
    finally:
        handle.remove()
    if len(read) != 1 or len(read[0]) != len(images):
        raise UsageError(f"the last nn.Linear of {type(module).__name__} does not read one row for each image; choose another network.")
    return read[0].flatten(1)
