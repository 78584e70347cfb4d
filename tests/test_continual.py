"""Continual learning: stages and growth, what each training learns from, a call that is killed, and what is reported."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import leave_unwritten, needs_signals, noise_data
from tolerances import DISTILLED_LOGITS, GROWN, NORMALISED
from torch import Tensor, nn

import fastdc
from fastdc.cli import main
from fastdc.condensed import CondensedDataset
from fastdc.data import ImageData
from fastdc.errors import DataError, FastdcError, RunError, UsageError
from fastdc.experiments import ContinualResult, continual_learning, split_classes
from fastdc.experiments.continual import learner, runner
from fastdc.experiments.continual.growth import grow
from fastdc.experiments.continual.report import as_csv, markdown
from fastdc.experiments.continual.stages import Stage, as_stages
from fastdc.experiments.image_sets import ImageSetOptions
from fastdc.models import build
from fastdc.report.continual import continual_report
from fastdc.training.by_batch import Batch

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL = "convnet:width=8,depth=1"
OPTIONS: dict[str, Any] = {"model": MODEL, "epochs": 1, "fine_tuning_epochs": 1, "scenario": "class", "progress": False}


@pytest.fixture(scope="module")
def digits() -> list[tuple[ImageData, ImageData]]:
    """Three stages: 0 to 2, 3 to 6, 7 to 9."""
    return split_classes(*fastdc.load_dataset("digits"), 3)


# stages


def test_classes_are_split_in_their_order(digits: list[tuple[ImageData, ImageData]]) -> None:
    assert [pair[0].class_names for pair in digits] == [tuple("012"), tuple("3456"), tuple("789")]
    train, test = fastdc.load_dataset("digits")
    for (some, tested), classes in zip(digits, (range(3), range(3, 7), range(7, 10)), strict=True):
        for data, whole in ((some, train), (tested, test)):
            of_classes = (whole.labels[:, None] == torch.tensor(classes)).any(1)
            assert torch.equal(data.images, whole.images[of_classes])
            assert torch.equal(data.labels + classes[0], whole.labels[of_classes])
    assert digits[1][0].name == "digits 3 to 6"


def test_new_classes_are_numbered_after_the_old_ones(digits: list[tuple[ImageData, ImageData]]) -> None:
    stages = as_stages(digits, "class")
    assert [(stage.offset, stage.groups, stage.seen) for stage in stages] == [(0, (3,), 3), (3, (3, 4), 7), (7, (3, 4, 3), 10)]
    assert torch.equal(stages[1].tested.labels, digits[1][1].labels + 3)
    assert stages[1].tested.num_classes == 7


def test_the_same_classes_keep_their_numbers() -> None:
    stages = as_stages([("digits", "digits")] * 2, "task")
    assert [(stage.offset, stage.groups) for stage in stages] == [(0, (10,))] * 2


def test_stages_are_brought_to_one_form() -> None:
    small, large = noise_data((4, 4)), noise_data((4, 4), 3, 12, seed=1)
    first, second = as_stages([(small, small), (large, large)], "task")
    assert first.train.images.shape == (8, 3, 12, 12)
    assert torch.equal(first.train.images[:, 0], first.train.images[:, 2])  # grey is repeated
    assert torch.equal(second.train.images, large.images)
    assert second.train.mean == first.train.mean == second.test.mean
    normalised = first.train.normalised(slice(None))
    assert normalised.mean().abs() < 1e-6
    assert normalised.std(correction=0).item() == pytest.approx(1, abs=NORMALISED[torch.float32])
    shrunk = as_stages([(small, small), (large, large)], "task", (6, 7))[1].train
    assert shrunk.images.shape == (8, 3, 6, 7)
    assert abs(shrunk.images.float().mean() - large.images.float().mean()) < 5


def test_stages_of_one_name_are_told_apart(tmp_path: Path) -> None:
    names = ["data", "data (2)", "data", "all"]  # "all" is the average in table.csv
    stages = [(dataclasses.replace(noise_data((4, 4), seed=number), name=name),) * 2 for number, name in enumerate(names)]
    result = continual_learning(stages, "random", 1, **OPTIONS | {"scenario": "task"}, out=tmp_path)
    assert result.stages == ("data", "data (2)", "data (3)", "all (2)")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    expected = [(after, stage) for number, after in enumerate(result.stages, 1) for stage in (*result.stages[:number], "all")]
    assert [(row["after"], row["stage"]) for row in rows] == expected
    averages, by_stage = continual_report(tmp_path).grids
    assert averages.head == ("memory", "after 1: data", "after 2: data (2)", "after 3: data (3)", "after 4: all (2)", "forgotten")
    assert by_stage.head == ("memory", *result.stages)
    assert json.loads((tmp_path / "config.json").read_text())["config"]["stages"] == names  # so that an earlier version's folder goes on


# growth


@pytest.mark.parametrize("spec", ["convnet:width=8", "convnet:width=8,norm=batch", "mlp:width=16"])
def test_growth_keeps_the_old_logits(spec: str) -> None:
    older, images = build(spec, 1, 4, (8, 8)), torch.randn(5, 1, 8, 8)
    older(images)  # moves a batch norm's statistics
    newer = grow(build(spec, 1, 7, (8, 8)), older).eval()
    torch.testing.assert_close(newer(images)[:, :4], older.eval()(images), rtol=0, atol=GROWN)
    assert newer(images).shape == (5, 7)


@pytest.mark.parametrize("newer", ["mlp:width=8", "convnet:width=16,depth=1", "convnet:width=8,depth=2"])
def test_growth_refuses_another_structure(newer: str) -> None:
    with pytest.raises(UsageError, match="cannot grow"):
        grow(build(newer, 1, 7, (8, 8)), build("convnet:width=8,depth=1", 1, 4, (8, 8)))
    with pytest.raises(UsageError, match="cannot grow"):
        grow(nn.Linear(4, 2), nn.Linear(4, 3))


# what each training learns from


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> dict[str, Batch]:
    """Instead of being trained, all that a training would see lies here under its name, in one batch."""
    seen: dict[str, Batch] = {}

    def look(engine: Any, family: Any, theta: Tensor, count: int, fetch: Any, phases: Any, seed: int, stream: str) -> Iterator[None]:
        seen[stream] = fetch(torch.randperm(count))
        seen[f"{stream} phases"] = phases
        theta.add_(0.01)
        yield

    monkeypatch.setattr(learner, "train_by_batch", look)
    return seen


def learn_third_stage(digits: Any, distill: bool) -> tuple[tuple[Stage, ...], list[CondensedDataset], nn.Module, nn.Module]:
    stages = as_stages(digits, "class")
    memories = [fastdc.coresets.random(stage.train, 2) for stage in stages[:2]]
    learning = learner.LearningOptions(model=MODEL, epochs=4, fine_tuning_epochs=3, distill=distill, engine="auto", device="cpu", seed=0)
    older = build(MODEL, 1, 7, (8, 8))
    return stages, memories, older, learner.learn_stage(learning, stages, 2, older, memories)


@pytest.mark.parametrize("distill", [True, False])
def test_a_stage_is_learned_from_its_images_and_all_memories(digits: Any, trainings: dict[str, Any], distill: bool) -> None:
    stages, memories, older, _ = learn_third_stage(digits, distill)
    batch, train = trainings["stage"], stages[2].train
    assert len(batch.images) == len(train) + 2 * 7
    assert torch.equal(batch.images[: len(train)], train.normalised(slice(None)))
    assert torch.equal(batch.labels[: len(train)], train.labels + 7)
    assert torch.equal(batch.images[len(train) :], torch.cat([memory.images for memory in memories]))
    assert batch.labels[len(train) :].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert [phase.lr for phase in trainings["stage phases"]] == pytest.approx([0.01, 0.001])
    if distill:
        torch.testing.assert_close(batch.distillation.logits, older.eval()(batch.images).detach(), rtol=0, atol=DISTILLED_LOGITS)
        assert (batch.distillation.groups, batch.distillation.temperature) == ((3, 4), 2.0)
    else:
        assert batch.distillation is None
        assert "fine-tuning" not in trainings


def test_tuning_sees_an_equal_number_of_images_of_every_class(digits: Any, trainings: dict[str, Any]) -> None:
    stages, memories, _, module = learn_third_stage(digits, True)
    batch = trainings["fine-tuning"]
    assert torch.bincount(batch.labels).tolist() == [2] * 10
    real, kept = batch.images[batch.labels >= 7], batch.images[batch.labels < 7]
    assert torch.equal(kept, torch.cat([memory.images for memory in memories]))
    images = stages[2].train.normalised(slice(None))
    positions = [(images == image).flatten(1).all(1).nonzero()[0].item() for image in real]
    assert len(set(positions)) == 6
    assert [stages[2].train.labels[position].item() for position in positions] == (batch.labels[batch.labels >= 7] - 7).tolist()
    (phase,) = trainings["fine-tuning phases"]
    assert (phase.epochs, phase.lr) == (3, pytest.approx(0.001))
    assert batch.distillation.groups == (3, 4, 3)
    # What is kept is what the network said after the stage, before the tuning, which moved every weight by 0.01 as the stage did.
    with torch.no_grad():
        for value in module.parameters():
            value.sub_(0.01)
    torch.testing.assert_close(batch.distillation.logits, module.eval()(batch.images).detach(), rtol=0, atol=DISTILLED_LOGITS)


def test_the_first_stage_is_learned_alone(digits: Any, trainings: dict[str, Any]) -> None:
    stages = as_stages(digits, "class")
    learning = learner.LearningOptions(model=MODEL, epochs=1, fine_tuning_epochs=1, distill=True, engine="auto", device="cpu", seed=0)
    learner.learn_stage(learning, stages, 0, None, [])
    assert len(trainings["stage"].images) == len(stages[0].train)
    assert trainings["stage"].distillation is None
    assert "fine-tuning" not in trainings


def test_tuning_sees_as_many_real_images_as_a_memory_becomes(digits: Any, trainings: dict[str, Any]) -> None:
    stages = as_stages(digits, "class")
    memory = fastdc.condense(stages[0].train, 1, method="untrained", formation="frequency:images=4", model=MODEL)
    learning = learner.LearningOptions(model=MODEL, epochs=1, fine_tuning_epochs=1, distill=True, engine="auto", device="cpu", seed=0)
    learner.learn_stage(learning, stages, 1, build(MODEL, 1, 3, (8, 8)), [memory])
    assert torch.bincount(trainings["fine-tuning"].labels).tolist() == [4] * 7


# from the first stage to the last


def test_a_memory_is_made_within_a_budget(digits: Any, tmp_path: Path) -> None:
    continual_learning(digits, "auto", 1, budget="2s", out=tmp_path, **OPTIONS)
    written = json.loads((tmp_path / "runs" / "auto-seed0" / "memory1" / "config.json").read_text())
    assert written["config"]["budget"] == "2s"
    with pytest.raises(UsageError, match="budget is 'soon'; expected a time such as"):
        continual_learning(digits, "auto", 1, budget="soon", **OPTIONS)


def test_memory_and_distillation_keep_what_would_be_forgotten(digits: Any) -> None:
    options = OPTIONS | {"model": "convnet:width=16", "epochs": 40, "fine_tuning_epochs": 30}
    kept = continual_learning(digits, "random", 10, **options)
    lost = continual_learning(digits, "random", 1, False, **options)
    assert kept.average(2).mean > lost.average(2).mean + 0.15
    assert kept.forgetting(2).mean < lost.forgetting(2).mean - 0.2
    assert (kept.images, kept.storage, lost.images) == (70, 70 * 64, 7)


@pytest.mark.parametrize("memory", ["random", "herding", "dc"])
def test_a_killed_call_continues_and_ends_in_the_same_numbers(digits: Any, memory: str, tmp_path: Path, monkeypatch: Any) -> None:
    options = OPTIONS | {"iterations": 1, "batch_real": 8, "whole_set_epochs": 1, "seeds": 2}
    expected = continual_learning(digits, memory, 2, out=tmp_path / "whole", **options)
    learned: list[tuple[int, int]] = []
    original = learner.learn_stage

    def learn_stage(learning: learner.LearningOptions, stages: Any, number: int, *rest: Any) -> nn.Module:
        if (learning.seed, number) in killed_at:
            raise KeyboardInterrupt
        learned.append((learning.seed, number))
        return original(learning, stages, number, *rest)

    killed_at = {(1, 2)}
    monkeypatch.setattr(runner, "learn_stage", learn_stage)
    with pytest.raises(KeyboardInterrupt):
        continual_learning(digits, memory, 2, out=tmp_path / "killed", **options)
    assert learned == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    killed_at.clear()
    learned.clear()
    found = continual_learning(digits, memory, 2, out=tmp_path / "killed", **options)
    assert learned == [(1, 2)]
    assert found == expected
    learned.clear()
    assert continual_learning(digits, memory, 2, out=tmp_path / "killed", **options) == expected
    assert learned == []


def test_memories_that_differ_in_a_character_are_made_each(digits: Any, tmp_path: Path) -> None:
    memories = ("idc:augmentation=crop+scale", "idc:augmentation=crop/scale")
    config = runner.ContinualConfig(memories=memories, distill=(True,), scenario="class", model=MODEL)
    whole = runner.ContinualRunner(digits, config, tmp_path)
    first, second = map(whole.path, whole.runs)
    assert first.name == "idc_augmentation=crop_scale-seed0"  # as an earlier version called it
    assert second.name != first.name


@needs_signals
def test_what_a_killed_process_was_writing_is_removed(digits: Any, tmp_path: Path) -> None:
    alive = leave_unwritten(*(tmp_path / "out" / "runs" / "random-seed0" / name for name in ("distilled", "memory1")))
    continual_learning(digits, "random", 1, out=tmp_path / "out", **OPTIONS)
    assert sorted(tmp_path.rglob("*.tmp")) == sorted(alive)


@pytest.mark.parametrize(("memory", "expected"), [("dsa", (1000, 256)), ("idc", (None, None)), ("dm", (None, 256))])
def test_a_memory_has_the_numbers_of_its_recipe_unless_others_are_given(
    digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str, expected: tuple[int | None, int | None]
) -> None:
    made: list[ImageSetOptions] = []
    monkeypatch.setattr(runner, "make_image_set", lambda name, train, options, *_: made.append(options))
    for number, given in enumerate(({}, {"iterations": 3, "batch_real": 4})):
        config = runner.ContinualConfig(memories=("random", memory), distill=(True,), ipc=1, scenario="class", model=MODEL, **given)
        whole = runner.ContinualRunner(digits, config, tmp_path / str(number))
        whole.memory(whole.runs[1], 0)
        content = json.loads((tmp_path / str(number) / "config.json").read_text())["config"]
        assert (content["iterations"], content["batch_real"]) == ((3, 4) if given else expected)
    assert [(options.iterations, options.batch_real) for options in made] == [expected, (3, 4)]


def test_a_memory_of_some_digits_mirrors_no_image(digits: Any, tmp_path: Path) -> None:
    continual_learning(digits[:2], "dm", 1, iterations=1, batch_real=2, out=tmp_path, **OPTIONS)
    learned = CondensedDataset.load(tmp_path / "runs" / "dm-seed0" / "memory1")
    assert learned.provenance["dataset"] == "digits 0 to 2"
    assert learned.provenance["config"]["augmentation"] == "siamese:operations=color+crop+cutout+scale+rotate,mode=one"


def test_a_failed_run_is_named_and_tried_again(digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(runner, "learn_stage", lambda *_: (_ for _ in ()).throw(RunError("a weight is not finite.")))
        with pytest.raises(RunError, match=r"1 of 1 runs failed, random with seed 0 first: a weight is not finite\. The same call"):
            continual_learning(digits, "random", 2, out=tmp_path, **OPTIONS)
    assert continual_learning(digits, "random", 2, out=tmp_path, **OPTIONS).images == 14


def test_whoever_collects_the_results_makes_no_memory(digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = continual_learning(digits, "random", 2, out=tmp_path, **OPTIONS)
    assert len(list(tmp_path.glob("runs/random-seed0/memory*/condensed.safetensors"))) == 2
    monkeypatch.setattr(runner, "make_image_set", None)  # another process may be at it
    assert continual_learning(digits, "random", 2, out=tmp_path, **OPTIONS) == result


def test_stages_with_the_same_classes(tmp_path: Path) -> None:
    train, test = noise_data((20, 20, 20)), noise_data((5, 5, 5), seed=1)
    coloured = noise_data((20, 20, 20), 3, 10, seed=2)
    result = continual_learning([(train, test), (coloured, coloured)], "random", 2, **OPTIONS | {"scenario": "task"}, out=tmp_path)
    assert [len(accuracies) for accuracies in result.accuracies[0]] == [1, 2]
    memory = CondensedDataset.load(tmp_path / "runs" / "random-seed0" / "memory1" / "condensed.safetensors")
    assert memory.images.shape == (6, 3, 10, 10)
    assert (tmp_path / "runs" / "random-seed0" / "memory1" / "condensed.png").exists()
    assert not (tmp_path / "runs" / "random-seed0" / "memory2").exists()  # no stage comes after it
    assert "| random | yes |" in (tmp_path / "table.md").read_text()
    assert "Average accuracy over the stages so far" in (tmp_path / "report.html").read_text()
    assert result.storage == 6 * 300


# what is reported

RESULT = ContinualResult(
    "dc", True, ("svhn", "mnist", "usps"), (((0.9,), (0.7, 0.8), (0.8, 0.6, 0.5)), ((0.7,), (0.7, 0.9), (0.6, 0.9, 0.9))), 300, 1228800
)


def test_averages_and_forgetting_of_numbers_made_by_hand() -> None:
    assert RESULT.average(1).accuracies == pytest.approx((0.75, 0.8))
    assert RESULT.on_stage(2, 1).accuracies == (0.6, 0.9)
    # Best before the last stage: 0.9 and 0.8 against 0.8 and 0.6; 0.7 and 0.9 against 0.6 and 0.9.
    assert RESULT.forgetting(2).accuracies == pytest.approx((0.15, 0.05))


def test_the_paper_s_figures_stand_beside_ours() -> None:
    plain = dataclasses.replace(RESULT, memory="random", distill=False)
    text = markdown([RESULT, plain], "caption", "plot.png")
    assert "| dc | yes | 80.0 +- 10.0 | 77.5 +- 2.5 (paper 94.8) | 71.7 +- 8.3 (paper 95.2) | 10.0 +- 5.0 | 300 | 1200 |" in text
    assert "| random | no | 80.0 +- 10.0 | 77.5 +- 2.5 | 71.7 +- 8.3 | 10.0 +- 5.0 | 300 | 1200 |" in text
    assert "| dc | yes | 70.0 +- 10.0 | 75.0 +- 15.0 | 70.0 +- 20.0 |" in text
    assert "over 2 seed(s). caption" in text
    rows = list(csv.DictReader(io.StringIO(as_csv([RESULT]))))
    assert [(row["after"], row["stage"]) for row in rows[:3]] == [("svhn", "svhn"), ("svhn", "all"), ("mnist", "svhn")]
    assert list(rows[-1].values()) == ["dc", "yes", "usps", "all", "71.67", "8.33", "2", "95.2", "10.00"]
    assert "paper" not in markdown([dataclasses.replace(RESULT, stages=("a", "b", "c"))], "", None)


@pytest.mark.parametrize("there", [True, False], ids=["with matplotlib", "without matplotlib"])
def test_the_command_from_end_to_end_and_again(
    there: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if there and importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    monkeypatch.setattr("fastdc.experiments.continual.report.can_plot", lambda: there)
    command = ["continual", "--stages", "digits", "--split", "2", "--memory", "random", "dc", "--ipc", "1", "--scale", "tiny", "--quiet"]
    command += ["--out", str(tmp_path / "out")]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert output.count("after stage 1 of 2 (digits 0 to 4)") == 4
    assert f"written to {tmp_path / 'out'}" in output
    assert (tmp_path / "out" / "continual.png").exists() == there
    assert "fastdc continual" in (tmp_path / "out" / "command.txt").read_text()
    text = (tmp_path / "out" / "table.md").read_text()
    assert [line.split(" | ")[:2] for line in text.splitlines()[4:8]] == [
        ["| random", "yes"],
        ["| random", "no"],
        ["| dc", "yes"],
        ["| dc", "no"],
    ]
    assert "Scale tiny: iterations 1, batch_real 8" in text
    content = json.loads((tmp_path / "out" / "config.json").read_text())["config"]
    assert (content["model"], content["scenario"], content["memories"]) == ("convnet:width=8", "class", ["random", "dc"])
    assert main(command) == 0
    assert "after stage" not in capsys.readouterr().out
    assert (tmp_path / "out" / "table.md").read_text() == text


def test_the_caption_at_the_scale_of_the_paper_says_what_all_methods_have(tmp_path: Path) -> None:
    flags = "--scale paper --epochs 1 --fine-tuning-epochs 1 --whole-set-epochs 1 --seeds 1 --distill no --ipc 1 --model convnet:width=8"
    flags += " --stages digits --split 2 --memory random --quiet"
    assert main(["continual", *flags.split(), "--out", str(tmp_path)]) == 0
    assert "iterations 1000, batch_real 256, epochs 1" in (tmp_path / "table.md").read_text()


def test_processes_share_the_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["continual", "--stages", "digits", "--split", "2", "--memory", "random", "--ipc", "1", "--scale", "tiny", "--seeds", "3"]
    assert main([*command, "--quiet", "--workers", "2", "--out", str(tmp_path)]) == 0
    capfd.readouterr()
    assert len(list(tmp_path.glob("runs/*/distilled/stage2.safetensors"))) == 3
    alone = continual_learning(
        split_classes(*fastdc.load_dataset("digits"), 2), "random", 1, **OPTIONS | {"model": "convnet:width=8"}, seeds=3
    )
    assert "Average accuracy over the stages so far" in (tmp_path / "report.html").read_text()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    found = next(row for row in rows if row["stage"] == "all" and row["after"] == "digits 5 to 9" and row["distillation"] == "yes")
    assert float(found["mean"]) == pytest.approx(100 * alone.average(1).mean, abs=0.006)  # two digits are written


# bad input


@pytest.mark.parametrize(
    ("stages", "changes", "error", "text"),
    [
        (["digits"], {}, UsageError, "stages is 1 stage(s); expected a list of two or more"),
        ("digits", {}, UsageError, "stages is 'digits'; expected a list of two or more"),
        (["digits", 3], {}, UsageError, "stage 2 is a int; expected the name of a dataset, or a pair"),
        (["digits", "digit"], {}, UsageError, "Did you mean 'digits'"),
        (2, {"scenario": "task"}, DataError, "has 4 classes, the first 3; expected the same ones in every stage, or scenario='class'"),
        (2, {"scenario": "tasks"}, UsageError, "unknown scenario 'tasks'. Did you mean 'task'"),
        (2, {"memory": "hearding"}, UsageError, "unknown memory 'hearding'. Did you mean 'herding'"),
        (2, {"memory": "herding:features=pixels"}, UsageError, "a coreset takes none here"),
        (2, {"memory": "dc:speed=3"}, UsageError, "unknown option of 'dc' 'speed'"),
        (2, {"ipc": 500}, UsageError, "ipc is 500; expected a whole number from 1 to"),
        (2, {"ipc": 0}, UsageError, "ipc is 0; expected a whole number of 1 or more"),
        (2, {"seeds": 0}, UsageError, "seeds is 0"),
        (2, {"epochs": 1.5}, UsageError, "epochs is 1.5"),
        (2, {"seed": -1}, UsageError, "seed is -1"),
        (2, {"distill": "yes"}, UsageError, "distill is 'yes'; expected True or False"),
        (2, {"image_size": 8}, UsageError, "image_size is 8; expected (height, width)"),
        (2, {"model": "lenet"}, UsageError, "needs images of 16x16 pixels or more"),
        (2, {"engine": "nativ"}, UsageError, "unknown engine"),
        (2, {"device": "gpu"}, UsageError, "unknown device"),
        (2, {"out": 3}, UsageError, "out is 3; expected the path of a folder"),
    ],
    ids=str,
)
def test_bad_input_gets_a_sentence(digits: Any, stages: Any, changes: dict[str, Any], error: type[FastdcError], text: str) -> None:
    with pytest.raises(error) as caught:
        continual_learning(digits[:stages] if isinstance(stages, int) else stages, **OPTIONS | {"scenario": "class"} | changes)
    assert text in str(caught.value)


def test_a_test_set_of_another_kind_is_refused() -> None:
    data = noise_data((4, 4))
    for other in (noise_data((4, 4, 4)), noise_data((4, 4), 3), noise_data((4, 4), side=10)):
        with pytest.raises(DataError, match="the test set of stage 2 has"):
            continual_learning([(data, data), (data, other)], "random", **OPTIONS)


def test_stages_of_several_channels_are_refused_unless_grey_can_be_repeated() -> None:
    grey, colour, four = ((noise_data((4, 4), channels),) * 2 for channels in (1, 3, 4))
    assert as_stages([grey, colour], "task", None)[0].train.channels == 3
    with pytest.raises(DataError, match="images of stage 2 have 3 channels; expected 4, as the others, or 1"):
        as_stages([grey, colour, four], "task", None)


def test_labels_that_are_names_are_numbered_alike_in_both_halves() -> None:
    images = noise_data((4, 4)).images
    names = ["cat", "dog", "fox", "owl"]
    stages = split_classes((images, names * 2), (images[:4], ["fox", "owl", "fox", "cat"]), 2)
    assert [(test.class_names, test.labels.tolist()) for _, test in stages] == [(("cat", "dog"), [0]), (("fox", "owl"), [0, 1, 0])]


def test_another_configuration_in_the_folder_is_refused(digits: Any, tmp_path: Path) -> None:
    continual_learning(digits, "random", 1, out=tmp_path, **OPTIONS)
    with pytest.raises(UsageError, match=r"differs in ipc \(1 there, 2 now\)"):
        continual_learning(digits, "random", 2, out=tmp_path, **OPTIONS)


@pytest.mark.parametrize("stages", [1, 6])
def test_a_split_needs_two_classes_for_each_stage(stages: int) -> None:
    with pytest.raises(UsageError, match=f"10 classes cannot be split into {stages} stages; expected 2 to 5"):
        split_classes(*fastdc.load_dataset("digits"), stages)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--distill", "maybe"], "unknown distill 'maybe'"),
        (["--scale", "huge"], "unknown scale 'huge'"),
        (["--split", "2"], "--split 2 with 2 datasets; expected one"),
        (["--seeds", "0"], "seeds is 0"),
        (["--workers", "0"], "workers is 0"),
        (["--image-size", "0"], "image_size is 0"),
        (["--memory", "dc", "dc"], "memory is dc dc; expected each once"),
        (["--stages", "digits"], "stages is 1 stage(s)"),
    ],
    ids=str,
)
def test_bad_flags_get_a_sentence(flags: list[str], text: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    stages = [] if "--stages" in flags else ["--stages", "digits", "digits"]
    assert main(["continual", *stages, *flags]) == 2
    assert text in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_memory_twice_is_refused(digits: Any, tmp_path: Path) -> None:
    config = runner.ContinualConfig(memories=("random", "dc", "random"), distill=(True,), scenario="class", model=MODEL)
    with pytest.raises(UsageError, match="memory is random dc random; expected each once"):
        runner.ContinualRunner(digits, config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_refused(digits: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(RunError, match="is a file; expected a folder"):
        continual_learning(digits, "random", 1, out=tmp_path / "mine", **OPTIONS)
    assert (tmp_path / "mine").read_text() == "mine"
