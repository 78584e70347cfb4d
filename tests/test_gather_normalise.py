"""Images gathered and normalised at once: the bits of a set that is normalised on the CPU, by the kernel and by plain torch."""

from __future__ import annotations

import pytest
import torch
from conftest import needs_triton, needs_triton_to_run

import fastdc
from fastdc.data import ClassSampler, ImageData
from fastdc.engines import gather_normalise
from fastdc.engines.gather_normalise import DeviceImages, near

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ARMS = [pytest.param(True, marks=[needs_triton, needs_triton_to_run], id="kernel"), pytest.param(False, id="plain")]
SHAPES = [(1, 1, 1), (1, 63, 1), (3, 43, 3), (3, 32, 33), (2, 5, 7)]  # less than a step of the kernel, and several


def noise(count: int, shape: tuple[int, ...], on_device: bool = False) -> ImageData:
    """Images of every byte, in a set on the device or on the CPU."""
    images = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ImageData.of(images, torch.arange(count) % 2)
    if not on_device:
        return data
    return DeviceImages(images.to(DEVICE), data.labels, data.num_classes, data.class_names, data.mean, data.std)


@pytest.mark.parametrize("kernel", ARMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_images_have_the_bits_of_a_set_on_the_cpu(kernel: bool, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    data = noise(12, shape)
    for index in (torch.tensor([3, 11, 0, 3]), torch.arange(12), torch.tensor([7]), torch.zeros(0, dtype=torch.int64)):
        found = gather_normalise.gather_normalise(data.images.to(DEVICE), index.to(DEVICE), data.levels(dtype).to(DEVICE), kernel)
        expected = data.normalised(index, dtype)
        assert found.dtype == dtype
        assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("kernel", ARMS)
def test_images_that_do_not_lie_side_by_side_are_gathered_too(kernel: bool) -> None:
    turned = noise(6, (5, 4, 3)).images.permute(0, 3, 1, 2).to(DEVICE)  # as of an array [N, H, W, channels]
    index, levels = torch.tensor([4, 1], device=DEVICE), torch.randn(3, 256, device=DEVICE)
    found = gather_normalise.gather_normalise(turned, index, levels, kernel)
    assert torch.equal(found, gather_normalise.gather_normalise(turned.contiguous(), index, levels, kernel))


def test_a_set_on_the_device_draws_what_it_draws_on_the_cpu() -> None:
    there, here = noise(40, (3, 6, 5), on_device=True), noise(40, (3, 6, 5))
    expected = ClassSampler(here, 5).draw(range(2), 7, "test")
    assert torch.equal(ClassSampler(there, 5, device=DEVICE).draw(range(2), 7, "test").cpu(), expected)
    assert torch.equal(there.normalised(slice(3, 30), torch.float64).cpu(), here.normalised(slice(3, 30), torch.float64))
    assert torch.equal(there.normalised(slice(None), device="cpu"), here.normalised(slice(None)))
    assert there.fingerprint == here.fingerprint


def test_a_set_stays_on_the_cpu_where_there_is_no_other_device() -> None:
    data = noise(4, (1, 2, 2))
    assert near(data, torch.device("cpu")) is data


def test_a_run_does_not_depend_on_where_the_set_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"ipc": 1, "model": "convnet:width=8,depth=2", "iterations": 1, "matching_steps": 2, "batch_real": 4, "progress": False}
    train = noise(12, (1, 8, 8))
    expected = fastdc.condense(train, device="cpu", engine="torch", **settings).stored
    monkeypatch.setattr("fastdc.loop.loop.near", lambda data, device: noise(12, (1, 8, 8), on_device=True))
    assert torch.equal(fastdc.condense(train, device="cpu", engine="torch", **settings).stored, expected)


@pytest.mark.cuda
def test_a_set_goes_to_a_gpu_that_has_room_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = noise(4, (1, 2, 2))
    assert near(data, torch.device("cuda")).images.is_cuda
    monkeypatch.setattr(gather_normalise, "free_memory", lambda device: 0)
    assert near(data, torch.device("cuda")) is data
