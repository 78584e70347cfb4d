"""What the tests of bad input share: good arguments of everything, and the refusal that a bad one gets."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

import fastdc
from fastdc.condensed import CondensedDataset
from fastdc.data import ImageData
from fastdc.errors import FastdcError

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
LABELS = np.arange(40) % 2
FLOATS = torch.from_numpy(IMAGES).float() / 255
SYNTHETIC, REAL = torch.zeros(2, 1, 1, 8, 8), torch.ones(2, 3, 1, 8, 8)  # of two classes


@contextlib.contextmanager
def refusal(error, match):
    """Expect exactly this type of error (or one of these), its text a line that matches."""
    kinds = error if isinstance(error, tuple) else (error,)
    with pytest.raises(FastdcError, match=match) as caught:
        yield
    assert type(caught.value) in kinds
    assert "\n" not in str(caught.value)


def case(name, *values):
    return pytest.param(*values, id=name)


def condense(data=(IMAGES, LABELS), ipc=1, **options):
    return fastdc.condense(data, ipc, **{"model": "mlp:width=4", "iterations": 1, "batch_real": 4, "progress": False, **options})


def evaluate(condensed=None, test=(IMAGES, LABELS), **options):
    condensed = condensed_of() if condensed is None else condensed
    return fastdc.evaluate(condensed, test, **{"model": "mlp:width=4", "networks": 1, "epochs": 1, "progress": False, **options})


def tensors(**changes):
    """The arguments of a good ImageData, with changes."""
    good = {
        "images": torch.from_numpy(IMAGES),
        "labels": torch.from_numpy(LABELS),
        "num_classes": 2,
        "class_names": ("ant", "bee"),
        "mean": (0.5,),
        "std": (0.25,),
    }
    return {**good, **changes}


def image_data(**changes):
    return ImageData(**tensors(**changes))


def condensed_of(**changes):
    good = {
        "images": torch.from_numpy(IMAGES[:4]).float() / 100 - 1,
        "labels": torch.tensor([0, 1, 0, 1]),
        "mean": [0.5],
        "std": [0.25],
        "class_names": ["ant", "bee"],
    }
    return CondensedDataset(**{**good, **changes})


def linear(inputs=64, outputs=2):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs))
