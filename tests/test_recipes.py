"""Recipes: each against a plain eager script, its published numbers, one engine against another, and runs that were stopped."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import needs_extension, noise_data, relative
from test_matches import plain_characteristic, plain_features, plain_gradients
from test_recipe_parts import cosine, expected
from test_resume import MOMENTS, PROCESSES, assert_same_run, read_state
from tolerances import FLOAT32_ENGINES, NATIVE_RUN, RECIPE_FLOAT64
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

import fastdc
from fastdc.callbacks import CheckpointWritten, Event
from fastdc.data.k_means import medoids
from fastdc.errors import UsageError
from fastdc.loop.config import CondenseConfig, as_plain, resolved
from fastdc.loop.loop import Condensation
from fastdc.models.network import NetworkFamily
from fastdc.recipe import AUGMENTATIONS, SCALES, recipe_named
from fastdc.recipe.augmentations import NoAugmentation, Siamese
from fastdc.recipe.formation import chosen_formation
from fastdc.recipe.pools.pretrained import Pretrained
from fastdc.recipe.state import State
from fastdc.runtime.seeding import derive_seed, make_generator
from fastdc.training import whole_set
from fastdc.training.augment import training_augmentation
from fastdc.training.operations import OPERATIONS

pytestmark = pytest.mark.usefixtures("one_thread")
ENGINES = ["reference", "torch", pytest.param("native", marks=needs_extension)]
IPC, BATCH, NETWORKS, STEPS = 2, 6, 2, 2
DSA = ["color", "crop", "cutout", "flip", "scale", "rotate"]
THREE = DSA[:3]
QUICK: dict[str, Any] = {"model": "convnet:width=8", "progress": False}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where networks are kept that are trained beforehand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole_set, "DEFAULT_CACHE", folder := tmp_path_factory.mktemp("networks"))
        yield folder


# The plain scripts. What is drawn comes from the library, by its keys; what is done with it is written out.


class Draws:
    """What a run draws: networks, real images, and what changes them."""

    def __init__(self, run: Condensation) -> None:
        self.run, self.data = run, run.real
        (self.mean,), (self.std,) = run.real.mean, run.real.std

    def pixels(self, index: Tensor) -> Tensor:
        return (self.data.images[index].double() / 255 - self.mean) / self.std

    def real(self, k: int, t: int, c: int) -> Tensor:
        return self.pixels(self.run.sampler.indices([c], BATCH, "real images", k, t, 0)[0])

    def network(self, k: int) -> nn.Module:
        return self.with_weights(self.run.family.fresh_weights(derive_seed(0, "network", k)))

    def pretrained(self, k: int) -> tuple[nn.Module, nn.Module, torch.Generator]:
        """A network trained beforehand, one with its first weights, and the generator of what changes them."""
        generator, made = make_generator(0, "pretrained", k), self.run.pool._networks
        trained, first = made[int(torch.randint(len(made), (), generator=generator))]
        return self.with_weights(trained), self.with_weights(first), generator

    def with_weights(self, theta: Tensor) -> nn.Module:
        network = self.run.family.fresh(0).double()
        vector_to_parameters(theta.clone(), network.parameters())
        return network

    def clamp(self, stored: Tensor) -> None:
        with torch.no_grad():
            stored.copy_(((stored * self.std + self.mean).clamp(0, 1) - self.mean) / self.std)

    def learn_real_images(
        self, network: nn.Module, sgd: torch.optim.Optimizer, k: int, t: int, augment: Any = None, batch: int = 64
    ) -> None:
        generator = make_generator(0, "training images", k, t)
        for index in torch.randperm(len(self.data), generator=generator)[:500].split(batch):
            images, labels = self.pixels(index), self.data.labels[index]
            if augment is not None:
                images, labels = augment(images, labels, generator)
            descend(sgd, F.cross_entropy(network(images), labels))


def changed(images: Tensor, names: Sequence[str], mode: str, k: int, t: int, c: int) -> Tensor:
    """Images [n, channels, H, W] after the operations that are drawn for a class."""
    generator = make_generator(0, "augmentation", k, t, c)
    names = names if mode == "all" else [names[int(torch.randint(len(names), (), generator=generator))]]
    for name, seed in zip(names, torch.randint(1 << 31, (len(names),), generator=generator).tolist(), strict=True):
        numbers = OPERATIONS[name].draw(1, 8, 8, torch.Generator().manual_seed(seed))
        images = torch.cat([expected(name, image[None], numbers) for image in images])
    return images


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of all that the optimizer moves."""
    leaves = [leaf for group in optimizer.param_groups for leaf in group["params"]]
    for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
        leaf.grad = gradient
    optimizer.step()


