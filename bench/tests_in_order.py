"""A plugin of pytest for bench/gpu.sh, by name and so in each process of xdist: the order of tests, of which the last may find no time."""

from __future__ import annotations

from typing import Any

ENGINE = ("cuda", "captured", "kernels", "side_by_side", "waits")  # in the names of what only the engine for GPUs does


def pytest_collection_modifyitems(items: list[Any]) -> None:
    def order(item: Any) -> tuple[bool, bool, bool]:
        compiles = any(word in item.name for word in ("compile", "opcheck"))  # what would eat the time of the others
        return compiles, not any(word in item.name for word in ENGINE), "triton" in item.name

    items.sort(key=order)
