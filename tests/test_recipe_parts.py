"""Augmentations, formations and the matching of features: each against a plain script, and its adjoint by the inner product."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import relative
from tolerances import FLOAT32_ENGINES, FLOAT64_CLOSED_FORM, FLOAT64_ENGINES, GOLDEN_RUN
from torch import Tensor, nn
from torch.func import functional_call

import fastdc
from fastdc.data import ClassSampler
from fastdc.data.image_data import per_channel
from fastdc.engines import make_engine
from fastdc.errors import DataError, UsageError
from fastdc.loop.events import IterationDone
from fastdc.models import build
from fastdc.models.network import NetworkFamily
from fastdc.recipe import AUGMENTATIONS, FORMATIONS, OPTIMIZERS, ClassGroup, Formation, Optimizer
from fastdc.recipe.formation import Scale, chosen_formation, fitted_formation
from fastdc.runtime.seeding import derive_seed
from fastdc.training.operations import OPERATIONS

ALL = ClassGroup.of(range(4))
CHANGES = [*(f"siamese:operations={name}" for name in OPERATIONS), "siamese", "siamese:mode=all", "none"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Operations, against their definitions by torch's own sampling


def sampled(images: Tensor, matrix: Tensor) -> Tensor:
    return F.grid_sample(images, F.affine_grid(matrix, list(images.shape), align_corners=True), align_corners=True)


def expected(name: str, image: Tensor, numbers: Tensor) -> Tensor:
    """One square image [1, channels, H, W] as the authors' scripts change it."""
    numbers, side = numbers[0].double(), image.shape[-1]
    if name == "color":
        image = image + (numbers[0] - 0.5)
        grey = image.mean(1, keepdim=True)
        image = (image - grey) * numbers[1] * 2 + grey
        mean = image.mean((1, 2, 3), keepdim=True)
        return (image - mean) * (numbers[2] + 0.5) + mean
    if name == "crop":
        x, y = numbers.long().tolist()
        return F.pad(image, [side] * 4)[..., side + y : 2 * side + y, side + x : 2 * side + x]
    if name == "cutout":
        x, y, across, down = numbers.long().tolist()
        mask = torch.ones(side, side, dtype=image.dtype)
        mask[max(y - down // 2, 0) : max(y - down // 2 + down, 0), max(x - across // 2, 0) : max(x - across // 2 + across, 0)] = 0
        return image * mask
    if name == "flip":
        return image.flip(3) if numbers[0] < 0.5 else image
    matrix = torch.zeros(1, 2, 3, dtype=image.dtype)
    if name == "scale":
        matrix[0, 0, 0], matrix[0, 1, 1] = numbers
    else:
        matrix[0, :, :2] = torch.stack([numbers.cos(), -numbers.sin(), numbers.sin(), numbers.cos()]).view(2, 2)
    return sampled(image, matrix)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("side", [8, 9])
def test_an_operation_does_what_the_authors_do(name: str, side: int) -> None:
    generator, images = torch.Generator().manual_seed(3), normal(20, 3, side, side)
    numbers = OPERATIONS[name].draw(20, side, side, generator)
    found = OPERATIONS[name].apply(images, numbers)
    for i in range(20):
        assert relative(found[i : i + 1], expected(name, images[i : i + 1], numbers[i : i + 1])) < FLOAT64_CLOSED_FORM
    for i in range(3):  # one draw for all images
        together = OPERATIONS[name].apply(images, numbers[i : i + 1])
        assert relative(together[i], found[i]) < FLOAT64_CLOSED_FORM


def test_draws_stay_in_their_ranges_and_reach_their_ends() -> None:
    draws = {name: operation.draw(4000, 32, 32, torch.Generator().manual_seed(0)).double() for name, operation in OPERATIONS.items()}
    for name, (low, high) in {
        "crop": (-4, 4),
        "scale": (1 / 1.2, 1.2),
        "rotate": (-0.2618, 0.2618),
        "color": (0, 1),
        "flip": (0, 1),
    }.items():
        assert low - 1e-4 <= draws[name].min() < low + 0.01
        assert high - 0.01 < draws[name].max() <= high + 1e-4
    middles, sizes = draws["cutout"].split(2, 1)
    assert (middles.min(), middles.max(), sizes.unique().item()) == (0, 32, 16)


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 5)])
@pytest.mark.parametrize("spec", CHANGES)
def test_a_change_is_affine_and_has_an_exact_adjoint(spec: str, size: tuple[int, int]) -> None:
    augmentation = AUGMENTATIONS.make(spec, 0)
    for step in range(4):
        change = augmentation.draw(ALL, 0, step)
        images, other, gradient = (normal(4, 2, 3, *size, seed=i) for i in range(3))
        origin = change.apply(torch.zeros_like(images))
        moved = change.apply(images + other) - origin
        assert relative(moved, change.apply(images) + change.apply(other) - 2 * origin) < FLOAT64_CLOSED_FORM
        forward, backward = ((change.apply(images) - origin) * gradient).sum(), (images * change.adjoint(gradient)).sum()
        assert abs(forward - backward) < FLOAT64_CLOSED_FORM * (images.norm() * gradient.norm())


