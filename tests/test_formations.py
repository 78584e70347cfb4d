"""How what is stored becomes images: a formation of one's own through the loop, the condensed set, its files and its evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import fastdc
from fastdc.errors import DataError, UsageError
from fastdc.recipe import FORMATIONS, Formation

MEANS = {"mean": [0.5], "std": [0.25], "class_names": ["a", "b"]}


class Mirrored(Formation):
    """What is stored is an image; it is shown as it is, and mirrored."""

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, stored: Tensor) -> Tensor:
        return torch.stack([stored, stored.flip(-1)], 2).flatten(1, 2)

    def adjoint(self, gradient: Tensor) -> Tensor:
        plain, mirrored = gradient.unflatten(1, (-1, 2)).unbind(2)
        return plain + mirrored.flip(-1)


@pytest.fixture(autouse=True)
def mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FORMATIONS, "_entries", dict(FORMATIONS._entries))
    FORMATIONS.add("mirrored", Mirrored)


def mirrored_set(labels: list[int]) -> fastdc.CondensedDataset:
    stored = torch.randn(len(labels), 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return fastdc.CondensedDataset(stored, torch.tensor(labels), formation="mirrored", **MEANS)


def test_a_set_shows_what_its_formation_decodes() -> None:
    condensed = mirrored_set([1, 0, 1])
    assert condensed.images.shape == (6, 1, 4, 4)
    assert condensed.stored.shape == (3, 1, 4, 4)
    assert condensed.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert torch.equal(condensed.images[::2], condensed.stored)
    assert torch.equal(condensed.images[1::2], condensed.stored.flip(-1))
    assert (len(condensed), condensed.ipc, condensed.storage_bytes) == (6, (1, 2), 3 * 16 * 4)
    assert condensed[1][1] == 0
    assert repr(condensed).startswith("CondensedDataset(6 images 1x4x4 in the storage of 3 (mirrored) of 2 classes")
    assert condensed.to_pixels().shape == condensed.images.shape
    assert condensed.grid().size[0] > condensed.grid().size[1]  # four images across, two classes


def test_a_plain_set_stores_its_images() -> None:
    images = torch.zeros(2, 1, 4, 4)
    condensed = fastdc.CondensedDataset(images, torch.tensor([1, 0]), **MEANS)
    assert (condensed.formation, condensed.storage_bytes) == ("plain:clamp=false", images.nbytes)
    assert torch.equal(condensed.stored, condensed.images)
    assert "storage" not in repr(condensed)


def test_a_file_keeps_what_is_stored_and_its_formation(tmp_path: Path) -> None:
    condensed = mirrored_set([0, 1])
    condensed.save(tmp_path / "set.safetensors")
    again = fastdc.CondensedDataset.load(tmp_path / "set.safetensors")
    assert again.formation == "mirrored"
    for name in ("images", "stored", "labels"):
        assert torch.equal(getattr(again, name), getattr(condensed, name))


def test_a_file_of_an_unknown_formation_is_refused_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirrored_set([0, 1]).save(tmp_path / "set.safetensors")
    monkeypatch.delitem(FORMATIONS._entries, "mirrored")
    with pytest.raises(DataError, match=r"unknown formation 'mirrored'.*plain"):
        fastdc.CondensedDataset.load(tmp_path / "set.safetensors")
    with pytest.raises(UsageError, match="unknown formation"):
        fastdc.CondensedDataset(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), formation="nothing", **MEANS)


def test_images_that_are_none_are_refused_by_any_formation() -> None:
    with pytest.raises(DataError, match=r"expected float \[N, channels, H, W\]"):
        fastdc.CondensedDataset(torch.zeros(()), torch.tensor([0]), formation="mirrored", **MEANS)


def test_the_loop_learns_what_is_stored(tmp_path: Path) -> None:
    """One step: the gradient by what is stored is that by the image and its mirror image together."""
    options = {"ipc": 1, "model": "convnet:width=8", "batch_real": 8, "matching_steps": 1, "progress": False, "engine": "torch"}
    condensed = fastdc.condense("digits", formation="mirrored", iterations=1, lr_images=1e-9, out=tmp_path, **options)
    assert (condensed.formation, condensed.ipc, len(condensed.stored), len(condensed)) == ("mirrored", 1, 10, 20)
    start, rate = condensed.stored, 1.0
    moved = fastdc.condense("digits", formation="mirrored", iterations=1, lr_images=rate, **options)
    doubled = fastdc.condense("digits", formation="mirrored", iterations=1, lr_images=2 * rate, **options)
    torch.testing.assert_close(doubled.stored - start, 2 * (moved.stored - start), rtol=1e-4, atol=1e-6)
    assert (moved.stored - start).norm() > 0
    accuracy = fastdc.evaluate(condensed, "digits", model="mlp:width=8", networks=1, epochs=2, progress=False)
    assert 0 <= accuracy.mean <= 1
    assert torch.equal(fastdc.CondensedDataset.load(tmp_path / "condensed.safetensors").images, condensed.images)
