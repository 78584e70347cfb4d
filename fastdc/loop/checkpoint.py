"""The file of a state: a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from fastdc.errors import DataError
from fastdc.recipe.state import State
from fastdc.runs.files import load_tensors, save_tensors

KIND = "checkpoint"


def save_checkpoint(path: Path, state: State, metrics_bytes: int) -> None:
    """Write the state, with the length of the metrics that belong to it, whole or not at all.

    Raises:
        RunError: the file cannot be written.
    """
    tensors = {
        "stored": state.stored,
        "losses": torch.tensor(state.losses, dtype=torch.float64),
    }
    if state.theta is not None:
        tensors["theta"] = state.theta
    for group, values in (("moments", state.moments), ("path", state.path), ("learned", state.learned)):
        tensors |= {f"{group}.{name}": value for name, value in values.items()}
    save_tensors(path, KIND, tensors, {"iteration": state.iteration, "step": state.step, "metrics_bytes": metrics_bytes})


def load_checkpoint(path: Path, state: State) -> int:
    """Put the state from the file in place of a fresh one; returns the length of the metrics that belong to it.

    Raises:
        DataError: a file of another kind or version, cut short or altered, or of images of another shape.
    """
    tensors, content = load_tensors(path, KIND)
    if "stored" not in tensors:
        raise DataError(f"{path} was written by version 0.1 of fastdc; finish its run with that version, or use another folder.")
    if tensors["stored"].shape != state.stored.shape:
        raise DataError(
            f"{path} holds images of shape {list(tensors['stored'].shape)}; this run has {list(state.stored.shape)}: use another folder."
        )
    device = state.stored.device
    state.stored = tensors["stored"].to(device)
    state.theta = tensors["theta"].to(device) if "theta" in tensors else None
    state.moments, state.path, state.learned = (
        {name.removeprefix(group): value.to(device) for name, value in tensors.items() if name.startswith(group)}
        for group in ("moments.", "path.", "learned.")
    )
    state.iteration, state.step, state.losses = content["iteration"], content["step"], tensors["losses"].item()
    return content["metrics_bytes"]
