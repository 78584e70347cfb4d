"""What each option's help lists: the names that it takes, from the table that says them."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from fastdc.cli.shared import BASELINES
from fastdc.coresets import SELECTIONS
from fastdc.data import dataset_names
from fastdc.engines import ENGINES, PRECISIONS
from fastdc.experiments.search.trial import EARLY_STOPPING
from fastdc.loop.config import INITS
from fastdc.metrics import METRICS
from fastdc.models import model_names
from fastdc.models.parts import ACTIVATIONS, NORMS, POOLINGS
from fastdc.recipe import CHOICES, OPTIMIZERS, RECIPES, SCHEDULES
from fastdc.training.protocols import PROTOCOLS

Command = TypeVar("Command", bound=type)

_NAMES: dict[str, Iterable[str]] = {
    **CHOICES,
    "activations": ACTIVATIONS,
    "baseline": BASELINES,
    "columns": (*SELECTIONS, *RECIPES),
    "coreset": SELECTIONS,
    "dataset": dataset_names(),
    "distance": METRICS,
    "engine": ("auto", *ENGINES),
    "init": INITS,
    "memory": (*SELECTIONS, *RECIPES),
    "method": RECIPES,
    "model": model_names(),
    "norms": NORMS,
    "optimizer": OPTIMIZERS,
    "poolings": POOLINGS,
    "precision": PRECISIONS,
    "protocol": PROTOCOLS,
    "proxies": (*SELECTIONS, *RECIPES, EARLY_STOPPING),
    "schedule": SCHEDULES,
    "stages": dataset_names(),
}


def with_names(command: Command) -> Command:
    """The same command, the help of each of its options listing the names that it takes; numbers by class are read as 10,1,5."""
    hints = typing.get_type_hints(command, include_extras=True)
    for field in dataclasses.fields(command):
        if field.name in _NAMES:
            required = field.default is dataclasses.MISSING  # tyro shows no hint then
            names = _NAMES[field.name]
            listing = tyro.conf.arg(metavar="|".join(names)) if required else tyro.conf.arg(help_behavior_hint=_hint(names))
            command.__annotations__[field.name] = Annotated[hints[field.name], listing]
        elif hints[field.name] == int | tuple[int, ...]:
            command.__annotations__[field.name] = Annotated[hints[field.name], _BY_CLASS]
    return command


def _number_or_numbers(text: list[str]) -> int | tuple[int, ...]:
    try:
        one, *others = map(int, text[0].split(","))
    except ValueError:
        raise ValueError(f"{text[0]!r} is neither a whole number nor a list of them, as 10,1,5") from None
    return (one, *others) if others else one


_BY_CLASS: PrimitiveConstructorSpec[int | tuple[int, ...]] = PrimitiveConstructorSpec(
    nargs=1,
    metavar="INT|INT,INT,...",
    instance_from_str=_number_or_numbers,
    is_instance=lambda value: isinstance(value, int | tuple),
    str_from_instance=lambda value: [str(value) if isinstance(value, int) else ",".join(map(str, value))],
)


def _hint(names: Iterable[str]) -> Callable[[str], str]:
    def text(default: Any) -> str:
        known = f"known: {', '.join(names)}"
        return f"({known}; default: {default})" if default else f"({known})"

    return text