def gradients(network: nn.Module, images: Tensor, c: int) -> list[Tensor]:
    return plain_gradients(network, dict(network.named_parameters()), images, c)


def features(network: nn.Module, images: Tensor) -> Tensor:
    return plain_features(network, dict(network.named_parameters()), images)


def entropy(network: nn.Module, images: Tensor, c: int) -> Tensor:
    return F.cross_entropy(network(images), torch.full((len(images),), c))


def cosines(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    pairs = [(a.flatten(1), b.flatten(1)) for a, b in zip(one, other, strict=True) if a.dim() > 1]
    return torch.cat([1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6) for a, b in pairs]).sum()


def differences_of_convolutions(one: Sequence[Tensor], other: Sequence[Tensor], power: int = 1) -> Tensor:
    return torch.stack([(a - b).abs().pow(power).sum() for a, b in zip(one, other, strict=True) if a.dim() == 4]).sum()


def tiles(stored: Tensor) -> Tensor:
    """Images [n, 1, 8, 8] in quarters, each enlarged: [4 * n, 1, 8, 8]."""
    quarters = [image[:, y : y + 4, x : x + 4] for image in stored for y in (0, 4) for x in (0, 4)]
    return F.interpolate(torch.stack(quarters), (8, 8), mode="bilinear", align_corners=False)


