"""Versions of this package and of others."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from pathlib import Path

import torch


def versions() -> dict[str, str]:
    """Versions of fastdc and of what its numbers depend on."""
    return {"fastdc": version_of("fastdc-torch"), "torch": torch.__version__}


def hardware(device: torch.device) -> str:
    """What computes on a device: the card, or the processor and the threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{processor()}, {threads} thread{'s' if threads > 1 else ''}"


def processor() -> str:
    """The name of the processor, as the system knows it."""
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def version_of(package: str) -> str:
    """The version of an installed package, or that it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
