"""The file of a state: a checkpoint, which says as well how the images look that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdc.condensed import CondensedDataset
from fastdc.errors import DataError
from fastdc.recipe.state import State
from fastdc.runs.content import finite, reading, tensor_like, whole_number
from fastdc.runs.files import load_tensors, save_tensors

KIND = "checkpoint"
_DESCRIBED = ("mean", "std", "class_names", "formation")  # what its header says of the images


@dataclass(frozen=True, eq=False)
class Description:
    """What makes a condensed set of what is stored, all through a run; the fields are the arguments of `CondensedDataset`."""

    labels: Tensor  # [S]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    formation: str
    fitted: Mapping[str, Tensor]

    def condensed(self, stored: Tensor, provenance: Mapping[str, Any], copy: bool = False) -> CondensedDataset:
        """The set of what is stored [S, ...], or of a copy of it."""
        return CondensedDataset(stored, provenance=provenance, copy=copy, **vars(self))


def save_checkpoint(path: Path, state: State, metrics_bytes: int, description: Description) -> None:
    """Write the state, with the length of the metrics that belong to it and what makes images of it, whole or not at all.

    Raises:
        RunError: the file cannot be written.
    """
    tensors = {
        "stored": state.stored,
        "losses": torch.tensor(state.losses, dtype=torch.float64),
        "labels": description.labels,
    }
    if state.theta is not None:
        tensors["theta"] = state.theta
    groups = {"moments": state.moments, "path": state.path, "learned": state.learned, "formation": description.fitted}
    for group, values in groups.items():
        tensors |= {f"{group}.{name}": value for name, value in values.items()}
    described = {name: getattr(description, name) for name in _DESCRIBED}
    save_tensors(path, KIND, tensors, {"iteration": state.iteration, "step": state.step, "metrics_bytes": metrics_bytes, **described})


def load_images(path: Path) -> tuple[CondensedDataset, int]:
    """The images that a checkpoint holds, and how many iterations they have behind them.

    Raises:
        MissingFileError: no such file.
        DataError: a file of another kind or version, cut short or altered.
    """
    tensors, content = load_tensors(path, KIND)
    if not content.keys() >= set(_DESCRIBED):
        raise DataError(f"{path} does not say how its images look, as a version before wrote it; continue its run with this one.")
    with reading(path, "a checkpoint of a run"):
        described = {name: content[name] for name in _DESCRIBED}
        description = Description(tensors["labels"], **described, fitted=_group(tensors, "formation", None))
        return description.condensed(tensors["stored"], {}), whole_number(content, "iteration")


def load_checkpoint(path: Path, state: State, weights: int) -> int:
    """Put the state from the file in place of a fresh one; returns the length of the metrics that belong to it.

    Args:
        path: the file.
        state: a fresh one, whose images, optimizer and match the file must fit.
        weights: how many numbers theta has.

    Raises:
        DataError: a file of another kind or version, cut short or altered, or of another run.
    """
    tensors, content = load_tensors(path, KIND)
    if "stored" not in tensors:
        raise DataError(f"{path} was written by version 0.1 of fastdc; finish its run with that version, or use another folder.")
    if tensors["stored"].shape != state.stored.shape:
        raise DataError(
            f"{path} holds images of shape {list(tensors['stored'].shape)}; this run has {list(state.stored.shape)}: use another folder."
        )
    with reading(path, "a checkpoint of such a run"):
        device = state.stored.device
        theta = tensors.get("theta")
        if theta is not None and (theta.shape != (weights,) or theta.dtype != state.stored.dtype):
            raise ValueError(f"theta is {theta.dtype} {list(theta.shape)}, not {weights} weights in {state.stored.dtype}")
        losses = tensor_like(tensors, "losses", torch.zeros((), dtype=torch.float64)).item()
        stored = finite(tensor_like(tensors, "stored", state.stored), "stored")
        groups = [_group(tensors, name, like) for name, like in (("moments", state.moments), ("path", None), ("learned", state.learned))]
        iteration, step, metrics_bytes = (whole_number(content, name) for name in ("iteration", "step", "metrics_bytes"))
        if step and theta is None:
            raise ValueError(f"it lacks the weights of step {step}")
    state.iteration, state.step, state.losses = iteration, step, losses
    state.stored, state.theta = stored.to(device), None if theta is None else theta.to(device)
    state.moments, state.path, state.learned = ({name: value.to(device) for name, value in group.items()} for group in groups)
    return metrics_bytes


def _group(tensors: Mapping[str, Tensor], group: str, like: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """The tensors GROUP.NAME of a file by NAME; where a state has some, these and no others."""
    names = [name.partition(".")[2] for name in tensors if name.startswith(f"{group}.")]
    if like is not None and sorted(names) != sorted(like):
        raise ValueError(f"{group} are {sorted(names)}, not {sorted(like)}")
    for name, expected in (like or {}).items():
        tensor_like(tensors, f"{group}.{name}", expected)
    return {name: tensors[f"{group}.{name}"] for name in names}
