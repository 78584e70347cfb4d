"""Versions of what is installed, as tests are skipped by them."""

from __future__ import annotations

import importlib.metadata
import importlib.util


def triton_version() -> tuple[int, int]:
    """Major and minor number of Triton; (0, 0) where it is not installed."""
    if importlib.util.find_spec("triton") is None:
        return 0, 0
    major, minor = importlib.metadata.version("triton").split(".")[:2]
    return int(major), int(minor)
