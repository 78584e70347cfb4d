"""The grammar of names with options: `name` or `name:key=value,key=value`, for models, engines and methods."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import Any, TypeVar, get_type_hints

from fastdc.errors import UsageError, unknown_name
from fastdc.options.checks import LARGEST_COUNT, given

Options = TypeVar("Options")

_KEPT = r"0-9A-Za-z.,=-"  # characters of a spec that the name of a file has as they are
_ORDINARY = re.compile(rf"[{_KEPT}]+([:+_][{_KEPT}]+)*")
_BOOLEANS = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Split a spec into its name and its options.

    >>> split_spec("convnet:width=64,norm=batch")
    ('convnet', {'width': '64', 'norm': 'batch'})
    """
    if not isinstance(spec, str):
        raise UsageError(f"{spec!r} is no name; expected text such as 'torch' or 'convnet:width=64'.")
    name, _, rest = spec.strip().partition(":")
    options: dict[str, str] = {}
    for item in rest.split(","):
        if not item:
            continue
        key, equals, value = item.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise UsageError(f"cannot read {item!r} in {spec!r}: expected key=value, as in 'convnet:width=64,depth=4'.")
        if key.strip() in options:
            raise UsageError(f"{key.strip()!r} is given twice in {spec!r}: give it once.")
        options[key.strip()] = value.strip()
    return name, options


def parse_options(cls: type[Options], spec: str, options: dict[str, str]) -> Options:
    """Make the options dataclass `cls` (fields of type int, float, bool or str, perhaps None) from the text of a spec."""
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, text in options.items():
        if key not in hints:
            name = split_spec(spec)[0]
            raise unknown_name(f"option of {name!r}", key, hints)
        values[key] = _parse_value(key, text, hints[key], spec)
    return cls(**values)


def _parse_value(key: str, text: str, hint: Any, spec: str) -> int | float | bool | str:
    kinds = getattr(hint, "__args__", (hint,))
    if bool in kinds:
        if text.lower() not in _BOOLEANS:
            raise UsageError(f"{key}={text} in {spec!r} is neither true nor false.")
        return _BOOLEANS[text.lower()]
    if int in kinds:
        try:
            value = int(text)
        except ValueError:
            raise UsageError(f"{key}={text[:80]} in {given(spec)} is not a whole number.") from None
        if abs(value) > LARGEST_COUNT:
            raise UsageError(f"{key} is {given(value)} in {given(spec)}; expected {LARGEST_COUNT:,} at the most.")
        return value
    if float in kinds:
        try:
            return float(text)
        except ValueError:
            raise UsageError(f"{key}={text[:80]} in {given(spec)} is not a number.") from None
    return text


def format_spec(name: str, options: Any) -> str:
    """The spec that names `options` in full: every field that is not None, in the order of its dataclass."""
    fields = [(field.name, getattr(options, field.name)) for field in dataclasses.fields(options)]
    text = ",".join(f"{key}={str(value).lower()}" for key, value in fields if value is not None)
    return f"{name}:{text}" if text else name


def plain_name(text: str) -> str:
    """Text as the name of a file.

    >>> plain_name("vgg11:norm=batch")
    'vgg11_norm=batch'
    """
    return re.sub(rf"[^{_KEPT}]+", "_", text)


def distinct_name(spec: str) -> str:
    """A spec, or several joined by "-", as the name of a file that is no other's: with a digest where its plain name could be.

    Of the characters that a plain name has not, ":" comes before options, "+" joins names in a value, and "_" is part of a name: where
    each stands alone, no other spec with a meaning has the same plain name.

    >>> distinct_name("dsa:operations=color+crop"), distinct_name("idc:augmentation=color+crop/scale")
    ('dsa_operations=color_crop', 'idc_augmentation=color_crop_scale-22fbbcc7')
    """
    name = plain_name(spec)
    return name if _ORDINARY.fullmatch(spec) else f"{name}-{hashlib.blake2b(spec.encode(), digest_size=4).hexdigest()}"


def with_options(model: str, **options: object) -> str:
    """A model's spec with some options set.

    >>> with_options("convnet:width=8,norm=batch", norm="none", depth=2)
    'convnet:width=8,norm=none,depth=2'
    """
    name, given = split_spec(model)
    text = ",".join(f"{key}={value}" for key, value in {**given, **options}.items())
    return f"{name}:{text}" if text else name
