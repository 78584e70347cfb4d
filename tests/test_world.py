"""Runs that several processes share: the same bits for any number of them, and an end with a sentence where one is lost."""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT, noise_data
from PIL import Image
from processes import Processes, free_port, together

import fastdc
from fastdc.callbacks import Event, IterationDone
from fastdc.data.part import part_of
from fastdc.data.sources.named import load_share
from fastdc.parallel.world import world
from fastdc.runs.files import load_tensors

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch has no gloo"
)

SMALL: dict[str, Any] = {"iterations": 3, "model": "convnet:width=8", "batch_real": 24, "progress": False}
# Beside the methods: images to start from, of real ones; statistics of a batch norm; networks trained on real images; a set that one
# process alone needs whole; engines whose bits depend on how many classes they are given, which go class by class in a group of one.
RUNS: dict[str, dict[str, Any]] = {
    "dc": {"method": "dc"},
    "dc, trained together": {"method": "dc", "ipc": 7, "matching_steps": 2, "model_epochs": 2},
    "idc": {"method": "idc", "init": "kmeans", "matching_steps": 2},
    "dm": {"method": "dm"},
    "dream": {"method": "dream:sample=30", "matching_steps": 2},
    "dd": {"method": "dd:unroll=2"},
    "batch norm": {"method": "dc", "model": "convnet:width=8,norm=batch"},
    "pretrained": {"method": "dc", "pool": "pretrained:networks=3,epochs=1", "model": "mlp:width=8"},
    "ipc by class": {"method": "dc", "ipc": [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]},
}


def learned(options: dict[str, Any]) -> torch.Tensor:
    torch.set_num_threads(1)
    return fastdc.condense("digits", **{"ipc": 2, **SMALL, **options}).stored


def all_learned(runs: dict[str, dict[str, Any]]) -> list[torch.Tensor]:
    return [learned(options) for options in runs.values()]


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_processes_learns_the_same_bits(size: int) -> None:
    expected = all_learned(RUNS)
    for found in together(size, all_learned, RUNS):
        for name, one, other in zip(RUNS, found, expected, strict=True):
            assert torch.equal(one, other), name


def test_by_any_engine() -> None:
    runs = {engine: {"engine": engine, "method": "dm", "model": "mlp:width=8"} for engine in ("torch", "reference")}
    (expected, _), (found, _, _) = together(2, all_learned, runs), together(3, all_learned, runs)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_more_processes_than_classes() -> None:
    data = noise_data([9, 9])
    for found in together(3, _of_noise, data):
        assert torch.equal(found, _of_noise(data))


def _of_noise(data: fastdc.ImageData) -> torch.Tensor:
    return fastdc.condense(data, 1, **SMALL).stored


def _evaluated_in_a_callback() -> torch.Tensor:
    def evaluate(event: Event) -> None:
        if isinstance(event, IterationDone):
            _evaluated()

    return learned({"callbacks": [evaluate]})


def test_a_callback_may_evaluate() -> None:
    for found in together(2, _evaluated_in_a_callback):
        assert torch.equal(found, learned({}))


def _evaluated_of_its_own() -> None:
    fastdc.evaluate(fastdc.coresets.random("digits", 1, seed=world().rank), "digits", model="mlp:width=8", networks=2, epochs=1)


def test_another_set_to_evaluate_is_refused() -> None:
    for text in Processes(2, _evaluated_of_its_own).results():
        assert "process 1 differs from process 0 in condensed" in text


def _evaluated() -> tuple[float, ...]:
    torch.set_num_threads(1)
    images = fastdc.coresets.random("digits", 1)
    return fastdc.evaluate(images, "digits", model="mlp:width=8", networks=3, epochs=2, progress=False).accuracies


def test_networks_of_an_evaluation_are_shared_out() -> None:
    for found in together(2, _evaluated):
        assert found == _evaluated()
    assert together(4, _evaluated)[3] == _evaluated()  # one has none to train


def _budget(folder: Path) -> int:
    made = fastdc.condense("digits", 1, budget="5s", out=folder, **{**SMALL, "iterations": None})
    iterations: int = made.provenance["config"]["iterations"]
    return iterations


def test_all_plan_the_same_iterations(tmp_path: Path) -> None:
    found = together(2, _budget, tmp_path)
    assert found[0] == found[1] >= 1


def _differing() -> None:
    fastdc.condense("digits", 1, **{**SMALL, "lr_images": 0.1 * (1 + world().rank)})


def test_other_options_are_refused_at_all() -> None:
    for text in Processes(3, _differing).results():
        assert "process 1 differs from process 0 in lr_images (0.2, not 0.1)" in text


def _kept(folder: Path) -> torch.Tensor:
    return learned({"out": folder, "iterations": 24})


