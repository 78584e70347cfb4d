"""K-means and its medoids, against plain scripts; the coreset, and the start of a condensation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from helpers import noise_data, relative
from tolerances import FLOAT64_CLOSED_FORM
from torch import Tensor

import fastdc
from fastdc.condensed import CondensedDataset
from fastdc.data import ImageData
from fastdc.data import k_means as module
from fastdc.data.k_means import k_means, medoids
from fastdc.recipe.formation import fitted_formation


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


@pytest.mark.parametrize(("points", "count"), [(1, 1), (7, 7), (63, 2), (129, 10)])
def test_centres_are_those_of_a_plain_script(points: int, count: int) -> None:
    features = normal(points, 5)
    centres = features[module._spread(features, count, generator())].clone()
    assert len(centres.unique(dim=0)) == count
    for _ in range(10):
        nearest = [min(range(count), key=lambda k: float((point - centres[k]).norm())) for point in features]
        centres = torch.stack([torch.stack([p for p, k in zip(features, nearest, strict=True) if k == c]).mean(0) for c in range(count)])
    assert relative(k_means(features, count, generator()), centres) < FLOAT64_CLOSED_FORM


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("count", [1, 3, 20, 60])
def test_medoids_are_the_nearest_that_no_centre_has_taken_before(count: int, offset: float) -> None:
    features = normal(60, 5) + offset
    free = set(range(60))
    centres = k_means(features - features.mean(0), count, generator()) + features.mean(0)
    for centre, chosen in zip(centres, medoids(features, count, generator()).tolist(), strict=True):
        distances = (features - centre).norm(dim=1)
        assert chosen in free
        assert distances[chosen] < distances[list(free)].min() + FLOAT64_CLOSED_FORM  # two may be equally near
        free.remove(chosen)


def test_groups_that_lie_apart_have_a_medoid_each() -> None:
    groups = torch.arange(8).repeat_interleave(5)
    features = 100 * torch.eye(8, dtype=torch.float64)[groups] + normal(40, 8)
    for seed in range(20):
        assert sorted(groups[medoids(features, 8, generator(seed))].tolist()) == list(range(8))


def test_points_are_drawn_with_the_square_of_their_distance() -> None:
    features = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)[:, None]
    pairs = Counter(tuple(module._spread(features, 2, generator(seed)).tolist()) for seed in range(3000))
    for first, chance in ((0, 9 / 10), (1, 4 / 5)):  # of the last one, after the first: 9 to 1, and 4 to 1
        drawn = sum(pairs[first, other] for other in range(3))
        assert drawn == pytest.approx(1000, abs=100)
        assert pairs[first, 2] / drawn == pytest.approx(chance, abs=0.04)


def test_points_that_are_all_alike_are_taken_once_each() -> None:
    assert sorted(medoids(torch.ones(6, 3), 6, generator()).tolist()) == list(range(6))
    assert sorted(module._spread(torch.ones(6, 3), 6, generator()).tolist()) == list(range(6))
    assert len(set(medoids(torch.ones(600, 3), 40, generator()).tolist())) == 40


def test_the_coreset_takes_an_image_of_each_group_of_a_class() -> None:
    data = noise_data([20, 30, 25])
    groups = torch.arange(len(data)) % 4
    images = data.images // 16
    for number, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):  # one corner bright in each
        images[groups == number, :, row : row + 4, column : column + 4] += 200
    data = ImageData.of(images, data.labels)
    chosen = fastdc.coresets.kmeans(data, 4, seed=3, progress=False).provenance["positions"]
    assert data.labels[chosen].tolist() == [c for c in range(3) for _ in range(4)]
    assert [sorted(groups[chosen[c : c + 4]].tolist()) for c in (0, 4, 8)] == 3 * [[0, 1, 2, 3]]


def test_medoids_tell_more_of_their_class_than_random_images() -> None:
    """By the nearest of a hundred images: 95.1% by the medoids, 91.5% by random ones, the mean of ten seeds each."""
    test = fastdc.load_dataset("digits")[1]

    def accuracy(choose: Callable[..., CondensedDataset], seed: int) -> float:
        chosen = choose("digits", 10, seed=seed)
        distances = torch.cdist(test.normalised(slice(None)).flatten(1), chosen.images.flatten(1))
        return (chosen.labels[distances.argmin(1)] == test.labels).float().mean().item()

    by_medoids, by_random = (
        sum(accuracy(choose, seed) for seed in range(10)) / 10 for choose in (fastdc.coresets.kmeans, fastdc.coresets.random)
    )
    assert by_medoids > by_random + 0.02


@pytest.mark.parametrize(("formation", "each"), [("plain", 1), ("tiles", 4)])
def test_a_condensation_starts_from_the_medoids(formation: str, each: int) -> None:
    options = {"ipc": 2, "model": "mlp:width=8", "iterations": 1, "matching_steps": 1, "batch_real": 8, "lr_images": 1e-30}
    condensed = fastdc.condense("digits", init="kmeans", formation=formation, seed=5, progress=False, **options)
    expected = fastdc.coresets.kmeans("digits", 2 * each, seed=5)
    start = fitted_formation(formation, fastdc.load_dataset("digits")[0]).encode(expected.images.view(10, 2 * each, 1, 8, 8))
    assert torch.equal(condensed.stored.view_as(start), start)


@pytest.mark.parametrize("noise", [1e-6, -1e-6])
def test_of_two_that_are_equally_near_but_for_rounding_it_is_the_first(noise: float) -> None:
    points = torch.tensor([0.0, 1.0, 10.0, 11.0, 20.0, 21.0])[:, None]
    points[::2] -= noise
    for seed in range(5):
        assert sorted(medoids(points, 3, generator(seed)).tolist()) == [0, 2, 4]
