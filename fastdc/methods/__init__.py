"""Ways of learning the images: one file each, and a registry by name."""

from __future__ import annotations

import dataclasses

from fastdc.errors import UsageError, unknown_name
from fastdc.methods.base import Method, NoOptions, Problem
from fastdc.methods.curriculum import Curriculum
from fastdc.methods.dc import GradientMatching
from fastdc.methods.dd import DatasetDistillation
from fastdc.methods.parameter_matching import ParameterMatching
from fastdc.options.specs import format_spec, parse_options, split_spec

__all__ = ["METHODS", "Method", "NoOptions", "Problem", "check_method", "make_method", "method_class", "register"]

METHODS: dict[str, type[Method]] = {
    "dc": GradientMatching,
    "dd": DatasetDistillation,
    "parameter_matching": ParameterMatching,
    "curriculum": Curriculum,
}
_BUILT_IN = tuple(METHODS)


def register(name: str, method: type[Method]) -> None:
    """Make `method="name"` of `fastdc.condense`, or "name:key=value", mean a class of your own.

    Args:
        name: a word; it may replace one that was registered before, but none of fastdc's own.
        method: a subclass of `fastdc.methods.Method`.

    Raises:
        UsageError: a name that is no word or is fastdc's own, or something that is not such a class.

    Example:
        >>> class Still(Method):
        ...     "Leaves the images as they are."
        ...     def step(self, state):
        ...         return state.images.new_zeros(len(state.images)), torch.zeros_like(state.images)
        >>> import fastdc, torch
        >>> register("still", Still)
        >>> fastdc.condense("digits", ipc=1, method="still", iterations=1, batch_real=1).images.shape
        torch.Size([10, 1, 8, 8])
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise UsageError(f"the name of a method is {name!r}; expected a word of letters, digits and underscores.")
    if name in _BUILT_IN:
        raise UsageError(f"{name!r} is a method of fastdc; choose another name than {', '.join(_BUILT_IN)}.")
    if not isinstance(method, type) or not issubclass(method, Method):
        raise UsageError(f"method {name!r} is {method!r}; expected a subclass of fastdc.methods.Method.")
    if not dataclasses.is_dataclass(method.Options):
        raise UsageError(f"Options of method {name!r} is {method.Options!r}; expected a frozen dataclass.")
    METHODS[name] = method


def method_class(spec: str) -> type[Method]:
    """The class that a method's spec names.

    Raises:
        UsageError: an unknown method.
    """
    name = split_spec(spec)[0] if isinstance(spec, str) else spec
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


def check_method(spec: str) -> str:
    """The spec with every option of the method written out.

    Raises:
        UsageError: an unknown method or option, or a value that cannot be used.
    """
    options = method_class(spec).Options
    name, given = split_spec(spec)
    if given and not dataclasses.fields(options):
        raise UsageError(f"method {name!r} takes no options; {spec!r} gives {', '.join(given)}.")
    return format_spec(name, parse_options(options, spec, given))


def make_method(spec: str, problem: Problem) -> Method:
    """The method that a spec names, for one run."""
    cls = method_class(spec)
    return cls(problem, parse_options(cls.Options, spec, split_spec(spec)[1]))