def _in_use(folder: Path) -> None:
    if world().rank == 0:
        folder.write_text("a file")
    fastdc.condense("digits", 1, out=folder, **SMALL)


def test_what_the_first_cannot_do_is_said_by_all(tmp_path: Path) -> None:
    first, second = Processes(2, _in_use, tmp_path / "run").results()
    assert "is a file" in first
    assert second == first


def test_whoever_leaves_a_run_ends_the_others(tmp_path: Path) -> None:
    first, second = Processes(2, _fails_within, tmp_path / "run").results()
    assert second == "ValueError: of its own"
    assert "process 1 has left: ValueError: of its own" in first


def _fails_within(folder: Path) -> torch.Tensor:
    from fastdc.recipe.match.gradients import GradientMatching

    if world().rank == 1:
        GradientMatching.compare = _raise  # type: ignore[method-assign]
    return _kept(folder)


def _raise(*_: object) -> Any:
    raise ValueError("of its own")


def test_a_process_that_is_killed_ends_the_others_and_any_number_goes_on(tmp_path: Path) -> None:
    expected, chance = _kept(tmp_path / "whole"), random.Random(0)
    for number in range(20):
        folder, size = tmp_path / str(number), 2 + number % 2
        running, lost = Processes(size, _kept, folder), chance.randrange(size)
        _wait_for(folder / "checkpoint.safetensors")
        time.sleep(0.3 * chance.random())
        running.signal(lost, signal.SIGKILL)
        for rank, text in enumerate(running.results(30)):
            if rank != lost and isinstance(text, str):
                assert f"process {lost} has given no sign of life" in text
        for found in together(1 + (number + size) % 3, _kept, folder):
            assert torch.equal(found, expected)
    assert load_tensors(folder / "checkpoint.safetensors", "checkpoint")[0]["stored"].equal(expected)


def _wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.01)


def test_a_process_that_is_stopped_ends_the_others(tmp_path: Path) -> None:
    running = Processes(2, _kept, tmp_path / "run")
    _wait_for(tmp_path / "run" / "checkpoint.safetensors")
    running.signal(1, signal.SIGSTOP)
    text = running.result(0, timeout=30)
    running.signal(1, signal.SIGKILL)
    assert "process 1 has given no sign of life" in text


def test_a_signal_to_one_writes_a_checkpoint_at_all(tmp_path: Path) -> None:
    running = Processes(2, _kept, tmp_path / "run")
    _wait_for(tmp_path / "run" / "checkpoint.safetensors")
    running.signal(1, signal.SIGTERM)
    for text in running.results(30):
        assert "Interrupted: stopped after" in text
    assert torch.equal(together(3, _kept, tmp_path / "run")[2], _kept(tmp_path / "whole"))


