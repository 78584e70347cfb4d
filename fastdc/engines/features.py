"""Features: what the last linear layer that a network calls reads."""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call

from fastdc.errors import UsageError


def features_of(module: nn.Module, weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """What the last nn.Linear that a module with these weights calls reads for images [N, channels, H, W]: [N, F].

    Raises:
        UsageError: a module that calls no nn.Linear, or whose last one does not read one row for each image.
    """
    read: list[tuple[nn.Module, Tensor]] = []
    layers = [part for part in module.modules() if isinstance(part, nn.Linear)]

    def look(part: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        read.append((part, inputs[0] if inputs else named["input"]))

    handles = [part.register_forward_pre_hook(look, with_kwargs=True) for part in layers]
    try:
        functional_call(module, weights, (images,))
    finally:
        for handle in handles:
            handle.remove()
    if not read:
        raise UsageError(f"{type(module).__name__} calls no nn.Linear, whose input would be the features; choose a network that does.")
    last, rows = read[-1]
    if len(rows) != len(images) or sum(part is last for part, _ in read) > 1:
        raise UsageError(f"the last nn.Linear of {type(module).__name__} does not read one row for each image; choose another network.")
    return rows.flatten(1)
