"""Scales by name: sets of sizes that say how much of a protocol to spend, from seconds to the whole of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from fastdc.errors import unknown_name
from fastdc.options.checks import check_count
from fastdc.options.specs import split_spec, with_options

Sizes = TypeVar("Sizes")


def scale_from(scales: Mapping[str, Sizes], name: str, options: object) -> tuple[Sizes, str]:
    """The scale called `name`, with those sizes that the command `options` gives in fields of the same names; and what to call it.

    Raises:
        UsageError: an unknown name, or a size below 1.

    Example:
        >>> from types import SimpleNamespace
        >>> from fastdc.experiments.tables import SCALES
        >>> scale, name = scale_from(SCALES, "paper", SimpleNamespace(networks=5))
        >>> scale.networks, scale.sets, name
        (5, 5, 'paper with changes')
    """
    if name not in scales:
        raise unknown_name("scale", name, scales)
    scale: Any = scales[name]
    sizes = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(scale)}
    changes = {key: value for key, value in sizes.items() if value is not None}
    for key, value in changes.items():
        for count in value if isinstance(value, tuple) else (value,):
            check_count(key, count)
    return dataclasses.replace(scale, **changes), f"{name} with changes" if changes else name


def sizes_text(scale: object, leave_out: tuple[str, ...] = ()) -> str:
    """The sizes of a scale, for a caption.

    >>> from fastdc.experiments.search.scale import SCALES
    >>> sizes_text(SCALES["tiny"], leave_out=("width", "iterations", "batch_real", "coreset_epochs"))
    'networks 4, widths 8, depths 1 2, epochs 2, whole_set_epochs 1'
    """
    sizes: dict[str, Any] = {key: value for key, value in vars(scale).items() if key not in leave_out and value is not None}
    return ", ".join(f"{key} {' '.join(map(str, value)) if isinstance(value, tuple) else value}" for key, value in sizes.items())


def with_width(model: str, width: int | None) -> str:
    """The spec of a ConvNet that names no width with that of a scale; any other spec, or where the scale has none, as it is.

    >>> with_width("convnet:depth=2", 32), with_width("convnet:width=8", 32), with_width("mlp", 32)
    ('convnet:depth=2,width=32', 'convnet:width=8', 'mlp')
    """
    name, options = split_spec(model)
    return with_options(model, width=width) if name == "convnet" and "width" not in options and width is not None else model
