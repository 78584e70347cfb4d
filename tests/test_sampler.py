from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import LargestResult
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import NORMALISED

from fastdc.data import ClassSampler, ImageData
from fastdc.errors import UsageError
from fastdc.recipe.groups import class_groups


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


def drawn(sampler, batch, moment=0):
    """All images of a batch, class by class, as lists of their numbers."""
    return [row for c in range(sampler.data.num_classes) for row in numbers(sampler.draw([c], batch, "test", moment)).tolist()]


def test_a_batch_holds_no_image_twice():
    sampler = ClassSampler(numbered([50, 50]), 0)
    for moment in range(20):
        for row in drawn(sampler, 40, moment):
            assert len(set(row)) == 40


def test_images_are_of_the_class_that_they_are_drawn_for():
    data = numbered([30, 20, 25])
    sampler = ClassSampler(data, 0)
    for moment in range(5):
        for c, row in enumerate(drawn(sampler, 10, moment)):
            assert data.labels[row].tolist() == [c] * 10


def test_equal_seeds_draw_equal_batches_and_others_do_not():
    data = numbered([50, 50])
    runs = [[drawn(ClassSampler(data, seed), 8, moment) for moment in range(3)] for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_a_batch_follows_from_its_key_alone():
    data = numbered([50, 50])
    sampler = ClassSampler(data, 3)
    runs = [drawn(sampler, 8, moment) for moment in range(3)]
    torch.manual_seed(99)
    again = ClassSampler(data, 3)
    assert [drawn(again, 8, moment) for moment in (2, 0, 1)] == [runs[2], runs[0], runs[1]]
    assert numbers(sampler.draw([1], 8, "test", 2)).tolist() == [runs[2][1]]  # whichever classes are drawn beside it
    assert numbers(sampler.draw([1], 5, "test", 2)).tolist() == [runs[2][1][:5]]
    assert numbers(sampler.draw([1], 8, "another", 2)).tolist() != [runs[2][1]]


def test_two_classes_of_the_same_size_are_drawn_differently():
    sampler = ClassSampler(numbered([50, 50], shuffle=False), 0)
    first, second = sampler.indices(range(2), 50, "test")
    assert (first != second - 50).any()


def test_global_random_numbers_are_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    drawn(ClassSampler(numbered([9, 9]), 0), 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_differ_from_one_another():
    sampler = ClassSampler(numbered([50, 50]), 0)
    assert drawn(sampler, 8, 0) != drawn(sampler, 8, 1)


def test_all_images_of_a_class_are_drawn_equally_often():
    data = numbered([8, 8])
    sampler = ClassSampler(data, 0)
    times = torch.zeros(16)
    for moment in range(2000):
        times += torch.bincount(torch.cat(sampler.indices(range(2), 4, "test", moment)), minlength=16)
    assert torch.all((times - 1000).abs() < 5 * (2000 * 0.5 * 0.5) ** 0.5)  # five standard deviations


def test_a_batch_as_large_as_the_class_is_the_class_in_another_order():
    data = numbered([20, 20], shuffle=False)
    first, second = drawn(ClassSampler(data, 0), 20)
    assert sorted(first) == list(range(20))
    assert first != sorted(first)
    assert sorted(second) == list(range(20, 40))


def test_classes_that_have_enough_are_drawn_at_once():
    sampler = ClassSampler(numbered([5, 9, 7]), 0)
    images = sampler.draw(range(3), 5, "test", 0)
    assert images.shape == (3, 5, 1, 1, 2)
    assert numbers(images).tolist() == drawn(sampler, 5)


def test_classes_that_give_different_numbers_are_refused_together():
    with pytest.raises(UsageError, match=r"some of these classes have fewer than 5 images; draw .* a group at a time"):
        ClassSampler(numbered([5, 3]), 0).draw(range(2), 5, "test")


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (9, [[0], [1, 2], [3, 4, 5]]),
        (2, [[0], [1, 2], [3, 4], [5]]),
        (1, [[0], [1], [2], [3], [4], [5]]),
    ],
)
def test_groups_are_of_neighbours_with_equally_many_images(most, expected):
    groups = class_groups([5, 3, 3, 5, 5, 5], most)
    assert [list(group.numbers) for group in groups] == expected
    assert [group.classes.tolist() for group in groups] == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_are_normalised_when_they_are_drawn(dtype):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (12, 3, 4, 5), dtype=np.uint8))
    data = ImageData.of(images, torch.arange(12) % 2)
    sampler = ClassSampler(data, 4, dtype)
    found = sampler.draw(range(2), 3, "test")
    chosen = torch.stack(sampler.indices(range(2), 3, "test"))
    expected = (images[chosen].double() / 255 - torch.tensor(data.mean).view(3, 1, 1).double()) / torch.tensor(data.std).view(
        3, 1, 1
    ).double()
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=NORMALISED[torch.float32])


def test_the_images_of_the_set_are_not_changed():
    data = numbered([9, 9])
    before = data.images.clone()
    drawn(ClassSampler(data, 0), 4)
    assert torch.equal(data.images, before)


def test_drawing_never_copies_the_whole_set():
    images = torch.randint(0, 256, (4000, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ImageData.of(images, torch.arange(4000) % 10)
    with LargestResult(images.untyped_storage()) as largest:
        ClassSampler(data, 0).draw(range(10), 8, "test")
    batch = 10 * 8 * 28 * 28 * 4  # the normalised images
    assert batch <= largest.bytes < images.nbytes / 10


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=8), batch=st.integers(1, 14), seed=st.integers(0, 1 << 40))
def test_any_class_sizes_and_any_batch_give_each_class_its_own_images(counts, batch, seed):
    data = numbered(counts)
    rows = drawn(ClassSampler(data, seed), batch)
    assert [len(row) for row in rows] == [min(batch, count) for count in counts]
    assert [len(set(row)) for row in rows] == [len(row) for row in rows]
    assert [set(data.labels[row].tolist()) for row in rows] == [{c} for c in range(len(counts))]


@settings(max_examples=60, deadline=None)
@given(ipc=st.lists(st.integers(1, 3), min_size=1, max_size=12), most=st.integers(1, 14), same=st.booleans())
def test_any_groups_by_learned_images_hold_every_class_once_wherever_it_stands_and_are_as_few_as_can_be(ipc, most, same):
    counts = [8] * len(ipc) if same else list(range(len(ipc)))
    groups = class_groups(counts, most, ipc=ipc)
    assert sorted(number for group in groups for number in group.numbers) == list(range(len(ipc)))
    assert all(list(group.numbers) == sorted(group.numbers) == group.classes.tolist() and len(group) <= most for group in groups)
    assert all(len({ipc[number] for number in group.numbers}) == 1 for group in groups)
    fewest = sum(math.ceil(ipc.count(number) / most) for number in set(ipc)) if same else len(ipc)
    assert len(groups) == fewest


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=12), most=st.integers(1, 14))
def test_any_groups_hold_every_class_once_in_order_and_are_as_few_as_can_be(counts, most):
    groups = class_groups(counts, most)
    assert [number for group in groups for number in group.numbers] == list(range(len(counts)))
    assert all(len({counts[number] for number in group.numbers}) == 1 and len(group) <= most for group in groups)
    for before, after in itertools.pairwise(groups):
        assert len(before) == most or counts[before.numbers[-1]] != counts[after.numbers[0]]


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=6), batch=st.integers(1, 14), seed=st.integers(0, 1 << 40))
def test_any_seed_draws_the_same_images_again(counts, batch, seed):
    data = numbered(counts)
    assert drawn(ClassSampler(data, seed), batch) == drawn(ClassSampler(data, seed), batch)
