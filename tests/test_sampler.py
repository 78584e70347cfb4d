from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers import LargestResult
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import NORMALISED

from fastdc.data import ClassSampler, ImageData


def numbered(counts, *, shuffle=True):
    """A set whose image i holds the number i in its pixels, so that a drawn image can be told."""
    labels = np.repeat(np.arange(len(counts)), counts)
    if shuffle:
        labels = np.random.default_rng(0).permutation(labels)
    number = np.arange(len(labels))
    images = np.stack([number % 256, number // 256], -1).astype(np.uint8).reshape(-1, 1, 1, 2)
    names = tuple(str(c) for c in range(len(counts)))
    return ImageData(torch.from_numpy(images), torch.from_numpy(labels), len(counts), names, (0.25,), (0.5,))


def numbers(images):
    """The numbers of normalised images [..., 1, 1, 2] of `numbered`."""
    pixels = ((images.double() * 0.5 + 0.25) * 255).round().long()
    return pixels[..., 0, 0, 0] + 256 * pixels[..., 0, 0, 1]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(sampler, batch):
    """All images of a batch, class by class, as lists of their numbers."""
    return [row for _, images in sampler.draw(batch) for row in numbers(images).tolist()]


def test_a_batch_holds_no_image_twice():
    sampler = ClassSampler(numbered([50, 50]), generator())
    for _ in range(20):
        for row in drawn(sampler, 40):
            assert len(set(row)) == 40


def test_images_are_of_the_class_that_they_are_drawn_for():
    data = numbered([30, 20, 25])
    sampler = ClassSampler(data, generator())
    for _ in range(5):
        for c, row in enumerate(drawn(sampler, 10)):
            assert data.labels[row].tolist() == [c] * 10


def test_equal_seeds_draw_equal_batches_and_others_do_not():
    data = numbered([50, 50])
    runs = [[drawn(ClassSampler(data, g), 8) for _ in range(3)] for g in (generator(1), generator(1), generator(2))]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_batches_follow_the_generator_alone():
    data = numbered([50, 50])
    sampler, g = ClassSampler(data, own := generator(3)), generator(3)
    drawn(sampler, 8)
    g.set_state(own.get_state())
    expected = drawn(sampler, 8)
    torch.manual_seed(99)
    assert drawn(ClassSampler(data, g), 8) == expected


def test_global_random_numbers_are_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    drawn(ClassSampler(numbered([9, 9]), generator()), 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_differ_from_one_another():
    sampler = ClassSampler(numbered([50, 50]), generator())
    assert drawn(sampler, 8) != drawn(sampler, 8)


def test_all_images_of_a_class_are_drawn_equally_often():
    data = numbered([8, 8])
    sampler = ClassSampler(data, generator())
    times = torch.zeros(16)
    for _ in range(2000):
        times += torch.bincount(torch.tensor(sampler.indices(4)[0].tolist() + sampler.indices(4)[1].tolist()), minlength=16)
    assert torch.all((times - 1000).abs() < 5 * (2000 * 0.5 * 0.5) ** 0.5)  # five standard deviations


def test_a_batch_as_large_as_the_class_is_the_class_in_another_order():
    data = numbered([20, 20], shuffle=False)
    first, second = drawn(ClassSampler(data, generator()), 20)
    assert sorted(first) == list(range(20))
    assert first != sorted(first)
    assert sorted(second) == list(range(20, 40))


def test_classes_that_all_have_enough_are_one_group():
    groups = list(ClassSampler(numbered([5, 9, 7]), generator()).draw(5))
    assert [(classes.tolist(), tuple(images.shape)) for classes, images in groups] == [([0, 1, 2], (3, 5, 1, 1, 2))]


def test_classes_with_too_few_images_give_all_they_have_in_a_group_of_their_own():
    groups = list(ClassSampler(numbered([9, 3, 3, 9, 9]), generator()).draw(5))
    assert [classes.tolist() for classes, _ in groups] == [[0], [1, 2], [3, 4]]
    assert [images.shape[1] for _, images in groups] == [5, 3, 5]


def test_classes_come_in_order_however_the_labels_lie():
    data = numbered([4, 6, 5, 7])
    assert data.labels.tolist() != sorted(data.labels.tolist())
    classes = torch.cat([classes for classes, _ in ClassSampler(data, generator()).draw(5)])
    assert classes.dtype == torch.int64
    assert classes.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_are_normalised_when_they_are_drawn(dtype):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (12, 3, 4, 5), dtype=np.uint8))
    data = ImageData.of(images, torch.arange(12) % 2)
    sampler = ClassSampler(data, generator(4), dtype)
    twin = ClassSampler(data, generator(4), dtype)
    [(_, found)] = sampler.draw(3)
    chosen = torch.stack(twin.indices(3))
    expected = (images[chosen].double() / 255 - torch.tensor(data.mean).view(3, 1, 1).double()) / torch.tensor(data.std).view(
        3, 1, 1
    ).double()
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=NORMALISED[torch.float32])


def test_the_images_of_the_set_are_not_changed():
    data = numbered([9, 9])
    before = data.images.clone()
    drawn(ClassSampler(data, generator()), 4)
    assert torch.equal(data.images, before)


def test_drawing_never_copies_the_whole_set():
    images = torch.randint(0, 256, (4000, 1, 28, 28), dtype=torch.uint8, generator=generator())
    data = ImageData.of(images, torch.arange(4000) % 10)
    with LargestResult(images.untyped_storage()) as largest:
        sampler = ClassSampler(data, generator())
        for _ in sampler.draw(8):
            pass
    batch = 10 * 8 * 28 * 28 * 4  # the normalised images
    assert batch <= largest.bytes < images.nbytes / 10


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=8), batch=st.integers(1, 14), seed=st.integers(0, 1 << 40))
def test_any_class_sizes_and_any_batch_give_each_class_its_own_images(counts, batch, seed):
    data = numbered(counts)
    groups = list(ClassSampler(data, generator(seed)).draw(batch))
    classes = [c for group, _ in groups for c in group.tolist()]
    rows = [row for _, images in groups for row in numbers(images).tolist()]
    assert classes == list(range(len(counts)))
    assert [len(row) for row in rows] == [min(batch, count) for count in counts]
    assert [len(set(row)) for row in rows] == [len(row) for row in rows]
    assert [set(data.labels[row].tolist()) for row in rows] == [{c} for c in classes]
    lengths = [images.shape[1] for _, images in groups]
    assert all(a != b for a, b in itertools.pairwise(lengths))  # as few groups as there can be


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=6), batch=st.integers(1, 14), seed=st.integers(0, 1 << 40))
def test_any_seed_draws_the_same_images_again(counts, batch, seed):
    data = numbered(counts)
    assert drawn(ClassSampler(data, generator(seed)), batch) == drawn(ClassSampler(data, generator(seed)), batch)
