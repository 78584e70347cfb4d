"""Augmentations, formations and the matching of features: each against a plain script, and its adjoint by the inner product."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from helpers import relative
from tolerances import FLOAT32_ENGINES, FLOAT64_CLOSED_FORM, FLOAT64_ENGINES, GOLDEN_RUN
from torch import Tensor, nn
from torch.func import functional_call

import fastdc
from fastdc.data import ClassSampler
from fastdc.engines import make_engine
from fastdc.errors import DataError, UsageError
from fastdc.models import build
from fastdc.models.network import NetworkFamily
from fastdc.recipe import AUGMENTATIONS, FORMATIONS, ClassGroup
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


@pytest.mark.parametrize(("factor", "size"), [(1, (5, 5)), (2, (8, 8)), (2, (8, 12)), (2, (7, 9)), (3, (9, 9)), (3, (8, 10)), (4, (8, 8))])
def test_tiles_decode_to_enlarged_parts_of_what_is_stored(factor: int, size: tuple[int, int]) -> None:
    formation, stored = FORMATIONS.make(f"tiles:factor={factor}"), normal(3, 2, 2, *size)
    images = formation.decode(stored)  # [3, 2 * factor^2, 2, H, W]
    assert images.shape == (3, 2 * factor**2, 2, *size)
    height, width = (side // factor for side in size)
    for item, row, column in itertools.product(range(2), range(factor), range(factor)):
        tile = stored[:, item, :, row * height : (row + 1) * height, column * width : (column + 1) * width]
        enlarged = F.interpolate(tile, size, mode="bilinear", align_corners=False)
        assert relative(images[:, item * factor**2 + row * factor + column], enlarged) < FLOAT64_CLOSED_FORM
    gradient = normal(*images.shape, seed=1)
    assert (
        abs((images * gradient).sum() - (stored * formation.adjoint(gradient)).sum())
        < FLOAT64_CLOSED_FORM * stored.norm() * gradient.norm()
    )


def test_tiles_of_smooth_images_come_back_nearly_as_they_were() -> None:
    y, x = torch.meshgrid(*[torch.linspace(0, 1, 32, dtype=torch.float64)] * 2, indexing="ij")
    images = torch.stack([x, y, x * y, 1 - x])[None, :, None]  # [1, 4, 1, 32, 32]
    formation = FORMATIONS.make("tiles")
    stored = formation.encode(images)
    assert stored.shape == (1, 1, 1, 32, 32)
    assert (formation.decode(stored) - images).abs().max() < 0.05


def test_a_set_of_tiles_says_what_it_stores_and_what_it_trains_as() -> None:
    options = {"model": "convnet:width=8", "iterations": 2, "batch_real": 8, "matching_steps": 2, "model_epochs": 1, "progress": False}
    condensed = fastdc.condense("digits", ipc=1, formation="tiles", init="real", **options)
    assert repr(condensed).startswith("CondensedDataset(40 images 1x8x8 in the storage of 10 (tiles:factor=2)")
    assert condensed.storage_bytes == 10 * 64 * 4
    assert condensed.labels.tolist() == [c for c in range(10) for _ in range(4)]


def test_tiles_of_more_images_than_a_class_has_are_refused_with_the_most_that_there_can_be() -> None:
    with pytest.raises(UsageError, match=r"ipc is 50, each of 4 images, but class .* use an ipc of \d\d or less, or init='noise'"):
        fastdc.condense("digits", ipc=50, formation="tiles", init="real", progress=False)
    with pytest.raises(UsageError, match="tiles of factor 9 leave nothing of images of 8x8; give a smaller factor"):
        fastdc.condense("digits", ipc=1, formation="tiles:factor=9", progress=False)


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