def dsa(draws: Draws, stored: Tensor) -> None:
    sgd, augment = torch.optim.SGD([stored], lr=0.1, momentum=0.5), training_augmentation(DSA, "batch")
    for k in range(NETWORKS):
        network = draws.network(k)
        for t in range(STEPS):
            sides = [[changed(some, DSA, "one", k, t, c) for some in (stored[c], draws.real(k, t, c))] for c in range(10)]
            descend(sgd, sum(cosines(*(gradients(network, side, c) for side in sides[c])) for c in range(10)))
            if t + 1 < STEPS:
                order = make_generator(0, "training", k, t)
                for _ in range(2):
                    index = torch.randperm(10 * IPC, generator=order)
                    images, labels = augment(stored.detach().flatten(0, 1)[index], index // IPC, order)
                    descend(torch.optim.SGD(network.parameters(), lr=0.01), F.cross_entropy(network(images), labels))


def dm(draws: Draws, stored: Tensor) -> None:
    sgd = torch.optim.SGD([stored], lr=1.0, momentum=0.5)
    for k in range(NETWORKS * STEPS):
        network, loss = draws.network(k), torch.zeros(())
        for c in range(10):
            means = [features(network, changed(some, DSA, "one", k, 0, c)).mean(0) for some in (stored[c], draws.real(k, 0, c))]
            loss = loss + (means[0] - means[1]).square().sum()
        descend(sgd, loss)


def random_images(draws: Draws, network: nn.Module, k: int, t: int, c: int) -> Tensor:
    return draws.real(k, t, c)


def idc(
    draws: Draws,
    stored: Tensor,
    next_network: Callable[[Draws, int], nn.Module] = Draws.network,
    real_images: Callable[[Draws, nn.Module, int, int, int], Tensor] = random_images,
    batch: int = 64,
) -> None:
    rate = 2 * 7.66e-6 * IPC / draws.std**2  # of pixels
    sgd, augment = torch.optim.SGD([stored], lr=rate), training_augmentation(["color", "crop"], "image", 0.5)
    for k in range(NETWORKS):
        network = next_network(draws, k)
        training = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        for t in range(STEPS):
            loss = torch.zeros(())
            for c in range(10):
                sides = [tiles(stored[c]), real_images(draws, network, k, t, c)]
                sides = [changed(some, THREE, "all", k, t, c) for some in sides]
                loss = loss + differences_of_convolutions(*(gradients(network, side, c) for side in sides))
            descend(sgd, loss)
            if t + 1 < STEPS:
                draws.learn_real_images(network, training, k, t, augment, batch)
        draws.clamp(stored)


def dream(draws: Draws, stored: Tensor) -> None:
    kept = {}

    def representatives(draws: Draws, network: nn.Module, k: int, t: int, c: int) -> Tensor:
        if t % 10 == 0:
            (sample,) = draws.run.sampler.indices([c], 512, "representatives sample", k, t)
            found = features(network, draws.pixels(sample)).detach()
            kept[c] = draws.pixels(sample[medoids(found, BATCH, make_generator(0, "representatives", k, t, c))])
        return kept[c]

    idc(draws, stored, real_images=representatives, batch=128)


def accdd(draws: Draws, stored: Tensor) -> None:
    def perturbed(draws: Draws, k: int) -> nn.Module:
        network, _, generator = draws.pretrained(k)
        change = [torch.zeros_like(weight) for weight in network.parameters()]
        for _ in range(2):
            share, sign = 0.01 + 0.08 * torch.rand((), generator=generator).item(), (-1, 1)[torch.randint(2, (), generator=generator)]
            direction = torch.randn(sum(weight.numel() for weight in change), generator=generator).double()
            parts = direction.split([weight.numel() for weight in change])
            for some, part, weight in zip(change, parts, network.parameters(), strict=True):
                for k in range(len(weight)) if weight.dim() > 1 else ():
                    filter_of_noise = part.view_as(weight)[k]
                    some[k] += sign * share * filter_of_noise * weight[k].detach().norm() / filter_of_noise.norm()
        with torch.no_grad():
            for weight, some in zip(network.parameters(), change, strict=True):
                weight += some
        return network

    idc(draws, stored, perturbed)


def interpolated(draws: Draws, k: int) -> tuple[nn.Module, nn.Module]:
    """A network on the way back to its first weights, and as it was before."""
    (network, first, generator), (trained, _, _) = draws.pretrained(k), draws.pretrained(k)
    share = torch.rand((), generator=generator).item()
    with torch.no_grad():
        for weight, other in zip(network.parameters(), first.parameters(), strict=True):
            weight.copy_((1 - share) * weight + share * other)
    return network, trained


def dance(draws: Draws, stored: Tensor) -> None:
    sgd = torch.optim.SGD([stored], lr=0.01 * IPC / draws.std**2, momentum=0.5)  # of pixels
    for k in range(NETWORKS * STEPS):
        (network, trained), loss = interpolated(draws, k), torch.zeros(())
        for c in range(10):
            images, real = (changed(some, THREE, "all", k, 0, c) for some in (tiles(stored[c]), draws.real(k, 0, c)))
            loss = loss + (features(network, images).mean(0) - features(network, real).mean(0)).square().sum() + entropy(trained, images, c)
        descend(sgd, loss)
        draws.clamp(stored)


def ncfm(draws: Draws, stored: Tensor) -> None:
    adam = torch.optim.AdamW([stored], lr=0.01, weight_decay=0.001, eps=1e-150)
    for k in range(NETWORKS * STEPS):
        (network, trained), loss = interpolated(draws, k), torch.zeros(())
        frequencies = torch.randn(4096, network.classifier.in_features, generator=make_generator(0, "frequencies", k, 0)).double()
        for c in range(10):
            images, real = (changed(some, THREE, "all", k, 0, c) for some in (tiles(stored[c]), draws.real(k, 0, c)))
            units = (F.normalize(features(network, side), dim=1) for side in (images, real))
            loss = loss + plain_characteristic(*units, frequencies, 0.5) + entropy(trained, images, c)
        descend(adam, loss)
        draws.clamp(stored)


def auto(draws: Draws, stored: Tensor) -> None:
    kept = draws.run.formation.fitted["frequencies"].tolist()
    waves = torch.stack([torch.outer(cosine(8, place // 8), cosine(8, place % 8)) for place in kept])  # [K, 8, 8]
    low, high = (0 - draws.mean) / draws.std, (1 - draws.mean) / draws.std
    adam = torch.optim.Adam([stored], lr=0.1, betas=(0.5, 0.99), eps=1e-150)
    for k in range(NETWORKS):
        network = draws.network(k)
        training = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        for t in range(STEPS):
            adam.param_groups[0]["lr"] = 0.1 * (1 - (k * STEPS + t) / (NETWORKS * STEPS))
            loss = torch.zeros(())
            for c in range(10):
                weights = stored[c].flatten(1)[:, : 64 // len(kept) * len(kept)].view(-1, len(kept))  # [n, K]
                sums = torch.einsum("nk,khw->nhw", weights, waves)[:, None]
                images = sums + (sums.clamp(low, high) - sums).detach()  # gradients go past the cut
                sides = (images, draws.real(k, t, c))
                loss = loss + differences_of_convolutions(*(gradients(network, side, c) for side in sides), power=2)
            descend(adam, loss)
            if t + 1 < STEPS:
                draws.learn_real_images(network, training, k, t)


SEVERAL = {"iterations": NETWORKS, "matching_steps": STEPS}  # steps with each network
ONE_STEP_EACH = {"iterations": NETWORKS * STEPS}
FEW_TRAINED = {**ONE_STEP_EACH, "pool": "pretrained:networks=3,epochs=2,augmented=true,change=interpolate"}
# the script of each recipe, and the numbers that it changes; all else is as published
SCRIPTS: dict[str, tuple[Callable[[Draws, Tensor], None], dict[str, Any]]] = {
    "dsa": (dsa, {**SEVERAL, "model_epochs": 2}),
    "dm": (dm, ONE_STEP_EACH),
    "idc": (idc, SEVERAL),
    "dream": (dream, SEVERAL),
    "accdd": (accdd, SEVERAL),
    "dance": (dance, FEW_TRAINED),
    "ncfm": (ncfm, FEW_TRAINED),
    "auto": (auto, SEVERAL),
}


def in_double(method: str, engine: str, monkeypatch: pytest.MonkeyPatch, **numbers: Any) -> Condensation:
    """A run of a recipe with other numbers on digits, in float64, before its first step."""
    model, real = "convnet:width=8", fastdc.load_dataset("digits")[0]
    recipe = dataclasses.replace(fastdc.RECIPES[method], model=model, batch_real=BATCH, **numbers)
    config = resolved(CondenseConfig(ipc=IPC, method=method, engine=engine), recipe)
    config = dataclasses.replace(config, formation=chosen_formation(config.formation, real, [IPC] * 10))
    family = NetworkFamily(model, 1, 10, (8, 8), torch.device("cpu"))
    run = Condensation(config, real, family, (), False)
    run.engine.module.double()
    run.sampler.dtype, state, fresh_weights = torch.float64, run.state, family.fresh_weights
    monkeypatch.setattr(family, "fresh_weights", lambda seed: fresh_weights(seed).double())
    state.stored, state.moments = state.stored.double(), {name: value.double() for name, value in state.moments.items()}
    if isinstance(run.pool, Pretrained):
        run.pool.prepare()
        run.pool._networks = {number: (trained.double(), first.double()) for number, (trained, first) in run.pool._networks.items()}
    return run


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", SCRIPTS)
def test_a_recipe_learns_what_a_plain_script_learns(method: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script, numbers = SCRIPTS[method]
    run = in_double(method, engine, monkeypatch, **numbers)
    start = run.state.stored.clone()
    plain = start.clone().unflatten(0, (10, IPC)).requires_grad_()
    script(Draws(run), plain)
    for _ in range(NETWORKS * STEPS):
        run.take_step()
    assert (run.state.iteration, run.state.step) == (run.recipe.iterations, 0)
    assert relative(run.state.stored - start, plain.detach().flatten(0, 1) - start) < RECIPE_FLOAT64


def test_a_rate_of_pixels_moves_each_channel_by_its_own_deviation() -> None:
    data = noise_data((6, 6), channels=3)
    data = dataclasses.replace(data, std=(0.1, 0.3, 0.25))
    options = {"augmentation": "siamese:operations=color", "init": "real", "iterations": 1, "matching_steps": 1, "batch_real": 4, **QUICK}
    start = fastdc.condense(data, 1, **{**options, "iterations": 0}).stored
    plain, pixels = (fastdc.condense(data, 1, optimizer=f"sgd:pixels={pixels}", **options).stored - start for pixels in ("false", "true"))
    assert plain.any()
    assert relative(pixels, plain / torch.tensor(data.std).view(3, 1, 1) ** 2) < FLOAT32_ENGINES


@pytest.mark.parametrize(("norm", "trained"), [("instance", True), ("batch", False)])
def test_the_cross_entropy_is_under_the_trained_network_unless_it_has_batch_norms(
    norm: str, trained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose statistics are those of the network that is matched."""
    real = fastdc.load_dataset("digits")[0]
    config = resolved(CondenseConfig(ipc=1, method="dance:networks=1,epochs=1", model=f"convnet:width=8,norm={norm}", batch_real=BATCH))
    run = Condensation(config, real, NetworkFamily(config.model, 1, 10, (8, 8), torch.device("cpu")), (), False)
    seen, step = [], run.match.step

    def noting(state: State, *rest: Any) -> Any:
        seen.append(state.expert is state.theta)
        return step(state, *rest)

    monkeypatch.setattr(run.match, "step", noting)
    run.take_step()
    assert set(seen) == {not trained}


def test_networks_cannot_learn_by_the_operations_of_an_augmentation_that_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(NoAugmentation):
        operations = None

    monkeypatch.setitem(AUGMENTATIONS._entries, "mine", Mine)
    with pytest.raises(UsageError, match=r"by the operations of augmentation 'mine', which says none; name them"):
        fastdc.condense("digits", 1, method="dsa", augmentation="mine", **QUICK)
    assert (
        resolved(CondenseConfig(ipc=1, method="dsa", augmentation="none")).pool == "fresh:train=synthetic,augmentation=none,networks=random"
    )


# Their numbers

_ON_REAL = "train=real,images=500,batch=64,momentum=0.9,weight_decay=0.0005,augmentation=color+crop,cutmix=0.5"
_ALL_SIX = "+".join(DSA)
_DC: dict[str, Any] = {
    "match": "gradients",
    "pool": "fresh:train=synthetic,networks=random",
    "batches": "random",
    "augmentation": "none",
    "formation": "plain:clamp=false",
    "model": "convnet",
    "iterations": 1000,
    "matching_steps": 10,
    "model_epochs": 50,
    "init": "noise",
    "lr_images": 0.1,
    "optimizer": "sgd:momentum=0.5",
    "schedule": "constant",
    "lr_model": 0.01,
    "batch_real": 256,
    "distance": "layerwise_cosine",
    "protocol": "dc",
}
_UNTRAINED_NETWORKS = {"pool": "fresh:train=none,networks=random", "model_epochs": None}
_DSA: dict[str, Any] = {"augmentation": f"siamese:operations={_ALL_SIX},mode=one", "init": "real", "protocol": "dsa"}
_IDC = _DC | {
    "pool": f"fresh:{_ON_REAL},networks=random",
    "augmentation": "siamese:operations=color+crop+cutout,mode=all",
    "formation": "tiles:factor=2,clamp=true",
    "iterations": 2000,
    "matching_steps": 100,
    "model_epochs": None,
    "init": "real",
    "lr_images": 2 * 7.66e-6 * 10,
    "optimizer": "sgd:momentum=0.0,pixels=true",
    "batch_real": 64,
    "distance": "l1:rows=convolutions",
    "protocol": "idc",
}
_DANCE = _DC | {
    "match": "features:cross_entropy=1.0",
    "pool": "pretrained:train=none,networks=20,epochs=60,augmented=true,change=interpolate",
    "augmentation": "siamese:operations=color+crop+cutout,mode=all",
    "formation": "tiles:factor=2,clamp=true",
    "iterations": 10000,
    "matching_steps": 1,
    "model_epochs": None,
    "init": "real",
    "lr_images": 0.01 * 10,
    "optimizer": "sgd:momentum=0.5,pixels=true",
    "batch_real": 128,
    "protocol": "idc",
}
# At ten images per class, as published.
PAPER: dict[str, dict[str, Any]] = {
    "dc": _DC,
    "dd": _DC | _UNTRAINED_NETWORKS | {"match": "dd:unroll=10,step_size=0.1,lr_step_sizes=0.01", "matching_steps": 1},
    "parameter_matching": _DC | _UNTRAINED_NETWORKS | {"match": "parameter_matching:unroll=5,compare=displacement", "matching_steps": 1},
    "curriculum": _DC | _UNTRAINED_NETWORKS | {"match": "curriculum:unroll=1,compare=displacement", "matching_steps": 10},
    "dsa": _DC | _DSA | {"pool": f"fresh:train=synthetic,augmentation={_ALL_SIX},networks=random"},
    "dm": _DC | _DSA | _UNTRAINED_NETWORKS | {"match": "features", "iterations": 20000, "matching_steps": 1, "lr_images": 1.0},
    "idc": _IDC,
    "dream": _IDC
    | {
        "pool": f"fresh:{_ON_REAL},networks=random".replace("64", "128"),
        "batches": "representatives:sample=512,every=10",
        "iterations": 250,
        "init": "kmeans",
        "batch_real": 128,
    },
    "accdd": _IDC | {"pool": f"pretrained:{_ON_REAL},networks=5,epochs=2,augmented=true,change=perturb", "iterations": 400},
    "dance": _DANCE,
    "ncfm": _DANCE
    | {
        "match": "characteristic:cross_entropy=1.0,frequencies=4096,amplitude=0.5",
        "iterations": 20000,
        "lr_images": 0.01,
        "optimizer": "adam:beta1=0.9,beta2=0.999,decay=0.001",
        "batch_real": 1024,
    },
    "auto": _DC
    | {
        "pool": f"fresh:{_ON_REAL},networks=random".replace("color+crop,cutmix=0.5", "none,cutmix=0.0"),
        "augmentation": f"siamese:operations={_ALL_SIX},mode=one",
        "formation": "frequency:clamp=true",
        "model": "convnet:width=32",
        "iterations": 50,
        "matching_steps": 20,
        "model_epochs": None,
        "init": "kmeans",
        "lr_images": 0.1,
        "distance": "mse:rows=convolutions",
        "optimizer": "adam:beta1=0.5,beta2=0.99,decay=0.0",
        "schedule": "linear",
        "batch_real": 64,
        "protocol": "dsa",
    },
}
_SMALL = {"model": "convnet:width=32", "batch_real": 64, "iterations": 100}
_SHORTER_IDC = {
    "iterations": 20,
    "matching_steps": 50,
    "lr_images": 5e-5 * 10,
    "optimizer": "sgd:momentum=0.5,pixels=true",
    "schedule": "linear",
}
_SHORTER_DANCE = {
    "iterations": 1000,
    "schedule": "linear",
    "pool": "pretrained:train=none,networks=5,epochs=2,augmented=true,change=interpolate",
}
# What two cores change of that.
LAPTOP: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("dc", "dd", "parameter_matching", "curriculum", "dsa"), _SMALL),
    "dm": _SMALL | {"iterations": 1000},
    **dict.fromkeys(("idc", "dream", "accdd"), _SMALL | _SHORTER_IDC),
    "dance": _SMALL | _SHORTER_DANCE,
    "ncfm": _SMALL | _SHORTER_DANCE | {"match": "characteristic:cross_entropy=1.0,frequencies=256,amplitude=0.5", "batch_real": 128},
    "auto": {},
}
RUN: dict[str, Any] = {"ipc": 1, "scale": "laptop", "model": "convnet:width=8", "batch_real": 6, "progress": False}
LEARNING = [method for method in fastdc.RECIPES if method != "untrained"]  # which is auto without iterations


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("method", LEARNING)
def test_a_recipe_has_the_numbers_that_were_published_or_those_of_a_laptop(method: str, scale: str) -> None:
    found = as_plain(resolved(CondenseConfig(ipc=10, method=method, scale=scale))) | {"protocol": recipe_named(method, scale, 10).protocol}
    expected = PAPER[method] | {"paper": {}, "laptop": LAPTOP[method]}[scale]
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("method", "rates"),
    [
        ("dm", [1, 1, 1, 10]),
        ("idc", [1.532e-5, 1.532e-4, 7.66e-4, 1.532e-3]),
        ("dream", [1.532e-5, 1.532e-4, 7.66e-4, 1.532e-3]),
        ("accdd", [1.532e-5, 1.532e-4, 7.66e-4, 1.532e-3]),
        ("dance", [0.01, 0.1, 0.5, 1]),
        ("ncfm", [0.01, 0.01, 0.01, 0.01]),
    ],
)
def test_a_learning_rate_grows_with_the_images_where_the_authors_let_it(method: str, rates: list[float]) -> None:
    assert [resolved(CondenseConfig(ipc=ipc, method=method)).lr_images for ipc in (1, 10, 50, 100)] == pytest.approx(rates)
    assert resolved(CondenseConfig(ipc=100, method=method, lr_images=0.3)).lr_images == 0.3


@pytest.mark.parametrize("scale", SCALES)
def test_auto_does_more_for_more_images_per_class(scale: str) -> None:
    found = [recipe_named("auto", scale, ipc) for ipc in (1, 4.9, 5, 29, 30, 200)]
    assert [recipe.augmentation for recipe in found] == ["none"] * 2 + ["siamese"] * 4
    assert [recipe.protocol for recipe in found] == ["dc"] * 2 + ["dsa"] * 4
    assert [recipe.batch_real for recipe in found] == [64] * 4 + [256] * 2
    assert resolved(CondenseConfig(ipc=(1,) * 9 + (60,), method="auto", scale=scale)).augmentation.startswith("siamese")  # 6.9 on average


def test_a_set_names_the_protocol_of_its_recipe_for_so_many_images_per_class() -> None:
    options: dict[str, Any] = {"method": "auto", "model": "convnet:width=4,depth=1", "iterations": 0, "progress": False}
    assert [fastdc.condense("digits", ipc, **options).provenance["protocol"] for ipc in (1, 5)] == ["dc", "dsa"]


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        (
            "idc:factor=3,images=100",
            {"formation": "tiles:factor=3,clamp=true", "pool": f"fresh:{_ON_REAL},networks=random".replace("500", "100")},
        ),
        (
            "dsa:operations=color+crop",
            {
                "augmentation": "siamese:operations=color+crop,mode=one",
                "pool": "fresh:train=synthetic,augmentation=color+crop,networks=random",
            },
        ),
        ("dsa:mode=all", {"augmentation": f"siamese:operations={_ALL_SIX},mode=all"}),
        ("ncfm:frequencies=8", {"match": "characteristic:cross_entropy=1.0,frequencies=8,amplitude=0.5"}),
    ],
)
@pytest.mark.parametrize("scale", SCALES)
def test_options_of_a_method_change_a_part_of_it_at_any_scale(method: str, changed: dict[str, str], scale: str) -> None:
    plain, found = (as_plain(resolved(CondenseConfig(ipc=10, method=name, scale=scale))) for name in (method.split(":")[0], method))
    assert found == plain | {"method": method} | changed


_UNMIRRORED = "color+crop+cutout+scale+rotate"
_NAMES = {"digits": _UNMIRRORED, "mnist": _UNMIRRORED, "svhn": _UNMIRRORED, "usps": _UNMIRRORED, "digits 0 to 1": _UNMIRRORED}
_NAMES |= dict.fromkeys(("fashion-mnist", "cifar10", "cifar100", "data", "npz:digits"), _ALL_SIX)


@pytest.mark.parametrize(("dataset", "operations"), _NAMES.items())
@pytest.mark.parametrize("method", ["dsa", "dm:mode=all", "auto", fastdc.Recipe(augmentation="siamese")])
def test_digits_are_not_mirrored_unless_it_is_asked_for(method: Any, dataset: str, operations: str) -> None:
    options: dict[str, Any] = {"model": "convnet:width=4,depth=1", "batch_real": 2, "iterations": 1, "matching_steps": 1, "progress": False}
    data = dataclasses.replace(noise_data((40, 40)), name=dataset)
    mode = "all" if method == "dm:mode=all" else "one"
    learned = fastdc.condense(data, 5, method=method, **options)
    config = learned.provenance["config"]
    assert config["augmentation"] == f"siamese:operations={operations},mode={mode}"
    assert "train=synthetic" not in config["pool"] or config["pool"] == f"fresh:train=synthetic,augmentation={operations},networks=random"
    given = {"augmentation": f"siamese:operations={operations},mode={mode}"}
    assert torch.equal(learned.images, fastdc.condense(dataclasses.replace(data, name="data"), 5, method=method, **given, **options).images)
    for asked in (_ALL_SIX, "flip"):
        kept = fastdc.condense(data, 5, method=method, augmentation=f"siamese:operations={asked}", **options | {"iterations": 0})
        assert kept.provenance["config"]["augmentation"] == f"siamese:operations={asked},mode=one"


def test_networks_that_are_to_see_mirrored_digits_see_them() -> None:
    options: dict[str, Any] = {**QUICK, "iterations": 0, "method": "dsa", "pool": f"fresh:train=synthetic,augmentation={_ALL_SIX}"}
    config = fastdc.condense("digits", 1, **options).provenance["config"]
    assert config["pool"] == f"fresh:train=synthetic,augmentation={_ALL_SIX},networks=random"
    assert config["augmentation"] == f"siamese:operations={_UNMIRRORED},mode=one"


def test_an_augmentation_of_ones_own_keeps_its_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(Siamese):
        pass

    monkeypatch.setitem(AUGMENTATIONS._entries, "mine", Mine)
    config = fastdc.condense("digits", 1, augmentation="mine", **QUICK, iterations=0).provenance["config"]
    assert config["augmentation"] == f"mine:operations={_ALL_SIX},mode=one"


def test_a_run_that_earlier_versions_began_with_mirrored_digits_goes_on_with_them(tmp_path: Path) -> None:
    options: dict[str, Any] = {**QUICK, "ipc": 1, "method": "dsa", "batch_real": 4, "matching_steps": 2}
    as_before = {"augmentation": f"siamese:operations={_ALL_SIX}"}  # as every run was, whatever it learned from
    whole = fastdc.condense("digits", iterations=3, out=tmp_path / "whole", **as_before, **options)
    fastdc.condense("digits", iterations=1, out=tmp_path / "run", **as_before, **options)
    found = fastdc.condense("digits", iterations=3, out=tmp_path / "run", **options)
    assert torch.equal(found.images, whole.images)
    assert found.provenance["config"] == whole.provenance["config"]
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    fastdc.condense("digits", iterations=1, out=tmp_path / "others", **options | {"augmentation": "siamese:operations=color+flip"})
    with pytest.raises(UsageError, match=r"differs in augmentation \('siamese:operations=color\+flip,mode=one' there, 'siamese:"):
        fastdc.condense("digits", iterations=1, out=tmp_path / "others", **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "idc", "scale": "notebook"}, "unknown scale 'notebook'. Known: laptop, paper"),
        ({"method": "idc", "scale": "laptob"}, "unknown scale 'laptob'. Did you mean 'laptop'"),
        ({"method": "idc", "scale": None}, "scale is None; expected one of laptop, paper"),
        ({"method": "idc:factr=2", "scale": "laptop"}, "unknown option of 'idc' 'factr'. Did you mean 'factor'"),
        ({"method": "dance:networks=0", "scale": "laptop"}, "networks is 0; expected a whole number of 1 or more"),
        ({"method": "idcc", "scale": "laptop"}, "unknown method 'idcc'. Did you mean 'idc'"),
        (
            {"method": fastdc.Recipe(), "scale": "laptop"},
            "scale is 'laptop', but a Recipe has no scales, only .* leave it out, or give the name of a method",
        ),
        ({"method": fastdc.RECIPES["idc"], "scale": "notebook"}, "scale is 'notebook', but a Recipe has no scales"),
    ],
)
def test_a_method_or_scale_that_cannot_be_used_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        fastdc.condense("digits", **{**RUN, "iterations": 1, "matching_steps": 1, **options})


# Runs as users start them


@needs_extension
@pytest.mark.parametrize("method", LEARNING)
def test_the_native_engine_learns_in_two_steps_what_the_reference_learns(method: str) -> None:
    def learned(engine: str, iterations: int) -> Tensor:
        options = {**RUN, "matching_steps": 2, "iterations": iterations, "engine": engine}
        return fastdc.condense("digits", method=method, **options).stored

    start = learned("reference", 0)
    found, plain = (learned(engine, 1) - start for engine in ("native", "reference"))
    assert relative(found, plain) < NATIVE_RUN


@pytest.mark.parametrize("method", LEARNING)
@pytest.mark.usefixtures("every_step_kept")
def test_a_recipe_that_was_stopped_ends_in_the_same_bits(method: str, tmp_path: Path) -> None:
    options = {**RUN, "method": method, "matching_steps": 3, "iterations": 3}
    fastdc.condense("digits", out=tmp_path / "whole", **options)
    written: list[Event] = []

    def stop(event: Event) -> None:
        if isinstance(event, CheckpointWritten):
            written.append(event)
            if len(written) == 4:
                raise InterruptedError

    with pytest.raises(InterruptedError):
        fastdc.condense("digits", out=tmp_path / "run", callbacks=[stop], **options)
    begun: list[Event] = []
    fastdc.condense("digits", out=tmp_path / "run", callbacks=[begun.append], **options)
    assert begun[0].iteration == 1  # after the first of three steps of the second: its network is trained once more
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def killed(folder: str, networks: str, options: dict[str, Any]) -> None:
    """What a process of its own does: a run that is killed after a checkpoint within an iteration."""
    torch.set_num_threads(1)
    whole_set.DEFAULT_CACHE = Path(networks)
    MOMENTS["after a checkpoint within an iteration"]()
    fastdc.condense("digits", out=folder, **options)


@pytest.mark.parametrize("method", ["idc", "accdd"])
def test_a_recipe_that_was_killed_goes_on_with_the_velocity_of_its_network(method: str, tmp_path: Path, cache: Path) -> None:
    options = {**RUN, "method": method, "matching_steps": 5, "iterations": 2}
    fastdc.condense("digits", out=tmp_path / "whole", **options)
    process = PROCESSES.Process(target=killed, args=(str(tmp_path / "run"), str(cache), options))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    state = read_state(tmp_path / "run" / "checkpoint.safetensors", (10, 1, 8, 8))
    assert (state.iteration, state.step) == (1, 3)  # two steps are left, and a training between them
    fastdc.condense("digits", out=tmp_path / "run", **options)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