def test_both_sides_of_a_class_get_the_same_draw_and_another_class_or_step_another() -> None:
    augmentation = AUGMENTATIONS.make("siamese:operations=rotate", 5)
    image = normal(1, 1, 3, 8, 8).expand(4, 2, 3, 8, 8)
    changed = augmentation.draw(ALL, 0, 0).apply(image)
    assert torch.equal(changed[:, 0], changed[:, 1])
    assert torch.equal(augmentation.draw(ALL, 0, 0).apply(image[:, :1]), changed[:, :1])
    assert torch.equal(augmentation.draw(ClassGroup.of(range(2, 4)), 0, 0).apply(image[2:]), changed[2:])
    others = [changed[0], changed[1], *(augmentation.draw(ALL, *when).apply(image)[0] for when in ((0, 1), (1, 0)))]
    others.append(AUGMENTATIONS.make("siamese:operations=rotate", 6).draw(ALL, 0, 0).apply(image)[0])
    assert all((one != other).any() for one, other in itertools.combinations(others, 2))


def test_one_operation_or_all() -> None:
    images = normal(200, 1, 1, 8, 8)
    group = ClassGroup.of(range(200))
    only_flip_and_cutout = AUGMENTATIONS.make("siamese:operations=flip+cutout", 0).draw(group, 0, 0).apply(images)
    zeros = (only_flip_and_cutout == 0).flatten(1).any(1)
    assert 60 < zeros.sum() < 140  # half of the classes are cut
    both = AUGMENTATIONS.make("siamese:operations=flip+cutout,mode=all", 0).draw(group, 0, 0).apply(images)
    assert (both == 0).flatten(1).any(1).all()


