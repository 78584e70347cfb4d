"""Augmentation of training: draws for every image, one operation for each batch or several, and CutMix with its soft labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tolerances import AUGMENTED_SHARES, FLOAT64_CLOSED_FORM
from torch import Tensor

from fastdc.engines import Augmentation
from fastdc.errors import UsageError
from fastdc.training.augment import cut_and_mixed, drawn_cutmix, training_augmentation
from fastdc.training.operations import OPERATIONS

LINEAR = [name for name in OPERATIONS if name != "color"]
AUGMENTATIONS = {
    **{name: training_augmentation([name], "image") for name in OPERATIONS},
    "image": training_augmentation(list(OPERATIONS), "image"),
    "batch": training_augmentation(list(OPERATIONS), "batch"),
    "cutmix": training_augmentation([], "image", cutmix=1.0),
    "all": training_augmentation(["color", "crop/scale/rotate"], "image", cutmix=0.5),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, *, alike: bool = False) -> Tensor:
    """Images [count, 3, 12, 16] without a zero, all the same or all different."""
    images = 1 + torch.rand(count, 3, 12, 16, dtype=torch.float64, generator=generator(9))
    return images[:1].expand_as(images) if alike else images


def applied(augment: Augmentation | None, images: Tensor, seed: int = 0) -> Tensor:
    assert augment is not None
    return augment(images, torch.arange(len(images)), generator(seed))[0]


# Operations


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_image_of_a_batch_is_changed_as_is_drawn_for_it(name: str) -> None:
    images, operation = pictures(40, alike=True), OPERATIONS[name]
    drawn = generator()
    torch.randint(1, (), generator=drawn)  # which operation, of one
    expected = operation.apply(images, operation.draw(40, 12, 16, drawn))
    found = applied(training_augmentation([name], "image"), images)
    assert torch.equal(found, expected)
    assert len(found.flatten(1).unique(dim=0)) >= (2 if name == "flip" else 10)


def test_in_images_all_operations_come_one_after_another_in_their_order() -> None:
    images, drawn, expected = pictures(20), generator(), pictures(20)
    for name in ("rotate", "color", "cutout"):
        torch.randint(1, (), generator=drawn)
        expected = OPERATIONS[name].apply(expected, OPERATIONS[name].draw(20, 12, 16, drawn))
    assert torch.equal(applied(training_augmentation(["rotate", "color", "cutout"], "image"), images), expected)


@pytest.mark.parametrize(("operations", "mode"), [(["flip", "cutout"], "batch"), (["flip/cutout"], "image"), (["flip/cutout"], "batch")])
def test_one_of_several_operations_is_drawn_for_each_batch(operations: list[str], mode: str) -> None:
    images, augment = pictures(30), training_augmentation(operations, mode)
    found = [applied(augment, images, seed) for seed in range(20)]
    mirrored = [(((some == images) | (some == images.flip(3))).flatten(1).all(1)).all().item() for some in found]  # every image, or none
    cut = [((some == 0).flatten(1).any(1) & ((some == 0) | (some == images)).flatten(1).all(1)).all().item() for some in found]
    assert [one != other for one, other in zip(mirrored, cut, strict=True)] == [True] * 20
    assert 4 <= sum(mirrored) <= 16


@pytest.mark.parametrize("name", [*LINEAR, "cutmix"])
def test_what_is_linear_has_the_adjoint_that_autograd_finds(name: str) -> None:
    augment, images, other = AUGMENTATIONS[name], pictures(9).requires_grad_(), torch.randn(9, 3, 12, 16, dtype=torch.float64)
    changed = applied(augment, images)
    (back,) = torch.autograd.grad((changed * other).sum(), images)
    assert (images * back).sum().item() == pytest.approx((changed * other).sum().item(), rel=FLOAT64_CLOSED_FORM)
    twice = applied(augment, 2 * images.detach() + other)
    torch.testing.assert_close(twice, 2 * changed.detach() + applied(augment, other), rtol=FLOAT64_CLOSED_FORM, atol=FLOAT64_CLOSED_FORM)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_augmentation_is_decided_by_the_generator_and_touches_nothing(name: str, dtype: torch.dtype) -> None:
    augment, images, labels = AUGMENTATIONS[name], pictures(12).to(dtype), torch.arange(12) % 5
    assert augment is not None
    before, state = images.clone(), torch.get_rng_state()
    first, again, other = (augment(images, labels, generator(seed)) for seed in (0, 0, 1))
    assert first[0].shape == images.shape
    assert first[0].dtype == dtype
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(images, before)
    assert torch.equal(labels, torch.arange(12) % 5)
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_to_do_is_none() -> None:
    assert training_augmentation([], "batch") is training_augmentation((), "image", 0.0) is None
    assert training_augmentation([], "image", 0.1) is not None


# CutMix


def test_the_shares_of_cutmix_are_those_of_the_pixels() -> None:
    labels = torch.arange(8)
    images = labels.double().view(8, 1, 1, 1).expand(8, 2, 12, 16)  # every pixel says which image it is of
    shares_seen = []
    for seed in range(200):
        mixed, shares = cut_and_mixed(images, labels, drawn_cutmix(8, 12, 16, generator(seed)))
        pixels = torch.stack([(mixed == number).double().mean((1, 2, 3)) for number in labels], 1)  # [N, 8]
        torch.testing.assert_close(shares, pixels, rtol=0, atol=AUGMENTED_SHARES)
        boxes = (mixed[:, 0] != images[:, 0]).double()  # [N, 12, 16], of those that were mixed with another
        for box in boxes[boxes.any(2).any(1)]:
            assert torch.equal(box, box.amax(1, keepdim=True) * box.amax(0, keepdim=True))  # a rectangle, the same for all
            assert torch.equal(box, boxes.amax(0))
        shares_seen.append(1 - shares.amax(1).mean().item())
    assert min(shares_seen) < 0.02
    assert max(shares_seen) > 0.4


def test_the_box_of_cutmix_has_an_even_share_of_the_image_about_any_middle() -> None:
    """A box of share u about a random middle holds a pixel of the middle with probability u, and one in a corner with u / 4."""
    labels = torch.arange(2)
    images = labels.double().view(2, 1, 1, 1).expand(2, 1, 64, 64)
    covered, mixed_in_all = torch.zeros(64, 64, dtype=torch.float64), 0
    for seed in range(4000):
        drawn = generator(seed)
        mixed_in_all += int(torch.randperm(2, generator=generator(seed))[0])  # a batch of two is mixed with itself half the time
        covered += cut_and_mixed(images, labels, drawn_cutmix(2, 64, 64, drawn))[0][0, 0] != images[0, 0]
    covered /= mixed_in_all
    assert 0.45 < covered[32, 32] < 0.52  # 1/2 on average, and a little less, as sides are even numbers of pixels
    for corner in (covered[0, 0], covered[0, -1], covered[-1, 0], covered[-1, -1]):
        assert 0.08 < corner < 0.15  # 1/8


def test_cutmix_mixes_labels_that_are_soft_already() -> None:
    shares = torch.rand(6, 4, dtype=torch.float64, generator=generator(3)).softmax(1)
    images = torch.eye(6, dtype=torch.float64).view(6, 6, 1, 1).expand(6, 6, 12, 16)  # channel n is 1 in image n
    mixed, found = cut_and_mixed(images, shares, drawn_cutmix(6, 12, 16, generator(5)))
    torch.testing.assert_close(found, mixed.mean((2, 3)) @ shares, rtol=0, atol=AUGMENTED_SHARES)
    assert not torch.equal(found, shares)


def test_cutmix_comes_as_often_as_its_probability_says() -> None:
    augment, images, labels, drawn = training_augmentation([], "image", cutmix=0.3), pictures(4), torch.arange(4), generator()
    assert augment is not None
    batches = [augment(images, labels, drawn) for _ in range(1000)]
    soft = [known.is_floating_point() for _, known in batches]
    assert 250 < sum(soft) < 350  # by chance 300 +- 15
    assert all(some is images and known is labels for (some, known), mixed in zip(batches, soft, strict=True) if not mixed)


# Bad input


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((["colour"], "image"), "unknown operation 'colour'. Did you mean 'color'"),
        ((["crop/scal"], "image"), "unknown operation 'scal'. Did you mean 'scale'"),
        (([""], "batch"), "unknown operation ''"),
        (("color", "image"), "operations is 'color'; expected a list of names"),
        ((["color"], "images"), "unknown mode 'images'. Did you mean 'image'"),
        ((["color"], "image", 1.5), "cutmix is 1.5; expected a probability, 0 to 1"),
        ((["color"], "image", float("nan")), "cutmix is nan"),
        ((["color"], "image", "often"), "cutmix is 'often'"),
    ],
)
def test_what_cannot_be_used_gets_a_sentence(given: Any, message: str) -> None:
    with pytest.raises(UsageError) as error:
        training_augmentation(*given)
    assert message in str(error.value)
