"""The compiled CPU code, where it was built, and how this installation was built."""

from __future__ import annotations

import importlib
from types import ModuleType


def _load(name: str) -> tuple[ModuleType | None, str]:
    try:
        return importlib.import_module(name), ""
    except ImportError as error:
        return None, "" if error.name == name else f"it does not load: {error}"


extension, _failure = _load("fastdc._C")
_info = _load("fastdc._build_info")[0]
BUILD: dict[str, str] = _info.BUILD if _info is not None else {}


def state(part: str) -> str:
    """How the part "cpp" or "cuda" of the compiled code was built, or why it is not there."""
    loading = _failure if part == "cpp" else ""
    return loading or BUILD.get(part, "not built: this is a source tree; pip install . builds it")
