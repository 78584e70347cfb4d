"""What the system lets a process take of the memory: containers and batch systems limit the groups (cgroups) that it belongs to."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_OWN_GROUPS = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60  # bytes; version 1 says a number above it where there is none


@dataclass(frozen=True)
class _Files:
    """How a version of the system calls what a group says."""

    limit: str
    used: str
    cache: str
    """In memory.stat: the bytes of files that were read once, which are given up when others are needed."""


_VERSION_1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _Files("memory.max", "memory.current", "inactive_file")


def free_within_limits(own_groups: Path = _OWN_GROUPS, root: Path = _ROOT) -> float:
    """Bytes that this process can still allocate by the limits of its groups, each of which bounds those within it.

    Args:
        own_groups: the file in which the system names the groups of the process.
        root: the folder in which the system shows all groups.

    Returns:
        The least of all levels; infinity where there is no limit, or none that can be read.
    """
    return min((_free(folder, files) for folder, files in _levels(own_groups, root)), default=math.inf)


def _levels(own_groups: Path, root: Path) -> Iterator[tuple[Path, _Files]]:
    """The folders of the process's groups and of those around them. Where a container shows its own group as the root, the path that the
    system names may lead nowhere; the root is looked at in any case."""
    with contextlib.suppress(OSError, UnicodeError):
        for line in own_groups.read_text().splitlines():
            number, _, rest = line.partition(":")
            kinds, _, path = rest.partition(":")
            if number == "0" and not kinds:
                top, files = root, _VERSION_2
            elif "memory" in kinds.split(","):
                top, files = root / "memory", _VERSION_1
            else:
                continue
            inside = PurePosixPath(path.lstrip("/"))
            yield top, files
            if ".." not in inside.parts:  # as it is where the group lies outside what the process is shown
                yield from ((top / level, files) for level in (inside, *inside.parents) if level.parts)


def _free(folder: Path, files: _Files) -> float:
    """Bytes left below the limit of one group; infinity where it has none, or says it in another way than is known."""
    try:
        limit = int((folder / files.limit).read_text())
        if limit >= _NO_LIMIT:
            return math.inf
        used = int((folder / files.used).read_text())
    except (OSError, ValueError):  # "max" is no limit
        return math.inf
    return float(max(0, limit - used + _cache(folder, files.cache)))


def _cache(folder: Path, name: str) -> int:
    """Bytes that a line of memory.stat says; 0 where there is none."""
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0
