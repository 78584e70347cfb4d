"""Make the golden files anew: `python tests/golden/make.py`, after a change that is meant to change what they hold.

    runs.safetensors             what each recipe learns in a few steps, and what it starts from
    condensed-0.2.safetensors    the result of a run, and
    run-0.2/                     the folder of a run that was stopped within an iteration, as this version writes them
    gradients.safetensors        random gradients, and their distances as the authors of "Dataset Condensation with Gradient
                                 Matching" compute them

Those of version 0.1 were written by that version and stay as they are.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import fastdc
from fastdc.callbacks import CheckpointWritten, Event

HERE = Path(__file__).parent
VERSION = "0.2"
# Smooth: where an input of ReLU is near zero, rounding decides what is learned.
RUN: dict[str, Any] = {
    "ipc": 2,
    "model": "convnet:width=8,activation=swish",
    "iterations": 2,
    "matching_steps": 2,
    "batch_real": 16,
    "progress": False,
}
# Where a recipe's own rate would move the images by little more than their rounding, which differs from processor to processor.
RATE = 0.03
REFERENCE = {"engine": "reference", "device": "cpu"}
# Two convolutions, a layer norm and a linear layer, with biases.
SHAPES = ((6, 3, 3, 3), (6,), (6, 4, 4), (6, 4, 4), (8, 6, 3, 3), (8,), (10, 32), (10,))


def run_of(recipe: str) -> dict[str, Any]:
    """The options of a recipe's golden run."""
    return {**RUN, "method": recipe, **({"lr_images": RATE} if fastdc.RECIPES[recipe].lr_images_each else {})}


def save_runs() -> None:
    """The images of each recipe, [C * n, channels, H, W], and those that it starts from."""
    images = {}
    for name in fastdc.RECIPES:
        images[name] = fastdc.condense("digits", **run_of(name), **REFERENCE).images.numpy()
        images[f"{name} start"] = fastdc.condense("digits", **{**run_of(name), **REFERENCE, "lr_images": 1e-30}).images.numpy()
    save_file(images, HERE / "runs.safetensors")


def save_condensed() -> None:
    fastdc.condense("digits", **RUN, **REFERENCE).save(HERE / f"condensed-{VERSION}.safetensors")


def save_run() -> None:
    """A run that is stopped after three of four steps: the state holds a network that has been trained."""
    steps = []

    def stop(event: Event) -> None:
        if isinstance(event, CheckpointWritten):
            steps.append(event)
            if len(steps) == 3:
                raise InterruptedError

    folder = HERE / f"run-{VERSION}"
    shutil.rmtree(folder, ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(InterruptedError):
        patch.setattr("fastdc.runs.folder._CHECKPOINT_SHARE", 1e9)  # a checkpoint after every step
        fastdc.condense("digits", out=folder, callbacks=[stop], **RUN, **REFERENCE)
    (folder / ".lock").unlink()


def authors_distance(synthetic: Sequence[np.ndarray], real: Sequence[np.ndarray], metric: str) -> float:
    """The `match_loss` of the authors' scripts, from one array per parameter, in float64."""
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(synthetic, real, strict=True)]
    if metric == "ours":
        rows = [(a.reshape(len(a), -1), b.reshape(len(b), -1)) for a, b in pairs if a.ndim > 1]
        return sum(float(np.sum(1 - (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1) + 1e-6))) for a, b in rows)
    a, b = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    if metric == "mse":
        return float(np.sum((a - b) ** 2))
    return float(1 - np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-6))


def save_gradients() -> None:
    """Gradients of one class; some rows are so small that the 1e-6 shows, and one is zero.

    The authors' mse and cos take biases in, which fastdc leaves out of every metric: these two are of the weights alone.
    """
    generator = np.random.default_rng(0)
    sides = [[generator.standard_normal(shape).astype(np.float32) for shape in SHAPES] for _ in range(2)]
    for weights in (sides[0][0], sides[1][4]):
        weights[:2] *= 1e-3
        weights[2] = 0
    stored = {f"{side} {i}": array for side, arrays in zip(("synthetic", "real"), sides, strict=True) for i, array in enumerate(arrays)}
    weights = [[array for array in arrays if array.ndim > 1] for arrays in sides]
    for metric, given in (("ours", sides), ("mse", weights), ("cos", weights)):
        stored[metric] = np.array(authors_distance(*given, metric))
    save_file(stored, HERE / "gradients.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for save in (save_runs, save_condensed, save_run, save_gradients):
        save()