@pytest.mark.parametrize(
    ("spec", "text"),
    [("siamese:operations=color+blur", "unknown operation 'blur'.*cutout"), ("siamese:mode=some", "unknown mode 'some'.*one.*all")],
)
def test_an_unknown_operation_or_mode_is_refused(spec: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        fastdc.condense("digits", ipc=1, augmentation=spec, progress=False)


# Formations

SCALE = Scale((0.5, 0.25), (0.25, 0.5))


def formation_of(spec: str, scale: Scale = SCALE, **fitted: Tensor) -> Formation:
    return FORMATIONS.make(spec, scale, fitted)


def assert_adjoint(formation: Formation, stored: Tensor) -> None:
    images = formation.decode(stored) - formation.decode(torch.zeros_like(stored))
    gradient = normal(*images.shape, seed=1)
    both = (images * gradient).sum(), (stored * formation.adjoint(gradient)).sum()
    assert abs(both[0] - both[1]) < FLOAT64_CLOSED_FORM * stored.norm() * gradient.norm()


@pytest.mark.parametrize(("factor", "size"), [(1, (5, 5)), (2, (8, 8)), (2, (8, 12)), (2, (7, 9)), (3, (9, 9)), (3, (8, 10)), (4, (8, 8))])
def test_tiles_decode_to_enlarged_parts_of_what_is_stored(factor: int, size: tuple[int, int]) -> None:
    formation, stored = formation_of(f"tiles:factor={factor}"), normal(3, 2, 2, *size)
    images = formation.decode(stored)  # [3, 2 * factor^2, 2, H, W]
    assert images.shape == (3, 2 * factor**2, 2, *size)
    height, width = (math.ceil(side / factor) for side in size)
    pixels = stored * per_channel(SCALE.std, stored) + per_channel(SCALE.mean, stored)
    pixels = F.pad(pixels, (0, factor * width - size[1], 0, factor * height - size[0]), value=0.5)
    whole = (pixels - per_channel(SCALE.mean, stored)) / per_channel(SCALE.std, stored)
    for item, row, column in itertools.product(range(2), range(factor), range(factor)):
        tile = whole[:, item, :, row * height : (row + 1) * height, column * width : (column + 1) * width]
        enlarged = F.interpolate(tile, size, mode="bilinear", align_corners=False)
        assert relative(images[:, item * factor**2 + row * factor + column], enlarged) < FLOAT64_CLOSED_FORM
    assert_adjoint(formation, stored)


@pytest.mark.parametrize(("factor", "size"), [(2, (7, 9)), (3, (8, 10))])
def test_tiles_take_up_images_whose_sides_the_factor_does_not_divide(factor: int, size: tuple[int, int]) -> None:
    formation, images = formation_of(f"tiles:factor={factor}"), torch.full((1, factor**2, 2, *size), 0.7, dtype=torch.float64)
    stored = formation.encode(images)
    assert stored.shape == (1, 1, 2, *size)
    torch.testing.assert_close(stored, torch.full_like(stored, 0.7))


def test_tiles_of_smooth_images_come_back_nearly_as_they_were() -> None:
    y, x = torch.meshgrid(*[torch.linspace(0, 1, 32, dtype=torch.float64)] * 2, indexing="ij")
    images = torch.stack([x, y, x * y, 1 - x])[None, :, None]  # [1, 4, 1, 32, 32]
    formation = formation_of("tiles")
    stored = formation.encode(images)
    assert stored.shape == (1, 1, 1, 32, 32)
    assert (formation.decode(stored) - images).abs().max() < 0.05


def test_a_set_of_tiles_says_what_it_stores_and_what_it_trains_as() -> None:
    options = {"model": "convnet:width=8", "iterations": 2, "batch_real": 8, "matching_steps": 2, "model_epochs": 1, "progress": False}
    condensed = fastdc.condense("digits", ipc=1, formation="tiles", init="real", **options)
    assert repr(condensed).startswith("CondensedDataset(40 images 1x8x8 in the storage of 10 (tiles:factor=2,clamp=false)")
    assert condensed.storage_bytes == 10 * 64 * 4
    assert condensed.labels.tolist() == [c for c in range(10) for _ in range(4)]


def test_tiles_of_more_images_than_a_class_has_are_refused_with_the_most_that_there_can_be() -> None:
    with pytest.raises(UsageError, match=r"ipc is 50, each of 4 images, but class .* use an ipc of \d\d or less, or init='noise'"):
        fastdc.condense("digits", ipc=50, formation="tiles", init="real", progress=False)
    for factor in (5, 9):  # the last of five tiles of two pixels would lie outside
        with pytest.raises(UsageError, match=f"tiles of factor {factor} leave nothing of images of 8x8; give a smaller factor"):
            fastdc.condense("digits", ipc=1, formation=f"tiles:factor={factor}", iterations=0, progress=False)


def cosine(side: int, frequency: int) -> Tensor:
    """One wave of the orthonormal discrete cosine transform, [side]."""
    wave = torch.tensor([math.cos(math.pi * frequency * (2 * x + 1) / (2 * side)) for x in range(side)], dtype=torch.float64)
    return wave / wave.norm()


@pytest.mark.parametrize(("images", "size"), [(1, (4, 4)), (4, (4, 6)), (3, (5, 7)), (16, (4, 6)), (24, (4, 6))])
def test_frequency_decodes_to_sums_of_the_cosines_that_are_kept(images: int, size: tuple[int, int]) -> None:
    height, width = size
    keep = height * width // images
    kept = torch.randperm(height * width, generator=torch.Generator().manual_seed(0))[:keep].sort().values
    formation, stored = formation_of(f"frequency:images={images},clamp=false", frequencies=kept), normal(3, 2, 2, *size)
    decoded = formation.decode(stored)
    assert decoded.shape == (3, 2 * images, 2, *size)
    waves = torch.stack([torch.outer(cosine(height, k // width), cosine(width, k % width)) for k in kept.tolist()])  # [K, H, W]
    for item, place in itertools.product(range(2), range(images)):
        weights = stored.flatten(-2)[:, item, :, place * keep : (place + 1) * keep]  # [C, channels, K]
        assert relative(decoded[:, item * images + place], torch.einsum("cik,khw->cihw", weights, waves)) < FLOAT64_CLOSED_FORM
    assert_adjoint(formation, stored)
    used = formation.encode(decoded).flatten(-2)[..., : images * keep]
    assert relative(used, stored.flatten(-2)[..., : images * keep]) < FLOAT64_CLOSED_FORM
    assert not formation.encode(decoded).flatten(-2)[..., images * keep :].any()


def test_frequency_keeps_what_varies_most_among_the_real_images() -> None:
    train, _ = fastdc.load_dataset("digits")
    down = torch.stack([cosine(8, k) for k in range(8)])
    variance = (down @ train.normalised(slice(None), torch.float64)[:, 0] @ down.T).var(0).flatten()
    kept = fitted_formation("frequency:images=5", train).fitted["frequencies"]
    assert len(kept) == 12
    assert set(kept.tolist()) == set(variance.argsort(descending=True)[:12].tolist())
    assert kept.tolist() == sorted(kept.tolist())


def test_frequency_cuts_pixels_at_0_and_1_and_lets_gradients_past_the_cut() -> None:
    kept = torch.arange(16)
    cut, free = (formation_of(f"frequency:images=1,clamp={clamp}", frequencies=kept) for clamp in ("true", "false"))
    stored = 3 * normal(2, 3, 2, 4, 4)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(2, 1, 1) for values in (SCALE.mean, SCALE.std))
    pixels = free.decode(stored) * std + mean
    assert ((pixels < 0) | (pixels > 1)).any()
    assert relative(cut.decode(stored) * std + mean, pixels.clamp(0, 1)) < FLOAT64_CLOSED_FORM
    gradient = normal(2, 3, 2, 4, 4, seed=1)
    assert torch.equal(cut.adjoint(gradient), free.adjoint(gradient))


@pytest.mark.parametrize("spec", ["plain", "tiles"])
def test_pixels_that_are_stored_come_back_to_0_and_1_where_it_is_asked_for(spec: str) -> None:
    stored = 3 * normal(2, 3, 2, 4, 4)
    free, clamped = stored.clone(), stored.clone()
    formation_of(spec).settle(free)
    formation_of(f"{spec}:clamp=true").settle(clamped)
    assert torch.equal(free, stored)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(2, 1, 1) for values in (SCALE.mean, SCALE.std))
    assert relative(clamped * std + mean, (stored * std + mean).clamp(0, 1)) < FLOAT64_CLOSED_FORM


def test_a_run_clamps_what_is_stored_after_each_network() -> None:
    options = {"model": "convnet:width=8", "iterations": 1, "matching_steps": 2, "model_epochs": 1, "batch_real": 8, "progress": False}
    pixels = [
        condensed.images * condensed.std[0] + condensed.mean[0]
        for clamp in ("true", "false")
        for condensed in [fastdc.condense("digits", ipc=1, formation=f"plain:clamp={clamp}", **options)]
    ]
    assert relative(pixels[0], pixels[1].clamp(0, 1)) < FLOAT32_ENGINES
    assert pixels[1].min() < 0


def test_a_set_of_frequencies_keeps_what_it_needs_in_its_file(tmp_path: Path) -> None:
    options = {"model": "convnet:width=8", "iterations": 2, "batch_real": 8, "matching_steps": 2, "model_epochs": 1, "progress": False}
    condensed = fastdc.condense("digits", ipc=2, formation="frequency:images=5", init="real", **options)
    assert repr(condensed).startswith("CondensedDataset(100 images 1x8x8 in the storage of 20 (frequency:images=5,clamp=true)")
    assert condensed.storage_bytes == 20 * 64 * 4
    assert condensed.labels.tolist() == [c for c in range(10) for _ in range(10)]
    assert condensed.images.min() >= (0 - condensed.mean[0]) / condensed.std[0] - 1e-6
    condensed.save(tmp_path / "set.safetensors")
    again = fastdc.CondensedDataset.load(tmp_path / "set.safetensors")
    for name in ("images", "stored", "labels"):
        assert torch.equal(getattr(again, name), getattr(condensed, name))
    assert again.formation == condensed.formation


@pytest.mark.parametrize(
    ("fitted", "text"),
    [
        ({}, "lacks 'frequencies'"),
        ({"frequencies": torch.arange(20)}, r"frequencies \[20\] do not fit 4 images in the storage of one of 64 values; .* 16 of them"),
        ({"frequencies": torch.tensor([0, 64])}, "from 0 to 63"),
        ({"frequencies": torch.tensor([-1, 3])}, "from 0 to 63"),
        ({"frequencies": torch.tensor([0.5])}, "expected int64"),
    ],
)
def test_frequencies_that_do_not_fit_are_refused(fitted: dict[str, Tensor], text: str) -> None:
    content = {"mean": [0.5], "std": [0.5], "class_names": ["a", "b"], "formation": "frequency:images=4"}
    with pytest.raises(DataError, match=text):
        fastdc.CondensedDataset(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), fitted=fitted, **content)
    content = {**content, "mean": [0.5, 0.5], "std": [0.5, 0.5]}
    with pytest.raises(DataError, match="1 channels, mean has 2"):
        fastdc.CondensedDataset(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), fitted={"frequencies": torch.arange(16)}, **content)


@pytest.mark.parametrize(
    ("smooth", "ipc", "images"),
    [(True, [1, 1], 16), (True, [10, 10], 8), (True, [50, 50], 4), (True, [1, 7], 8), (True, [200, 200], 2), (False, [1, 1], 1)],
)
def test_as_many_images_as_the_number_per_class_and_the_real_ones_allow(smooth: bool, ipc: list[int], images: int) -> None:
    """Images of eight waves hold all their variance in 8 of 256 frequencies; those of noise spread it over all."""
    generator = torch.Generator().manual_seed(0)
    waves = torch.stack([torch.outer(cosine(16, k // 3), cosine(16, k % 3)) for k in range(8)])
    mixed = torch.einsum("nk,khw->nhw", torch.randn(800, 8, dtype=torch.float64, generator=generator), waves)
    pixels = mixed if smooth else torch.randn(800, 16, 16, dtype=torch.float64, generator=generator)
    pixels = ((pixels - pixels.min()) / (pixels.max() - pixels.min()) * 255).round().to(torch.uint8)[:, None]
    real = fastdc.ImageData.of(pixels, torch.arange(800) % 2)
    assert chosen_formation("frequency", real, ipc) == f"frequency:images={images},clamp=true"
    assert chosen_formation("frequency:images=3", real, ipc) == "frequency:images=3,clamp=true"
    assert chosen_formation("tiles", real, ipc) == "tiles:factor=2,clamp=false"


def test_a_class_of_few_images_bounds_how_many_are_chosen() -> None:
    shades = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 1, 16, 16)  # one frequency says it all
    real = fastdc.ImageData.of(shades, torch.tensor([0] * 5 + [1] * 5))
    assert chosen_formation("frequency", real, [1, 2]) == "frequency:images=2,clamp=true"


def test_without_learning_a_run_gives_its_start() -> None:
    """Medoids of k-means, as many as the formation holds, put through it."""
    untrained = fastdc.condense("digits", ipc=2, method="untrained", formation="frequency:images=3", progress=False)
    medoids = fastdc.coresets.kmeans("digits", ipc=6, progress=False).images.unflatten(0, (10, 6))
    formation = fitted_formation("frequency:images=3", fastdc.load_dataset("digits")[0])
    assert torch.equal(untrained.images, formation.decode(formation.encode(medoids)).flatten(0, 1))
    start = fastdc.condense("digits", ipc=2, method="auto", iterations=0, formation="frequency:images=3", progress=False)
    assert torch.equal(untrained.images, start.images)
    assert fastdc.condense("digits", ipc=2, method="untrained", progress=False).formation == "frequency:images=2,clamp=true"


def test_auto_learns_more_than_its_start_has() -> None:
    options = {"model": "convnet:width=16", "progress": False}
    train, test = fastdc.load_dataset("digits")
    accuracies = [
        fastdc.evaluate(fastdc.condense(train, 1, method="auto", iterations=count, **options), test, networks=2, epochs=100, **options).mean
        for count in (0, 10)
    ]
    assert accuracies[1] > accuracies[0] > 0.7


def test_a_file_that_does_not_say_how_many_images_is_refused() -> None:
    content = {"mean": [0.5], "std": [0.5], "class_names": ["a", "b"], "formation": "frequency"}
    with pytest.raises(DataError, match="does not say how many images"):
        fastdc.CondensedDataset(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), fitted={"frequencies": torch.arange(16)}, **content)


def test_more_images_than_frequencies_are_refused() -> None:
    with pytest.raises(UsageError, match="images=65 leaves no frequency of images of 8x8; give fewer images"):
        fastdc.condense("digits", ipc=1, formation="frequency:images=65", progress=False)


# Optimizers


@pytest.mark.parametrize(
    ("spec", "plain"),
    [
        ("sgd:momentum=0.7", lambda leaf: torch.optim.SGD([leaf], 0.1, momentum=0.7)),
        ("sgd", lambda leaf: torch.optim.SGD([leaf], 0.1, momentum=0.5)),
        ("adam", lambda leaf: torch.optim.Adam([leaf], 0.1, eps=0)),
        ("adam:beta1=0.5,beta2=0.9,decay=0.01", lambda leaf: torch.optim.AdamW([leaf], 0.1, (0.5, 0.9), eps=0, weight_decay=0.01)),
    ],
)
def test_an_optimizer_moves_as_that_of_torch(spec: str, plain: Callable[[Tensor], torch.optim.Optimizer]) -> None:
    optimizer, stored, leaf = OPTIMIZERS.make(spec), normal(3, 4), normal(3, 4).requires_grad_()
    moments, other = {name: torch.zeros_like(stored) for name in optimizer.moments}, plain(leaf)
    for count in range(4):
        gradient = normal(3, 4, seed=count + 1)
        optimizer.step(stored, gradient, moments, 0.1, count)
        leaf.grad = gradient
        other.step()
    assert relative(stored, leaf.detach()) < FLOAT64_CLOSED_FORM


def test_adam_stays_where_there_is_no_gradient() -> None:
    optimizer, stored = OPTIMIZERS.make("adam"), torch.ones(3)
    optimizer.step(stored, torch.zeros(3), {name: torch.zeros(3) for name in optimizer.moments}, 0.1, 0)
    assert torch.equal(stored, torch.ones(3))


@pytest.mark.parametrize(("schedule", "factors"), [("constant", [1, 1, 1, 1]), ("linear", [1, 0.75, 0.5, 0.25]), ("cosine", None)])
def test_the_learning_rate_falls_as_the_schedule_says(schedule: str, factors: list[float] | None) -> None:
    """With gradients that do not depend on the images, each step moves them by its rate."""
    rates: list[float] = []

    class Watched(Optimizer):
        def step(self, stored: Tensor, gradient: Tensor, moments: Mapping[str, Tensor], rate: float, count: int) -> None:
            rates.append(rate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OPTIMIZERS, "_entries", {**OPTIMIZERS._entries, "watched": Watched})
        options = {"model": "mlp:width=8", "iterations": 2, "matching_steps": 2, "batch_real": 4, "progress": False}
        fastdc.condense("digits", 1, optimizer="watched", schedule=schedule, lr_images=0.2, model_epochs=1, **options)
    expected = factors or [(1 + math.cos(math.pi * share)) / 2 for share in (0, 0.25, 0.5, 0.75)]
    assert rates == pytest.approx([0.2 * factor for factor in expected])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"optimizer": "rmsprop"}, "unknown optimizer 'rmsprop'"),
        ({"optimizer": "sgd:momentum=1"}, "momentum is 1.0; expected a number from 0 to below 1"),
        ({"optimizer": "adam:beta2=-0.1"}, "beta2 is -0.1"),
        ({"optimizer": "adam:decay=-1"}, "decay is -1.0; expected 0 or more"),
        ({"schedule": "step"}, "unknown schedule 'step'"),
    ],
)
def test_an_optimizer_or_schedule_that_cannot_be_used_is_refused(options: dict[str, str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        fastdc.condense("digits", ipc=1, progress=False, **options)


@pytest.mark.parametrize("options", [{"optimizer": "adam"}, {"schedule": "linear"}, {"formation": "frequency:images=4"}])
def test_a_stopped_run_with_any_optimizer_and_schedule_ends_in_the_same_bits(options: dict[str, str], tmp_path: Path) -> None:
    small = {"model": "mlp:width=8", "iterations": 3, "matching_steps": 2, "model_epochs": 1, "batch_real": 4, "progress": False}
    straight = fastdc.condense("digits", 1, **small, **options)

    def stop(event: object) -> None:
        if isinstance(event, IterationDone) and event.iteration == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fastdc.condense("digits", 1, **small, **options, out=tmp_path, callbacks=[stop])
    again = fastdc.condense("digits", 1, **small, **options, out=tmp_path)
    assert torch.equal(again.stored, straight.stored)
    with pytest.raises(UsageError, match="iterations") if "schedule" in options else contextlib.nullcontext():
        fastdc.condense("digits", 1, **{**small, "iterations": 4}, **options, out=tmp_path)


# Features


@pytest.mark.parametrize("engine", ["reference", "torch", "torch:memory=1", "native"])
def test_features_and_their_gradients_are_those_of_a_plain_script(engine: str) -> None:
    train, _ = fastdc.load_dataset("digits")
    module = build("convnet:width=8", 1, 10, (8, 8)).double()
    made = make_engine(engine, module)
    theta, weights = made.layout.flatten(module), dict(module.named_parameters())
    images = normal(10, 3, 1, 8, 8)
    real = torch.stack([train.normalised(members[:7], torch.float64) for members in train.class_members])  # [10, 7, 1, 8, 8]

    def features(some: Tensor) -> Tensor:
        of_maps = {name: weights[f"features.{name}"] for name, _ in module.features.named_parameters()}
        return functional_call(module.features, of_maps, (some,)).flatten(1)

    plain = images.clone().requires_grad_()
    loss = sum(((features(plain[c]).mean(0) - features(real[c]).mean(0)) ** 2).sum() for c in range(10))
    found = made.features(theta, images.flatten(0, 1))
    assert relative(found, features(images.flatten(0, 1)).detach()) < FLOAT64_ENGINES
    difference = found.unflatten(0, (10, 3)).mean(1) - made.features(theta, real.flatten(0, 1)).unflatten(0, (10, 7)).mean(1)
    cotangent = (2 / 3 * difference)[:, None].expand(10, 3, -1).flatten(0, 1)
    gradient = made.feature_gradients(theta, images.flatten(0, 1), cotangent).view_as(images)
    assert relative(gradient, torch.autograd.grad(loss, plain)[0]) < FLOAT64_ENGINES


def test_a_network_without_a_linear_layer_has_no_features() -> None:
    def network(channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, num_classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    with pytest.raises(UsageError, match=r"Sequential calls no nn\.Linear, whose input would be the features; choose a network that does"):
        fastdc.condense("digits", ipc=1, method="dm", model=network, iterations=1, progress=False)


@pytest.mark.parametrize("engine", ["reference", "torch", "native"])
def test_three_steps_of_dm_equal_a_plain_script(engine: str) -> None:
    """Real images by the sampler, whose draws are tested elsewhere; the rest is written out."""
    train, _ = fastdc.load_dataset("digits")
    options = {"ipc": 2, "method": "dm", "model": "convnet:width=8", "augmentation": "none", "batch_real": 6, "engine": engine}
    found, start = (fastdc.condense("digits", iterations=3, lr_images=rate, progress=False, **options).images for rate in (1.0, 1e-30))
    family = NetworkFamily("convnet:width=8", 1, 10, (8, 8), torch.device("cpu"))
    images, velocity = start.clone().view(10, 2, 1, 8, 8), torch.zeros(10, 2, 1, 8, 8)
    for step in range(3):
        network = family.fresh(derive_seed(0, "network", step))
        real = ClassSampler(train, 0).draw(range(10), 6, "real images", step, 0, 0)
        leaf = images.clone().requires_grad_()
        means = [[network.features(side[c]).flatten(1).mean(0) for c in range(10)] for side in (leaf, real)]
        loss = sum(((one - other) ** 2).sum() for one, other in zip(*means, strict=True))
        velocity = 0.5 * velocity + torch.autograd.grad(loss, leaf)[0]
        images = images - velocity
    assert relative(found - start, images.flatten(0, 1) - start) < GOLDEN_RUN


class HeadFirst(nn.Module):
    """Its layers are called in another order than they are registered in, and one is not called."""

    def __init__(self, channels: int, num_classes: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.head = nn.Linear(5, num_classes)
        self.body = nn.Linear(channels * image_size[0] * image_size[1], 5)
        self.unused = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images.flatten(1)).tanh())


@pytest.mark.parametrize("engine", ["reference", "torch"])
def test_features_are_those_of_the_last_linear_layer_that_is_called(engine: str) -> None:
    module, images = HeadFirst(1, 10, (8, 8)), torch.randn(3, 1, 8, 8)
    made = make_engine(engine, module)
    assert relative(made.features(made.layout.flatten(module), images), module.body(images.flatten(1)).tanh().detach()) < FLOAT32_ENGINES


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2, 64), torch.zeros(1, 8, 8)], ids=["uint8", "rows", "one"]
)
def test_what_is_no_set_of_images_is_refused_before_it_is_decoded(images: Tensor) -> None:
    with pytest.raises(DataError, match=r"expected float \[N, channels, H, W\]"):
        fastdc.CondensedDataset(images, torch.tensor([0, 1]), formation="tiles", mean=[0], std=[1], class_names=["a", "b"])