def _torchrun(*arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_on_two_machines(tmp_path: Path) -> None:
    """Two addresses of this one, each with a launcher of its own."""
    options = shlex.split("--dataset digits --ipc 2 --iterations 3 --model convnet:width=8 --batch-real 24 --networks 2 --epochs 2")
    port = free_port()
    machines = [
        _torchrun(
            *("--nnodes=2", f"--node-rank={rank}", "--nproc-per-node=1", "--master-addr=127.0.0.2", f"--master-port={port}"),
            *(f"--local-addr=127.0.0.{2 + rank}", "-m", "fastdc", "condense", *options, "--out", str(tmp_path / "run")),
        )
        for rank in range(2)
    ]
    try:
        (first, errors), (second, _) = (machine.communicate(timeout=120) for machine in machines)
    finally:
        for machine in machines:
            machine.kill()
    assert [machine.returncode for machine in machines] == [0, 0], errors
    assert "written to" in first
    assert second == ""  # the first alone speaks
    assert fastdc.CondensedDataset.load(tmp_path / "run" / "condensed.safetensors").stored.equal(learned(RUNS["dc"]))


def test_a_part_of_a_set_gives_what_the_whole_gives() -> None:
    whole = noise_data([5, 4, 3])
    part = part_of(whole, [0, 2])
    index = torch.cat([whole.class_members[2], whole.class_members[0]])
    assert torch.equal(part.normalised(index), whole.normalised(index))
    assert (len(part), part.fingerprint, part.image_size) == (len(whole), whole.fingerprint, whole.image_size)
    with pytest.raises(IndexError):
        part.normalised(whole.class_members[1])


def _pictures(folder: Path, classes: int, each: int) -> str:
    """Pictures of noise, and one that is of another kind in each half."""
    pixels = np.random.default_rng(0).integers(256, size=(classes, each, 8, 8, 3), dtype=np.uint8)
    for half, some in (("train", pixels), ("test", pixels[:, :2])):
        for number, images in enumerate(some):
            (folder / half / f"class {number}").mkdir(parents=True)
            for i, image in enumerate(images):
                made = Image.fromarray(image if (number, i) == (1, 0) else image[..., 0])
                made.save(folder / half / f"class {number}" / f"{i}.png")
    return f"folder:{folder}"


def _archive(path: Path, dtype: type, names: bool = False) -> str:
    pixels = np.random.default_rng(0).integers(256, size=(30, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(30) * 7 % 3
    labels = np.array(["ant", "bee", "cow"])[labels] if names else labels
    images = pixels if dtype is np.uint8 else (pixels / 255).astype(dtype)
    np.savez(path, x_train=images, y_train=labels, x_test=images[:3], y_test=labels[:3])
    return f"npz:{path}"


def _shard(path: Path, pictures: Path) -> str:
    """Pictures of a folder as samples of a tar file."""
    path.mkdir()
    with tarfile.open(path / "all.tar", "w") as shard:
        for number, file in enumerate(sorted(pictures.rglob("*.png"))):
            label = path / "label"
            label.write_text(file.parent.name)
            shard.add(file, f"{number}.png")
            shard.add(label, f"{number}.cls")
    return f"shards:{path}"


def _of_files(names: list[str]) -> list[torch.Tensor]:
    torch.set_num_threads(1)
    ways: list[dict[str, Any]] = [{}, {"init": "real"}, {"init": "kmeans"}, {"formation": "frequency"}]
    few = {**SMALL, "batch_real": 4, "iterations": 1}
    found = [fastdc.condense(name, 1, **few, **way) for name in names for way in ways]
    return [torch.tensor(list(each.provenance["fingerprint"].encode())) for each in found] + [each.stored for each in found]


@pytest.mark.filterwarnings("ignore:folder")
def test_each_process_reads_its_own_of_files(tmp_path: Path) -> None:
    names = [_pictures(tmp_path / "folder", 3, 6), _archive(tmp_path / "bytes.npz", np.uint8, names=True)]
    names += [_archive(tmp_path / "floats.npz", np.float32), _shard(tmp_path / "shards", tmp_path / "folder" / "train")]
    expected = _of_files(names)
    for size in (2, 4):  # of which one has no class
        for found in together(size, _of_files, names):
            assert [torch.equal(one, other) for one, other in zip(found, expected, strict=True)] == [True] * len(expected)


def _asked_for(name: str, index: torch.Tensor) -> torch.Tensor:
    return load_share(name).normalised_for_all(index)


def test_images_of_all_classes_come_in_the_order_in_which_they_are_asked_for(tmp_path: Path) -> None:
    name, index = _archive(tmp_path / "a.npz", np.uint8), torch.tensor([7, 0, 29, 3, 3, 11])
    expected = fastdc.load_dataset(name)[0].normalised(index)
    for found in together(2, _asked_for, name, index):
        assert torch.equal(found, expected)


def _files_read(name: str) -> set[str]:
    from fastdc.data.sources import labelled_pictures

    read, pixels = set(), labelled_pictures.read_pictures

    def note(pictures: Any, *rest: Any, **named: Any) -> Any:
        read.update(str(picture) for picture, _ in pictures)
        return pixels(pictures, *rest, **named)

    labelled_pictures.read_pictures = note  # type: ignore[assignment]
    fastdc.condense(name, 1, **SMALL)
    return read


def test_no_other_process_reads_them(tmp_path: Path) -> None:
    name = _pictures(tmp_path, 4, 6)
    first, second = together(2, _files_read, name)
    assert not first & second
    assert first | second == set(map(str, (tmp_path / "train").rglob("*.png")))


def test_a_picture_that_one_process_cannot_read_is_named_by_all(tmp_path: Path) -> None:
    name = _pictures(tmp_path, 2, 3)
    (damaged := tmp_path / "train" / "class 1" / "2.png").write_bytes(damaged.read_bytes()[:60])
    first, second = Processes(2, _files_read, name).results()
    assert second.startswith(f"DataError: {damaged} cannot be read as an image")
    assert f"process 1 has left: {damaged} cannot be read as an image" in first


def test_pictures_of_several_sizes_are_refused_at_all(tmp_path: Path) -> None:
    name = _pictures(tmp_path, 2, 3)
    for file in (tmp_path / "train" / "class 1").iterdir():
        Image.open(file).resize((9, 7)).save(file)
    for text in Processes(2, _files_read, name).results():
        assert "are 9x7 and 8x8 pixels; give image_size=N" in text


def _chosen() -> list[list[int]]:
    torch.set_num_threads(1)
    ways = {"herding": {"model": "mlp:width=8", "epochs": 1}, "k_center": {"features": "pixels"}, "kmeans": {}, "random": {}}
    return [getattr(fastdc.coresets, name)("digits", 3, **way).provenance["positions"] for name, way in ways.items()]


def test_coresets_are_chosen_by_class() -> None:
    for found in together(3, _chosen):
        assert found == _chosen()
