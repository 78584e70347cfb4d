"""A number of images for each class: what is learned, chosen, kept, shown and refused."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import needs_extension, noise_data, relative, stop_at
from tolerances import FLOAT32_ENGINES, FLOAT64_ENGINES
from torch import Tensor, nn
from torch.func import functional_call

import fastdc
from fastdc.callbacks import CheckpointWritten
from fastdc.condensed import CondensedDataset
from fastdc.coresets import SELECTIONS
from fastdc.data import ClassSampler, ImageData
from fastdc.errors import RunError, UsageError
from fastdc.loop.config import CondenseConfig, resolved
from fastdc.loop.loop import Condensation
from fastdc.models import build
from fastdc.models.network import NetworkFamily
from fastdc.recipe import MATCHES, RECIPES, ClassGroup, Match
from fastdc.recipe.state import State
from fastdc.runtime.seeding import derive_seed

pytestmark = pytest.mark.usefixtures("one_thread")
ENGINES = ["reference", "torch", pytest.param("native", marks=needs_extension)]
NUMBERS = (3, 1, 3, 1, 2)
DATA = noise_data((12, 12, 12, 12, 5))
DIGITS = (4, 1, 2, 1, 4, 1, 2, 1, 1, 3)
SHORT: dict[str, Any] = {
    "model": "convnet:width=8,activation=swish",
    "iterations": 2,
    "matching_steps": 2,
    "model_epochs": 2,
    "batch_real": 8,
    "progress": False,
}
ALL_AT_ONCE = [name for name, recipe in RECIPES.items() if MATCHES.entry(recipe.match).needs_all_classes]


# What is learned


def doubled(channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    return build(SHORT["model"], channels, num_classes, image_size).double()


def condensation_in_float64(engine: str, formation: str, pool: str) -> Condensation:
    """Three steps with one network, before the first of them."""
    given = CondenseConfig(
        ipc=NUMBERS, engine=engine, formation=formation, pool=pool, iterations=1, matching_steps=3, batch_real=8, device="cpu", seed=5
    )
    family = NetworkFamily(SHORT["model"], 1, len(NUMBERS), (8, 8), torch.device("cpu"))
    family.model = doubled  # a family tries the network that it is given on images of float32
    condensation = Condensation(resolved(given), DATA, family, (), False)
    condensation.sampler.dtype = torch.float64
    for field in dataclasses.fields(condensation.state):
        setattr(condensation.state, field.name, in_float64(getattr(condensation.state, field.name)))
    return condensation


def in_float64(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: in_float64(item) for key, item in value.items()}
    return value.double() if isinstance(value, Tensor) else value


def plainly_learned(condensation: Condensation) -> tuple[list[Tensor], list[float]]:
    """What is stored of each class after the three steps, and the loss of each step, class by class with double backward."""
    recipe, layout, module = condensation.recipe, condensation.engine.layout, condensation.engine.module
    formation, sampler = condensation.formation, ClassSampler(DATA, 5, torch.float64)
    stored = list(condensation.state.stored.clone().split(NUMBERS))
    velocity = [torch.zeros_like(some) for some in stored]
    theta = condensation.family.fresh_weights(derive_seed(5, "network", 0))

    def rows(weights: dict[str, Tensor], images: Tensor, label: int) -> list[Tensor]:
        loss = F.cross_entropy(functional_call(module, weights, (images,)), torch.full((len(images),), label))
        return [g.flatten(1) for g in torch.autograd.grad(loss, list(weights.values()), create_graph=True) if g.dim() > 1]

    losses = []
    for step in range(3):
        weights = {name: view.clone().requires_grad_() for name, view in layout.views(theta).items()}
        losses.append(0.0)
        for label in range(len(NUMBERS)):
            leaf = stored[label].clone().requires_grad_()
            real = DATA.normalised(sampler.indices([label], 8, "real images", 0, step, 0)[0], torch.float64)
            pairs = zip(rows(weights, formation.decode(leaf[None])[0], label), rows(weights, real, label), strict=True)
            distance = sum((1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum() for a, b in pairs)
            velocity[label] = 0.5 * velocity[label] + torch.autograd.grad(distance, leaf)[0]
            stored[label] = stored[label] - recipe.lr_images * velocity[label]
            losses[-1] += distance.item()
        if recipe.model_epochs is not None and step < 2:
            decoded = [formation.decode(some[None])[0] for some in stored]
            labels = torch.cat([torch.full((len(some),), label) for label, some in enumerate(decoded)])
            for _ in range(recipe.model_epochs):  # one batch holds them all
                theta = theta.clone().requires_grad_()
                loss = F.cross_entropy(functional_call(module, layout.views(theta), (torch.cat(decoded),)), labels)
                theta = (theta - recipe.lr_model * torch.autograd.grad(loss, theta)[0]).detach()
    return stored, losses


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("formation", ["plain", "tiles"])
@pytest.mark.parametrize("pool", ["fresh", "fresh:train=synthetic"])
@pytest.mark.parametrize("most", [1, 9])
def test_each_class_learns_what_a_plain_loop_learns(
    engine: str, formation: str, pool: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastdc.loop.loop._GROUP_MEMORY", 256 if most > 1 else 0)  # MiB
    condensation = condensation_in_float64(engine, formation, pool)
    groups = [[0, 2], [1, 3], [4]] if most > 1 else [[0], [2], [1], [3], [4]]
    assert [list(group.numbers) for group in condensation.groups] == groups
    expected, losses = plainly_learned(condensation)
    start = condensation.state.stored.clone()
    found = [condensation._matching_step().numbers.read()[0] for _ in range(3)]
    moved = condensation.state.stored - start
    for some, was, plain in zip(moved.split(NUMBERS), start.split(NUMBERS), expected, strict=True):
        assert relative(some, plain - was) < FLOAT64_ENGINES
    assert found == pytest.approx(losses, rel=FLOAT64_ENGINES)


@pytest.mark.parametrize("options", [{"pool": "fresh"}, {"method": "dm"}], ids=["dc", "dm"])
def test_without_training_a_class_learns_what_it_learns_where_all_have_its_number(options: dict[str, Any]) -> None:
    options = {**SHORT, "model_epochs": None, "init": "real", "matching_steps": 3, **options}
    found = fastdc.condense(DATA, NUMBERS, **options)
    for number in set(NUMBERS):
        same = fastdc.condense(DATA, number, **options)
        for label in (label for label, own in enumerate(NUMBERS) if own == number):
            assert relative(found.images[found.labels == label], same.images[same.labels == label]) < FLOAT32_ENGINES


def test_a_list_of_one_number_is_that_number(tmp_path: Path) -> None:
    lists = ([2] * 5, (2,) * 5, np.full(5, 2), [np.int32(2)] * 5, torch.full((5,), 2))
    for folder, ipc in enumerate((2, *lists)):
        fastdc.condense(DATA, ipc, out=tmp_path / str(folder), **SHORT)
        for name in ("config.json", "condensed.safetensors", "condensed.png"):
            assert (tmp_path / str(folder) / name).read_bytes() == (tmp_path / "0" / name).read_bytes()
    assert json.loads((tmp_path / "1" / "config.json").read_text())["config"]["ipc"] == 2
    fastdc.condense(DATA, [2] * 5, out=tmp_path / "0", **{**SHORT, "iterations": 3})  # goes on


@pytest.mark.parametrize("ipc", [list(NUMBERS), np.array(NUMBERS), torch.tensor(NUMBERS), [np.int64(number) for number in NUMBERS]])
def test_lists_arrays_and_tensors_say_the_same(ipc: Any) -> None:
    assert fastdc.coresets.random(DATA, ipc).ipc == NUMBERS
    condensed = fastdc.condense(DATA, ipc, **SHORT)
    assert (condensed.ipc, condensed.provenance["config"]["ipc"]) == (NUMBERS, list(NUMBERS))
    assert torch.equal(condensed.images, fastdc.condense(DATA, NUMBERS, **SHORT).images)


def test_numbers_of_numpy_are_those_of_python() -> None:
    options = SHORT | {"lr_images": np.float32(0.25), "iterations": np.int64(2)}
    condensed = fastdc.condense("digits", np.int64(1), seed=np.uint8(3), **options)
    expected = fastdc.condense("digits", 1, seed=3, **SHORT | {"lr_images": 0.25, "iterations": 2})
    assert torch.equal(condensed.images, expected.images)
    assert condensed.provenance == expected.provenance
    evaluated = [
        fastdc.evaluate(condensed, "digits", model="mlp:width=8", networks=kind(2), epochs=kind(2), seed=kind(1))
        for kind in (np.int16, int)
    ]
    assert evaluated[0] == evaluated[1]
    assert fastdc.coresets.random("digits", np.int32(2)).ipc == 2
    assert fastdc.load_dataset("digits", image_size=(np.int64(6), np.int64(8)))[0].image_size == (6, 8)
    assert ImageData.of(DATA.images, DATA.labels, num_classes=DATA.labels.numpy().max() + 1).num_classes == DATA.num_classes


def test_lengths_of_the_loop_are_those_of_the_mean() -> None:
    condensed = fastdc.condense(DATA, (12, 1, 1, 2, 4), **{**SHORT, "iterations": 1, "matching_steps": None, "model_epochs": None})
    config = condensed.provenance["config"]
    assert (config["matching_steps"], config["model_epochs"]) == (4, 17)  # of 4 per class


def test_an_interrupted_run_ends_in_the_same_bits(tmp_path: Path, every_step_kept: None) -> None:
    whole = fastdc.condense("digits", DIGITS, out=tmp_path / "whole", **SHORT)
    for _ in range(3):
        with pytest.raises(InterruptedError):
            fastdc.condense("digits", list(DIGITS), out=tmp_path / "parts", callbacks=[stop_at(CheckpointWritten)], **SHORT)
    found = fastdc.condense("digits", np.array(DIGITS), out=tmp_path / "parts", **SHORT)
    assert torch.equal(found.images, whole.images)
    for name in ("config.json", "condensed.safetensors", "condensed.png"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(UsageError, match=r"differs in ipc \(\[4, 1, 2, 1, 4, 1, 2, 1, 1, 3\] there, \[4, 1, .*, 4\] now\)"):
        fastdc.condense("digits", (*DIGITS[:-1], 4), out=tmp_path / "parts", **SHORT)


class SpoiledLoss(Match):
    """Gives class 2 a loss that is not finite."""

    def step(self, state: State, images: Tensor, group: ClassGroup) -> tuple[Tensor, Tensor]:
        return torch.where(group.classes == 2, torch.inf, 0.0), torch.zeros_like(images)


class SpoiledImages(Match):
    """Moves the images of class 2 to infinity."""

    def step(self, state: State, images: Tensor, group: ClassGroup) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(group)), torch.where((group.classes == 2).view(-1, 1, 1, 1, 1), torch.inf, torch.zeros_like(images))


@pytest.mark.parametrize("match", [SpoiledLoss, SpoiledImages])
def test_the_class_of_what_is_not_finite_is_named(match: type[Match], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MATCHES, "_entries", {**MATCHES._entries, "spoiled": match})
    with pytest.raises(RunError, match="not finite at iteration 1, step 1, class 'class 2'"):
        fastdc.condense(DATA, NUMBERS, match="spoiled", **SHORT)


# What is kept and shown


def test_a_set_says_the_number_of_each_class_and_a_file_keeps_it(tmp_path: Path) -> None:
    condensed = fastdc.condense(DATA, NUMBERS, formation="tiles", **SHORT)
    assert (condensed.ipc, len(condensed.stored), len(condensed)) == (NUMBERS, 10, 40)
    assert condensed.labels.tolist() == [label for label, number in enumerate(NUMBERS) for _ in range(4 * number)]
    assert "of 5 classes, 1 to 3 of each, normalised" in repr(condensed)
    condensed.save(tmp_path / "c.safetensors")
    read = CondensedDataset.load(tmp_path / "c.safetensors")
    assert torch.equal(read.images, condensed.images)
    assert (read.ipc, read.provenance, repr(read)) == (NUMBERS, condensed.provenance, repr(condensed))


def test_the_row_of_a_class_with_fewer_images_ends_in_white() -> None:
    chosen = fastdc.coresets.random(DATA, NUMBERS)
    picture = np.asarray(chosen.grid())  # tiles of 64 pixels, 2 between them
    assert picture.shape == (5 * 66 + 2, 3 * 66 + 2, 3)
    for label, number in enumerate(NUMBERS):
        row = picture[2 + 66 * label : 66 * (label + 1)]
        assert [bool((row[:, 2 + 66 * i : 66 * (i + 1)] == 255).all()) for i in range(3)] == [i >= number for i in range(3)]


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_coreset_chooses_of_each_class_what_it_chooses_where_all_have_its_number(name: str, tmp_path: Path) -> None:
    given = {"model": "mlp:width=8", "epochs": 2, "cache": tmp_path, "progress": False}
    options = {key: given[key] for key in inspect.signature(SELECTIONS[name]).parameters if key in given}
    chosen = SELECTIONS[name]("digits", DIGITS, **options)
    same = {number: SELECTIONS[name]("digits", number, **options).provenance["positions"] for number in set(DIGITS)}
    expected = [same[number][label * number : (label + 1) * number] for label, number in enumerate(DIGITS)]
    assert chosen.provenance["positions"] == [position for some in expected for position in some]
    assert (chosen.ipc, chosen.provenance["ipc"]) == (DIGITS, list(DIGITS))


# On the command line


COMMAND = ["--model", "mlp:width=8", "--iterations", "2", "--matching-steps", "2", "--model-epochs", "1", "--batch-real", "8", "--quiet"]
TEXT = ",".join(map(str, DIGITS))


def test_the_command_condense_takes_numbers_joined_by_commas(
    cli: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["condense", "--ipc", TEXT, *COMMAND, "--networks", "1", "--epochs", "1"]) == 0
    folder = tmp_path / "runs" / "digits-ipc1-4"
    options = {"model": "mlp:width=8", "iterations": 2, "matching_steps": 2, "model_epochs": 1, "batch_real": 8, "progress": False}
    assert torch.equal(CondensedDataset.load(folder / "condensed.safetensors").images, fastdc.condense("digits", DIGITS, **options).images)
    assert "random" in json.loads((folder / "evaluation.json").read_text())["results"]
    config = str(folder / "config.json")
    assert cli.main(["condense", "--config", config, "--networks", "1", "--epochs", "1", "--quiet", "--out", "again"]) == 0
    assert Path("again/condensed.safetensors").read_bytes() == (folder / "condensed.safetensors").read_bytes()
    assert cli.main(["evaluate", "again", "--baseline", "random", "--model", "mlp:width=8", "--networks", "1", "--epochs", "1"]) == 0
    assert capsys.readouterr().err == ""


def test_the_command_select_takes_numbers_joined_by_commas(cli: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second one finds the first one's folder
        assert cli.main(["select", "--coreset", "random", "--ipc", TEXT]) == 0
    folder = tmp_path / "runs" / "digits-random-ipc1-4"
    assert json.loads((folder / "config.json").read_text())["config"]["ipc"] == list(DIGITS)
    assert CondensedDataset.load(folder / "condensed.safetensors").ipc == DIGITS
    assert cli.main(["select", "--coreset", "random", "--ipc", ",".join("3" * 10), "--out", "three"]) == 0
    assert json.loads(Path("three/config.json").read_text())["config"]["ipc"] == 3


@pytest.mark.parametrize(
    "command", [["condense", *COMMAND], ["condense", *COMMAND, "--baseline", "none"], ["select", "--coreset", "random"]]
)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2,1", "ipc has 3 numbers for 10 classes; give one for each class, or one number for all"),
        ("1,1,1,1,1,0,1,1,1,1", "ipc is 0 for class number 5; expected a whole number of 1 or more"),
        ("1,,2", "'1,,2' is neither a whole number nor a list of them, as 10,1,5"),
    ],
)
def test_numbers_that_cannot_be_used_are_refused_on_the_command_line(
    cli: ModuleType, command: list[str], text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([*command, "--ipc", text, "--out", "out"]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_baseline_of_a_class_that_has_no_condensed_image_is_refused(
    cli: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = fastdc.coresets.random("digits", 1)
    some = chosen.labels < 9
    options = {"mean": chosen.mean, "std": chosen.std, "class_names": chosen.class_names, "provenance": chosen.provenance}
    CondensedDataset(chosen.images[some], chosen.labels[some], **options).save("nine.safetensors")
    assert cli.main(["evaluate", "nine.safetensors", "--baseline", "random"]) == 2
    assert "a class has no condensed image, and a baseline has images of each class; --baseline none" in capsys.readouterr().err


# What is refused


@pytest.mark.parametrize("verb", [fastdc.condense, *SELECTIONS.values()], ids=["condense", *SELECTIONS])
@pytest.mark.parametrize(
    ("ipc", "match"),
    [
        ([1, 2, 3], "ipc has 3 numbers for 5 classes; give one for each class, or one number for all"),
        ([2], "ipc has 1 number for 5 classes"),
        ([2] * 6, "ipc has 6 numbers for 5 classes"),
        ([], "ipc is an empty list; give one number for each class, or one number for all"),
        (np.zeros((0,), int), "ipc is an empty list"),
        ([1, 1, 0, 1, 1], "ipc is 0 for class number 2; expected a whole number of 1 or more for each class"),
        ([1, -1, 1, 1, 1], "ipc is -1 for class number 1"),
        ([1, True, 1, 1, 1], "ipc is True for class number 1"),
        (np.array([True] * 5), "ipc is True for class number 0"),
        ([1, 1.5, 1, 1, 1], "ipc is 1.5 for class number 1"),
        (torch.ones(5), "ipc is 1.0 for class number 0"),
        (np.ones((5, 2), int), r"ipc is \[1, 1\] for class number 0"),
        (["1"] * 5, "ipc is '1' for class number 0"),
        ("1,2,1,2,1", "ipc is '1,2,1,2,1'; expected a whole number"),
        ({0: 1}, r"ipc is \{0: 1\}; expected a whole number"),
        (None, "ipc is None; expected a whole number"),
    ],
    ids=str,
)
def test_numbers_that_cannot_be_used_get_a_sentence(verb: Any, ipc: Any, match: str) -> None:
    with pytest.raises(UsageError, match=match) as error:
        verb(DATA, ipc)
    assert "\n" not in str(error.value)


def test_a_class_with_too_few_images_to_start_from_is_named() -> None:
    with pytest.raises(UsageError, match=r"ipc is 6, but class 'class 4' has 5 images to start from; use an ipc of 5 or less, or init="):
        fastdc.condense(DATA, (1, 1, 12, 1, 6), init="real", **SHORT)
    with pytest.raises(UsageError, match=r"ipc is 2, each of 4 images, but class 'class 4' has 5 images .* use an ipc of 1 or less"):
        fastdc.condense(DATA, (1, 1, 3, 1, 2), init="real", formation="tiles", **SHORT)
    assert fastdc.condense(DATA, (1, 1, 12, 1, 5), init="real", **SHORT).ipc == (1, 1, 12, 1, 5)


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_class_with_too_few_images_to_choose_from_is_named(name: str) -> None:
    with pytest.raises(UsageError, match="ipc is 6 for class 'class 4'; expected a whole number from 1 to 5, the number of its images"):
        SELECTIONS[name](DATA, (1, 1, 12, 1, 6))


@pytest.mark.parametrize("method", ALL_AT_ONCE)
def test_a_match_of_all_classes_at_once_needs_one_number(method: str) -> None:
    options = {**SHORT, "model_epochs": None, "method": method}
    with pytest.raises(UsageError, match="trains on all classes at once and needs equally many images of each, but ipc goes from 1 to 3"):
        fastdc.condense(DATA, NUMBERS, **options)
    assert torch.equal(fastdc.condense(DATA, [2] * 5, **options).images, fastdc.condense(DATA, 2, **options).images)
