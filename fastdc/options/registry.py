"""Registries: the entries of one kind by name, each a class whose options a spec `name:key=value` fills."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from fastdc.errors import UsageError, unknown_name
from fastdc.options.specs import format_spec, parse_options, split_spec


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The options of an entry that has none."""


class Entry(Protocol):
    """A class in a registry."""

    Options: ClassVar[type]
    """A frozen dataclass with a default for each field; it may raise a UsageError where a value cannot be used."""

    def __init__(self, *args: Any) -> None:
        """Made of what it works on, and of its options."""


E = TypeVar("E", bound=Entry)


class Registry(Generic[E]):
    """Classes by name.

    Args:
        kind: what an entry is called in errors, such as "pool".
        entries: those of fastdc.

    Example:
        >>> class Plain:
        ...     Options = NoOptions
        >>> letters = Registry("letter", {"plain": Plain})
        >>> list(letters), letters.in_full("plain")
        (['plain'], 'plain')
    """

    def __init__(self, kind: str, entries: Mapping[str, type[E]]) -> None:
        self.kind, self._entries, self._built_in = kind, dict(entries), tuple(entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def add(self, name: str, entry: type[E]) -> None:
        """Make `name` mean a class of one's own; it may replace one that was added before, but none of fastdc's.

        Raises:
            UsageError: a name that is no word or is fastdc's own, or something that is no class with options.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise UsageError(f"the name of a {self.kind} is {name!r}; expected a word of letters, digits and underscores.")
        if name in self._built_in:
            raise UsageError(f"{name!r} is a {self.kind} of fastdc; choose another name than {', '.join(self._built_in)}.")
        if not isinstance(entry, type) or not dataclasses.is_dataclass(getattr(entry, "Options", None)):
            raise UsageError(f"{self.kind} {name!r} is {entry!r}; expected a class whose Options is a frozen dataclass.")
        self._entries[name] = entry

    def is_built_in(self, spec: str) -> bool:
        """Whether a spec names one of fastdc's own."""
        return split_spec(spec)[0] in self._built_in

    def entry(self, spec: str) -> type[E]:
        """The class that a spec names.

        Raises:
            UsageError: an unknown name.
        """
        name = split_spec(spec)[0] if isinstance(spec, str) else spec
        if not isinstance(name, str) or name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]

    def option_names(self, spec: str) -> tuple[str, ...]:
        """The options of the entry that a spec names."""
        return tuple(field.name for field in dataclasses.fields(self.entry(spec).Options))

    def options(self, spec: str) -> Any:
        """The options that a spec gives, the others as they are by default.

        Raises:
            UsageError: an unknown name or option, or a value that cannot be used.
        """
        options = self.entry(spec).Options
        name, given = split_spec(spec)
        if given and not dataclasses.fields(options):
            raise UsageError(f"{self.kind} {name!r} takes no options; {spec!r} gives {', '.join(given)}.")
        return parse_options(options, spec, given)

    def make(self, spec: str, *on: Any) -> E:
        """An object of the class that a spec names: the class is called with what it works `on`, then with its options."""
        return self.entry(spec)(*on, self.options(spec))

    def in_full(self, spec: str) -> str:
        """The spec with every option written out."""
        return format_spec(split_spec(spec)[0], self.options(spec))
