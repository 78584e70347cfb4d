"""Versions of this package and of others."""

from __future__ import annotations

import importlib.metadata

import torch


def versions() -> dict[str, str]:
    """Versions of fastdc and of what its numbers depend on."""
    return {"fastdc": version_of("fastdc-torch"), "torch": torch.__version__}


def version_of(package: str) -> str:
    """The version of an installed package, or that it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
