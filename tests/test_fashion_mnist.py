"""Every way of choosing and of learning images on the real FashionMNIST, from the command line and by the same call in Python."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import needs_fashion_mnist

import fastdc
from fastdc.cli import main
from fastdc.condensed import CondensedDataset
from fastdc.coresets import SELECTIONS
from fastdc.recipe import RECIPES

pytestmark = needs_fashion_mnist
MODEL = "convnet:width=8,depth=1"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the one network lies that the coresets share."""
    return tmp_path_factory.mktemp("networks")


@pytest.mark.parametrize("name", SELECTIONS)
def test_coresets(name: str, cache: Path, tmp_path: Path) -> None:
    flags = [] if name in ("random", "kmeans") else ["--model", MODEL, "--epochs", "1", "--cache", str(cache)]
    command = ["select", "--coreset", name, "--dataset", "fashion-mnist", "--ipc", "2", "--out", str(tmp_path), "--quiet"]
    assert main([*command, *flags]) == 0
    chosen = CondensedDataset.load(tmp_path / "condensed.safetensors")
    train, _ = fastdc.load_dataset("fashion-mnist")
    options = {} if name in ("random", "kmeans") else {"model": MODEL, "epochs": 1, "cache": cache, "progress": False}
    assert torch.equal(chosen.images, SELECTIONS[name](train, 2, **options).images)
    assert chosen.labels.tolist() == [c for c in range(10) for _ in range(2)]
    for image, label in chosen:
        of_class = train.normalised(train.class_members[label])
        assert (of_class == image).flatten(1).all(1).any()


@pytest.mark.parametrize("name", RECIPES)
def test_methods(name: str, tmp_path: Path) -> None:
    method = f"{name}:networks=1,epochs=1" if RECIPES[name].pool.startswith("pretrained") else name
    sizes = {"iterations": 2, "matching_steps": 2, "batch_real": 16}
    flags = ["--model", MODEL, "--networks", "1", "--epochs", "1", "--baseline", "none"]
    flags += [text for size, value in sizes.items() for text in (f"--{size.replace('_', '-')}", str(value))]
    command = ["condense", "--method", method, "--dataset", "fashion-mnist", "--ipc", "1", "--out", str(tmp_path), "--quiet"]
    assert main([*command, *flags]) == 0
    learned = CondensedDataset.load(tmp_path / "condensed.safetensors")
    again = fastdc.condense("fashion-mnist", 1, model=MODEL, method=method, **sizes, progress=False)
    assert torch.equal(learned.images, again.images)
    assert learned.stored.shape == (10, 1, 28, 28)
    assert torch.isfinite(learned.images).all()
    assert (tmp_path / "evaluation.json").exists()
