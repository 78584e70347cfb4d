"""The compiled CPU code, where it was built, and how this installation was built."""

from __future__ import annotations

import importlib

try:
    import fastdc._C

    extension = fastdc._C  # None where it is not there
    _failure = ""
except ImportError as error:
    extension = None  # type: ignore[assignment]
    _failure = "" if error.name == "fastdc._C" else f"it does not load: {error}"

try:
    BUILD: dict[str, str] = importlib.import_module("fastdc._build_info").BUILD
except ImportError:
    BUILD = {}


def state(part: str) -> str:
    """How the part "cpp" or "cuda" of the compiled code was built, or why it is not there."""
    loading = _failure if part == "cpp" else ""
    return loading or BUILD.get(part, "not built: this is a source tree; pip install . builds it")
