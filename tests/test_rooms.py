"""The order of the rooms: nothing imports what stands above it, so that there are no circles; and every public name is there."""

from __future__ import annotations

import ast
from pathlib import Path

import fastdc

PACKAGE = Path(fastdc.__file__).parent
# Data flows from left to right and from line to line; each room knows those before it and none after it.
# fmt: off
ROOMS = (
    "errors", "options", "runtime", "runs", "parallel", "data",
    "kernels", "metrics", "models", "engines", "training",
    "recipe", "condensed", "coresets", "loop", "report",
    "_match", "_condense", "_estimate", "_evaluate", "callbacks", "experiments", "cli", "__main__",
)
# fmt: on


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """The rooms that a module imports anything from, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fastdc":
            found |= {node.module.split(".")[1]} if "." in node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("fastdc.")}
    return found - {"_C"}  # the compiled module, which knows none of them


def test_no_room_knows_one_above_it() -> None:
    modules = [path for path in PACKAGE.rglob("*.py") if room_of(path) not in ("__init__", "_build_info")]
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {room}"
        for path in modules
        for room in imported_rooms(path)
        if ROOMS.index(room) > ROOMS.index(room_of(path))
    ]
    assert wrong == []
    assert {room_of(path) for path in modules} - {"kernels"} == set(ROOMS) - {"kernels"}


def test_the_public_names_are_there() -> None:
    assert [name for name in fastdc.__all__ if not hasattr(fastdc, name)] == []


def test_names_of_version_0_1_still_lead_to_what_they_named() -> None:
    from fastdc.applications import architecture_search, continual_learning
    from fastdc.distance import layerwise_distance

    assert continual_learning is fastdc.experiments.continual_learning
    assert architecture_search is fastdc.experiments.architecture_search
    assert layerwise_distance is fastdc.metrics.layerwise_distance
