"""The memory of a stage: a few images per class, chosen by a coreset or learned by a method; made once, in a folder of its own."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdc.condense import condense
from fastdc.condensed import CondensedDataset
from fastdc.coresets import SELECTIONS
from fastdc.data import ImageData
from fastdc.errors import UsageError, unknown_name
from fastdc.methods import METHODS, check_method
from fastdc.specs import split_spec


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """How memories are made, their name and seed aside."""

    ipc: int
    model: str
    iterations: int
    batch_real: int
    whole_set_epochs: int
    engine: str
    device: str
    progress: bool


def check_memory(name: str) -> None:
    """Raise a UsageError unless `name` is a coreset or a method's spec."""
    if not isinstance(name, str) or split_spec(name)[0] not in (*SELECTIONS, *METHODS):
        raise unknown_name("memory", name, (*SELECTIONS, *METHODS))
    if name in SELECTIONS:
        return
    if split_spec(name)[0] in SELECTIONS:
        raise UsageError(f"memory {name!r} gives options; a coreset takes none here.")
    check_method(name)


def make_memory(name: str, train: ImageData, options: MemoryOptions, seed: int, folder: Path, networks: Path) -> CondensedDataset:
    """The memory in `folder`, made there unless it is; networks trained on the whole stage lie in `networks`."""
    file = folder / "condensed.safetensors"
    if name not in SELECTIONS:
        return condense(
            train,
            options.ipc,
            model=options.model,
            method=name,
            iterations=options.iterations,
            batch_real=options.batch_real,
            engine=options.engine,
            device=options.device,
            seed=seed,
            out=folder,
            progress=options.progress,
        )
    if not file.exists():
        select = SELECTIONS[name]
        given: dict[str, Any] = {
            "model": options.model,
            "epochs": options.whole_set_epochs,
            "seed": seed,
            "engine": options.engine,
            "device": options.device,
            "cache": networks,
            "progress": options.progress,
        }
        chosen = select(train, options.ipc, **{key: given[key] for key in inspect.signature(select).parameters if key in given})
        folder.mkdir(parents=True, exist_ok=True)
        chosen.save_grid(folder / "condensed.png")
        chosen.save(file)
    return CondensedDataset.load(file)


def bytes_of(name: str, memory: CondensedDataset) -> int:
    """What a memory takes: chosen images are kept as uint8, learned ones as float32."""
    return memory.images.numel() * (1 if name in SELECTIONS else 4)
