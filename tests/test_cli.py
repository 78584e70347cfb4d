"""The command line, each command from end to end; flags, configuration files, exit codes and what is said on stderr."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import AUTO
from PIL import Image

import fastdc
from fastdc import cli
from fastdc.cli import Condense, Evaluate, Select, main
from fastdc.cli.arguments import parse
from fastdc.condensed import CondensedDataset
from fastdc.coresets import SELECTIONS
from fastdc.data import dataset_names
from fastdc.engines import ENGINES
from fastdc.loop.config import INITS
from fastdc.metrics import METRICS
from fastdc.models import model_names
from fastdc.models.parts import ACTIVATIONS, NORMS, POOLINGS
from fastdc.recipe import CHOICES, RECIPES

pytestmark = pytest.mark.usefixtures("one_thread")
CONDENSE = ("--model", "mlp:width=8", "--iterations", "2", "--matching-steps", "2", "--model-epochs", "1", "--batch-real", "8")
EVALUATE = ("--networks", "2", "--epochs", "1")
OPTIONS = {"model": "mlp:width=8", "iterations": 2, "matching_steps": 2, "model_epochs": 1, "batch_real": 8, "networks": 2, "epochs": 1}


@pytest.fixture(autouse=True)
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def finished(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of one image per class of digits."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    command = ["condense", "--ipc", "1", *CONDENSE, *EVALUATE, "--out", str(folder), "--seed", "3", "--quiet"]
    assert main(command) == 0
    return folder


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said on stderr: one or two lines, no traceback, nothing on stdout."""
    output, text = capsys.readouterr()
    assert output == ""
    assert 1 <= len(text.splitlines()) <= 2
    assert text.startswith("fastdc: ")
    assert "Traceback" not in text
    assert "fault of fastdc" not in text
    return text


def python_process(*arguments: str, threads: int = 1) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen([sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# condense


def test_condense_writes_its_files_and_prints_both_lines(tmp_path: Path) -> None:
    process = python_process("-m", "fastdc.cli", "condense", "--ipc", "1", *CONDENSE, *EVALUATE, "--out", "run")
    output, text = process.communicate(timeout=120)
    assert process.returncode == 0
    assert text == ""  # no progress bar and no warnings where stderr is not a terminal
    first, second, third = output.splitlines()
    assert first.startswith("condensed ")
    assert second.startswith("random ")
    assert first.endswith("(2 networks)")
    assert second.endswith("(2 networks)")
    assert third == "written to run"
    names = {path.name for path in (tmp_path / "run").iterdir()} - {".lock"}
    expected = {"config.json", "metrics.jsonl", "checkpoint.safetensors", "condensed.safetensors", "condensed.png", "evaluation.json"}
    assert names == expected | {"thumbnails", "report.html"}
    assert [path.name for path in sorted((tmp_path / "run" / "thumbnails").iterdir())] == [f"{number:07d}.png" for number in range(3)]


def test_a_folder_in_the_home_of_the_user_holds_all_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert main(["condense", "--ipc", "1", *CONDENSE, *EVALUATE, "--quiet", "--tensorboard", "--out=~/run"]) == 0
    assert {"condensed.safetensors", "evaluation.json", "report.html", "tensorboard"} <= {
        path.name for path in (tmp_path / "home" / "run").iterdir()
    }
    (tmp_path / "home" / "run" / "condensed.png").unlink()
    assert main(["show", "~/run"]) == 0
    assert (tmp_path / "home" / "run" / "condensed.png").exists()
    assert not Path("~").exists()


def test_condense_gives_what_the_functions_give(finished: Path) -> None:
    options = {key: value for key, value in OPTIONS.items() if key not in ("networks", "epochs")}
    condensed = fastdc.condense("digits", 1, seed=3, **options)
    assert torch.equal(CondensedDataset.load(finished / "condensed.safetensors").images, condensed.images)
    written = json.loads((finished / "evaluation.json").read_text())
    train, test = fastdc.load_dataset("digits")
    for subject, images in (("condensed", condensed), ("random", fastdc.coresets.random(train, 1, seed=3))):
        result = fastdc.evaluate(images, test, model="mlp:width=8", networks=2, epochs=1, seed=3)
        expected = {
            "accuracies": list(result.accuracies),
            "mean": result.mean,
            "std": result.std,
            "protocol": "dc",
            "epochs": 1,
            "precision": "float32",
            "confusion": [list(row) for row in result.confusion],
        }
        assert written["results"][subject] == {**expected, "images": 10, "stored": 10}
    assert written["protocol"] == "dc"
    assert (written["dataset"], written["model"], written["networks"], written["epochs"]) == ("digits", "mlp:width=8", 2, 1)


def test_a_set_of_more_images_than_it_stores_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["condense", "--ipc", "1", "--method", "untrained", "--networks", "1", "--epochs", "1", "--model", "mlp:width=8", "--quiet"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    condensed, random = capsys.readouterr().out.splitlines()[:2]
    assert condensed.endswith("(1 network), 20 images in the storage of 10")
    assert random.endswith("(1 network)")
    written = json.loads((tmp_path / "evaluation.json").read_text())["results"]
    assert {subject: (found["images"], found["stored"]) for subject, found in written.items()} == {
        "condensed": (20, 10),
        "random": (10, 10),
    }
    assert main(["evaluate", str(tmp_path), "--networks", "1", "--epochs", "1", "--model", "mlp:width=8", "--quiet"]) == 0
    assert capsys.readouterr().out.strip().endswith(", 20 images in the storage of 10")


def test_a_planned_run_says_what_it_took(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["condense", "--ipc", "1", "--method", "auto", "--budget", "5s", "--networks", "1", "--epochs", "1", "--baseline", "none"]
    assert main([*command, "--model", "convnet:width=8", "--quiet", "--out", str(tmp_path)]) == 0
    config = json.loads((tmp_path / "config.json").read_text())["config"]
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"took {config['iterations']} iterations of 20 steps, formation frequency:images=2,clamp=true"


def test_images_learned_with_batch_norm_are_tested_with_instance_norm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = []

    def condense(data: Any, *, ipc: int, model: str, **_: Any) -> CondensedDataset:
        models.append(model)
        return fastdc.coresets.random(data, ipc)

    def evaluate(*_: Any, model: str, **__: Any) -> fastdc.Evaluation:
        models.append(model)
        return fastdc.Evaluation((0.5,))

    monkeypatch.setattr("fastdc.cli.condense.condense", condense)
    monkeypatch.setattr("fastdc.cli.shared.evaluate", evaluate)
    Path("run").mkdir()
    assert main(["condense", "--ipc", "1", "--model", "vgg11:norm=batch", "--out", "run"]) == 0
    assert models == ["vgg11:norm=batch", "vgg11", "vgg11"]
    assert capsys.readouterr().out.startswith("tested with vgg11 in the place of vgg11:norm=batch: ")
    images = fastdc.coresets.random("digits", 1)
    images.save("images.safetensors")
    assert main(["evaluate", "images.safetensors", "--model", "vgg11:norm=batch", "--baseline", "random"]) == 0
    assert models[3:] == ["vgg11", "vgg11"]
    assert capsys.readouterr().out.startswith("tested with vgg11 in the place of vgg11:norm=batch: ")


def test_condense_saves_its_resolved_configuration_metrics_and_a_picture(finished: Path) -> None:
    config = json.loads((finished / "config.json").read_text())["config"]
    assert {key: config[key] for key in OPTIONS if key in config} == {k: v for k, v in OPTIONS.items() if k not in ("networks", "epochs")}
    assert (config["dataset"], config["ipc"], config["seed"], config["engine"]) == ("digits", 1, 3, AUTO.name)
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [(line["event"], line["iteration"]) for line in lines] == [("iteration", 1), ("iteration", 2)]
    assert Image.open(finished / "condensed.png").format == "PNG"


def test_the_paper_s_numbers_are_what_the_configuration_holds_without_flags(tmp_path: Path) -> None:
    assert main(["condense", "--ipc", "1", "--model", "mlp:width=8", "--iterations", "1", *EVALUATE]) == 0
    config = json.loads((tmp_path / "runs" / "digits-ipc1" / "config.json").read_text())["config"]
    assert (config["matching_steps"], config["model_epochs"]) == (1, 1)


def test_the_baseline_can_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["condense", "--ipc", "1", *CONDENSE, *EVALUATE, "--out", "run", "--baseline", "none"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["condensed", "written"]


def test_condense_again_returns_the_same_and_with_other_flags_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["condense", "--ipc", "1", *CONDENSE, *EVALUATE, "--out", "run"]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert main(command) == 0
    assert capsys.readouterr().out == first
    assert main([*command, "--seed", "9"]) == 2
    assert "seed (0 there, 9 now)" in complaint(capsys)


def test_tensorboard_events_are_written_into_the_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    assert main(["condense", "--ipc", "1", *CONDENSE, *EVALUATE, "--out", "run", "--tensorboard"]) == 0
    assert list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))


def test_a_dataset_of_the_user_is_condensed_and_evaluated(tmp_path: Path) -> None:
    write_npz(tmp_path / "my data.npz", each=6)
    assert main(["condense", "--dataset", "npz:my data.npz", "--ipc", "2", *CONDENSE, *EVALUATE]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "evaluation.json").exists()
    assert main(["evaluate", str(folder), "--dataset", "npz:my data.npz", "--model", "mlp:width=8", *EVALUATE]) == 0


def write_npz(path: Path, each: int) -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), each)
    images = generator.integers(256, size=(len(labels), 8, 8), dtype=np.uint8)
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)


# select


SELECT = ("select", "--coreset", "herding", "--ipc", "2", "--model", "mlp:width=8", "--epochs", "2", "--cache", "cache")


def test_select_writes_what_the_function_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SELECT, "--seed", "3", "--out", "chosen"]) == 0
    output = capsys.readouterr().out
    assert "20 images 1x8x8 of 10 classes" in output
    assert "written to chosen" in output
    assert {path.name for path in (tmp_path / "chosen").iterdir()} - {".lock"} == {"config.json", "condensed.safetensors", "condensed.png"}
    chosen = CondensedDataset.load(tmp_path / "chosen" / "condensed.safetensors")
    expected = fastdc.coresets.herding("digits", 2, model="mlp:width=8", epochs=2, seed=3, cache=tmp_path / "cache")
    assert torch.equal(chosen.images, expected.images)
    assert chosen.provenance == expected.provenance
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("coreset", fastdc.coresets.SELECTIONS)
def test_every_coreset_is_selected_by_name_and_evaluated(coreset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [] if coreset in ("random", "kmeans") else SELECT[5:]
    assert main(["select", "--coreset", coreset, "--ipc", "1", *flags]) == 0
    folder = tmp_path / "runs" / f"digits-{coreset}-ipc1"
    assert CondensedDataset.load(folder / "condensed.safetensors").provenance["coreset"] == coreset
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--model", "mlp:width=8", *EVALUATE]) == 0
    assert capsys.readouterr().out.startswith("condensed ")


def test_select_again_gives_the_same_and_with_other_flags_harms_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SELECT, "--out", "chosen"]) == 0
    written = (tmp_path / "chosen" / "condensed.safetensors").read_bytes()
    assert main(["select", "--config", "chosen/config.json", "--cache", "cache", "--out", "chosen"]) == 0
    assert (tmp_path / "chosen" / "condensed.safetensors").read_bytes() == written
    capsys.readouterr()
    assert main([*SELECT, "--out", "chosen", "--seed", "9"]) == 2
    assert "seed (0 there, 9 now)" in complaint(capsys)
    assert (tmp_path / "chosen" / "condensed.safetensors").read_bytes() == written


def test_select_does_not_write_over_a_condensation(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = (finished / "condensed.safetensors").read_bytes()
    assert main([*SELECT, "--out", str(finished)]) == 2
    assert "holds a run that differs in" in complaint(capsys)
    assert not (tmp_path / "cache").exists()  # refused before the work
    assert (finished / "condensed.safetensors").read_bytes() == written


@pytest.mark.parametrize("baseline", ["herding", "forgetting"])
def test_a_baseline_is_chosen_by_the_network_of_the_command(
    finished: Path, baseline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["evaluate", str(finished), "--baseline", baseline, "--model", "mlp:width=8", "--seed", "3", *EVALUATE]) == 0
    _, line = capsys.readouterr().out.splitlines()
    train, test = fastdc.load_dataset("digits")
    chosen = fastdc.coresets.SELECTIONS[baseline](train, 1, model="mlp:width=8", seed=3)
    assert line.split(maxsplit=1) == [baseline, str(fastdc.evaluate(chosen, test, model="mlp:width=8", networks=2, epochs=1, seed=3))]
    assert main(["condense", "--ipc", "1", "--baseline", baseline, *CONDENSE, *EVALUATE, "--out", "run"]) == 0
    assert set(json.loads((tmp_path / "run" / "evaluation.json").read_text())["results"]) == {"condensed", baseline}


def test_a_misused_command_line_is_refused_before_a_baseline_takes_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["condense", "--ipc", "1", "--baseline", "herding", "--model", "mlp:width=8", "--lr-images", "nan"]) == 2
    assert "lr_images is nan" in complaint(capsys)
    assert not list(tmp_path.iterdir())


def test_what_is_compared_with_condensed_images_is_tested_by_their_protocol(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--method", "dm:operations=crop", "--model", "mlp:width=8", "--iterations", "1", "--batch-real", "2"]
    assert main(["condense", "--ipc", "1", *flags, *EVALUATE, "--out", "run"]) == 0
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert written["protocol"] == "dsa:operations=crop"
    assert [result["protocol"] for result in written["results"].values()] == ["dsa:operations=crop"] * 2
    assert capsys.readouterr().out.splitlines()[0] == "tested by protocol dsa:operations=crop, that of the recipe"
    evaluated = ["evaluate", "run", "--model", "mlp:width=8", "--baseline", "random", *EVALUATE]
    assert main(evaluated) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "tested by protocol dsa:operations=crop, that of the recipe"
    assert [line.split()[1] for line in lines] == [f"{100 * result['mean']:.1f}%" for result in written["results"].values()]
    assert main([*evaluated, "--protocol", "dc"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main([*evaluated, "--protocol", "dac"]) == 2
    assert "unknown protocol 'dac'" in complaint(capsys)


@pytest.mark.parametrize("protocol", [[], ["--protocol", "idc"], ["--protocol", "dsa:operations=flip"]])
def test_the_command_line_and_the_functions_mirror_no_digits(tmp_path: Path, protocol: list[str]) -> None:
    flags = ["--method", "dm", "--model", "mlp:width=8", "--iterations", "2", "--batch-real", "2", *protocol]
    assert main(["condense", "--ipc", "1", *flags, *EVALUATE, "--evaluate-every", "1", "--out", "run"]) == 0
    learned = fastdc.condense("digits", 1, method="dm", model="mlp:width=8", iterations=2, batch_real=2)
    assert torch.equal(CondensedDataset.load(tmp_path / "run").images, learned.images)
    found = fastdc.evaluate(learned, "digits", protocol=(protocol or ["auto"])[-1], model="mlp:width=8", networks=2, epochs=1)
    assert ("flip" in str(found.protocol)) == ("dsa:operations=flip" in protocol)
    assert "flip" not in json.loads((tmp_path / "run" / "config.json").read_text())["config"]["augmentation"]
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert written["protocol"] == written["results"]["random"]["protocol"] == found.protocol
    assert written["results"]["condensed"]["accuracies"] == list(found.accuracies)
    curve = [json.loads(line) for line in (tmp_path / "run" / "curve.jsonl").read_text().splitlines()]
    assert [point["protocol"] for point in curve] == [found.protocol] * 2


# evaluate, show, info


def test_evaluate_reads_a_run_and_prints_a_line(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(finished), "--model", "mlp:width=8", *EVALUATE, "--seed", "3"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    mean = json.loads((finished / "evaluation.json").read_text())["results"]["condensed"]["mean"]
    assert line.split()[:2] == ["condensed", f"{100 * mean:.1f}%"]


@pytest.mark.parametrize("name", [".", "condensed.safetensors"])
def test_evaluate_with_the_baseline_prints_two_lines(finished: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["evaluate", str(finished / name), "--baseline", "random", "--model", "mlp:width=8", *EVALUATE]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["condensed", "random"]


def test_evaluate_reads_the_file_of_the_paper_s_authors(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CondensedDataset.load(finished / "condensed.safetensors").to_pt("theirs.pt")
    assert main(["evaluate", "theirs.pt", "--dataset", "digits", "--model", "mlp:width=8", *EVALUATE, "--seed", "3"]) == 0
    theirs = capsys.readouterr().out
    assert main(["evaluate", str(finished), "--model", "mlp:width=8", *EVALUATE, "--seed", "3"]) == 0
    assert capsys.readouterr().out == theirs


def test_show_writes_the_picture_of_a_run(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(finished), "--out", "picture.png"]) == 0
    output = capsys.readouterr().out
    assert "10 images 1x8x8 of 10 classes" in output
    assert "written to picture.png" in output
    condensed = CondensedDataset.load(finished / "condensed.safetensors")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "picture.png")), np.asarray(condensed.grid()))


def test_show_writes_beside_the_file_when_nothing_else_is_said(finished: Path, tmp_path: Path) -> None:
    CondensedDataset.load(finished / "condensed.safetensors").save(tmp_path / "images.safetensors")
    assert main(["show", "images.safetensors"]) == 0
    assert Image.open(tmp_path / "images.png").format == "PNG"


def test_show_writes_the_picture_of_a_file_of_the_paper_s_authors(finished: Path, tmp_path: Path) -> None:
    condensed = CondensedDataset.load(finished / "condensed.safetensors")
    condensed.to_pt("theirs.pt")
    assert main(["show", "theirs.pt", "--dataset", "digits"]) == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "theirs.png")), np.asarray(condensed.grid()))


def test_a_file_of_the_paper_s_authors_needs_the_name_of_its_dataset(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CondensedDataset.load(finished / "condensed.safetensors").to_pt("theirs.pt")
    assert main(["show", "theirs.pt"]) == 2
    assert "--dataset" in complaint(capsys)


def test_info_prints_versions_devices_threads_and_engines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    values = {key: value.strip() for key, value in lines.items()}
    assert values["fastdc"] == fastdc.__version__
    assert values["torch"] == torch.__version__
    assert values["threads"] == "1"
    assert "cpu" in values["devices"]
    for engine in ENGINES:
        assert values[f"engine {engine}"] == "usable"


def test_info_says_why_an_engine_cannot_be_used(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ENGINES.entry("torch"), "unsupported_reasons", classmethod(lambda *_: ["it is Sunday", "it rains"]))
    assert main(["info"]) == 0
    assert "it is Sunday; it rains" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--help"]], ids=" ".join)
def test_help_names_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    output, text = capsys.readouterr()
    assert re.findall(r"• (\w+)", output) == [*cli.COMMANDS]
    assert text == ""


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_help_of_a_command_explains_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    output, text = capsys.readouterr()
    assert output.startswith(f"usage: fastdc {command} ")
    flags = re.split(r"(?m)^[│ ] (?=--[a-z])", output)[1:]
    assert [flag for flag in flags if not re.search(r"[A-Z][^.]*[.]", flag.partition("(default")[0])] == []
    assert len(flags) >= len(dataclasses.fields(cli.COMMANDS[command])) - 1  # one may have its place instead
    assert text == ""


@pytest.mark.parametrize(
    ("command", "tables"),
    [
        ("condense", [RECIPES, *CHOICES.values(), METRICS, INITS, dataset_names(), model_names(), ENGINES, SELECTIONS]),
        ("select", [SELECTIONS, dataset_names(), model_names(), ENGINES]),
        ("evaluate", [SELECTIONS, dataset_names(), model_names(), ENGINES]),
        ("table", [dataset_names(), model_names(), ENGINES]),
        ("continual", [SELECTIONS, RECIPES, dataset_names()]),
        ("search", [SELECTIONS, RECIPES, NORMS, ACTIVATIONS, POOLINGS, dataset_names()]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_help_names_every_entry_of_the_tables(command: str, tables: list[Iterable[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    words = set(re.findall(r"[\w:-]+", capsys.readouterr().out))
    assert words >= {name for table in tables for name in table}


# Flags


def parameters(function: Any, *without: str) -> dict[str, inspect.Parameter]:
    return {name: parameter for name, parameter in inspect.signature(function).parameters.items() if name not in without}


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("condense", {*parameters(fastdc.condense, "data", "callbacks", "progress"), "dataset", "quiet", "data_root"}),
        ("evaluate", {*parameters(fastdc.evaluate, "condensed", "test", "progress"), "dataset", "quiet", "data_root"}),
        *(
            ("select", {*parameters(coreset, "data", "progress"), "dataset", "quiet", "data_root", "out"})
            for coreset in fastdc.coresets.SELECTIONS.values()
        ),
    ],
)
def test_every_parameter_of_the_function_is_a_flag(command: str, names: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    words = capsys.readouterr().out.replace(",", " ").split()
    assert {f"--{name.replace('_', '-')}" for name in names} <= {*words}


def test_the_defaults_of_flags_are_those_of_the_functions() -> None:
    for command, function, without in (
        (Condense, fastdc.condense, ("data", "ipc", "out", "callbacks", "progress")),
        (Evaluate, fastdc.evaluate, ("condensed", "test", "progress")),
        *((Select, coreset, ("data", "ipc", "progress")) for coreset in fastdc.coresets.SELECTIONS.values()),
    ):
        defaults = {field.name: field.default for field in dataclasses.fields(command)}
        for name, parameter in parameters(function, *without).items():
            assert (name, defaults[name]) == (name, parameter.default)


def test_flags_may_be_written_with_an_equals_sign(tmp_path: Path) -> None:
    flags = ["--ipc=1", "--model=mlp:width=8", "--iterations=1", "--batch-real=8", "--networks=1", "--epochs=1", "--out=run"]
    assert main(["condense", *flags]) == 0
    assert (tmp_path / "run" / "evaluation.json").exists()


# Configuration files


def test_a_flag_takes_back_what_the_file_switches_on() -> None:
    Path("options.toml").write_text("quiet = true\n")
    assert parse(cli.COMMANDS, ["info", "--config", "options.toml"], "").quiet
    assert not parse(cli.COMMANDS, ["info", "--config", "options.toml", "--no-quiet"], "").quiet


TOML = """
ipc = 1
model = "mlp:width=8"
iterations = 2
matching_steps = 2
model-epochs = 1
batch_real = 8
lr_images = 0.5
seed = 4
networks = 2
epochs = 1
baseline = "none"
quiet = true
out = "from the file"
"""


def test_a_toml_file_sets_options_and_flags_override_them(tmp_path: Path) -> None:
    Path("options.toml").write_text(TOML)
    assert main(["condense", "--config", "options.toml"]) == 0
    config = json.loads((tmp_path / "from the file" / "config.json").read_text())["config"]
    expected = {"ipc": 1, "model": "mlp:width=8", "iterations": 2, "model_epochs": 1, "lr_images": 0.5, "seed": 4}
    assert {key: config[key] for key in expected} == expected
    assert main(["condense", "--seed", "5", "--config=options.toml", "--lr-images", "0.25", "--out", "from the flag"]) == 0
    config = json.loads((tmp_path / "from the flag" / "config.json").read_text())["config"]
    assert {key: config[key] for key in expected} == {**expected, "seed": 5, "lr_images": 0.25}


def test_a_json_file_sets_options_and_null_means_the_default(tmp_path: Path) -> None:
    Path("options.json").write_text(json.dumps({**OPTIONS, "ipc": 1, "matching_steps": None, "quiet": False, "out": "run"}))
    assert main(["condense", "--config", "options.json", "--iterations", "1"]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["matching_steps"], config["iterations"], config["batch_real"]) == (1, 1, 8)


def test_a_file_sets_the_options_of_evaluate(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("options.toml").write_text('model = "mlp:width=8"\nnetworks = 3\nepochs = 1\nbaseline = "random"\n')
    assert main(["evaluate", str(finished), "--config", "options.toml"]) == 0
    assert all(line.endswith("(3 networks)") for line in capsys.readouterr().out.splitlines())


def test_the_saved_configuration_of_a_run_repeats_it(finished: Path, tmp_path: Path) -> None:
    assert main(["condense", "--config", str(finished / "config.json"), "--out", "again", *EVALUATE]) == 0
    for name in ("condensed.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (finished / name).read_bytes()
    results = [json.loads((folder / "evaluation.json").read_text())["results"] for folder in (tmp_path / "again", finished)]
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["options.toml", "options.json"])
def test_an_unknown_key_in_a_file_is_answered_with_the_nearest(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(name).write_text('{"ipc": 1, "itertions": 3}' if name.endswith("json") else "ipc = 1\nitertions = 3\n")
    assert main(["condense", "--config", name]) == 2
    text = complaint(capsys)
    assert name in text
    assert "'itertions'" in text
    assert "Did you mean 'iterations'?" in text


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.toml", "ipc = ["), ("a.json", '{"ipc": '), ("b.json", "[1, 2]"), ("c.toml", 'config = "x"'), ("d.toml", "\xff")],
)
def test_a_file_that_cannot_be_read_gets_a_sentence(name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(name).write_bytes(text.encode("latin-1"))
    assert main(["condense", "--config", name]) in (1, 2)
    said = complaint(capsys)
    assert name in said
    assert "object has no attribute" not in said


def test_a_value_of_another_type_in_a_file_gets_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    Path("options.toml").write_text("ipc = [1, 2]\n")
    assert main(["condense", "--config", "options.toml"]) == 2
    assert "ipc" in complaint(capsys)


def test_a_list_in_a_file_is_that_of_the_flag() -> None:
    Path("options.json").write_text('{"ipc": [10, 1], "image_size": [24, 32], "classes": ["3", 8]}')
    Path("options.toml").write_text('ipc = [10, 1]\nimage-size = [24, 32]\nclasses = ["3", 8]\n')
    for name in ("options.json", "options.toml"):
        command = parse(cli.COMMANDS, ["condense", "--config", name], "")
        assert (command.ipc, command.image_size, command.classes) == ((10, 1), (24, 32), ("3", "8"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"model": "--help"}', "says model = '--help'; expected a name"),
        ('{"classes": ["-h"]}', r"says classes = \['-h'\]; expected a name"),
        ('{"model": {"width": 3}}', r"says model = {'width': 3}; expected a name"),
        ('{"ipc": [[1]]}', r"says ipc = \[\[1\]\]; expected a name"),
        ('{"image_size": "large"}', "Options stand in options.json, too"),
        ('{"model": "\\ud800"}', "cannot be read as JSON .*surrogates not allowed"),
        ("[" * 10**5, "cannot be read as JSON .*recursion"),
        ('{"' + "x" * 10**5 + '": 1}', r"unknown option in options\.json 'xxx.*\.\.\."),
    ],
    ids=["a flag", "flags", "a table", "lists in lists", "another kind", "no Unicode", "deep", "long"],
)
def test_a_value_that_no_flag_could_have_gets_a_sentence(text: str, match: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("options.json").write_text(text)
    assert main(["condense", "--config", "options.json", "--ipc", "1"]) in (1, 2)
    said = complaint(capsys)
    assert "options.json" in said
    assert re.search(match, said)
    assert len(said) < 1500


def test_deep_toml_gets_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    Path("options.toml").write_text("ipc = " + "[" * 10**5)
    assert main(["condense", "--config", "options.toml"]) == 1
    assert "options.toml cannot be read as TOML" in complaint(capsys)


# Errors: usage is 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["condnse"], "'condense'"),
        (["infos", "--debugg"], "'info'"),
        (["condense", "--ipc", "1", "--iteration", "3"], "--iterations"),
        (["condense", "--ipc", "1", "--itertions=3"], "--iterations"),
        (["condense", "--ipcs", "1"], "--ipc"),
        (["evaluate", "somewhere", "--network", "3"], "--networks"),
        (["show", "somewhere", "--uot", "a.png"], "--out"),
        (["info", "--quite"], "--quiet"),
        (["condense", "--ipc", "1", "--dataset", "digit"], "'digits'"),
        (["condense", "--ipc", "1", "--dataset", "fashionmnist"], "'fashion-mnist'"),
        (["condense", "--ipc", "1", "--model", "convet"], "'convnet'"),
        (["condense", "--ipc", "1", "--model", "convnet:widht=8"], "'width'"),
        (["condense", "--ipc", "1", "--model", "convnet:norm=btach"], "'batch'"),
        (["condense", "--ipc", "1", "--engine", "troch"], "'torch'"),
        (["condense", "--ipc", "1", "--distance", "cosin"], "'cosine'"),
        (["condense", "--ipc", "1", "--init", "nois"], "'noise'"),
        (["condense", "--ipc", "1", "--baseline", "randon"], "'random'"),
        (["condense", "--ipc", "1", "--baseline", "k-center"], "'k_center'"),
        (["select", "--ipc", "1", "--coreset", "hering"], "'herding'"),
        (["select", "--ipc", "1", "--coreset", "random", "--featurs", "pixels"], "--features"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_unknown_name_is_answered_with_the_nearest(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert expected in complaint(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--quiet"], "--quiet"),
        (["--quite", "info"], "--quite"),
        (["--seed", "3", "condense", "--ipc", "1"], "--seed"),
        (["condense"], "--ipc"),
        (["evaluate"], "condensed dataset"),
        (["condense", "--ipc", "one"], "'one'"),
        (["condense", "--ipc", "1", "--lr-images", "fast"], "'fast'"),
        (["condense", "--ipc"], "--ipc"),
        (["condense", "--ipc", "1", "--config"], "--config"),
        (["condense", "--ipc", "1", "surplus"], "surplus"),
        (["condense", "--ipc", "0"], "ipc is 0; expected a whole number of 1 or more"),
        (["condense", "--ipc", "-2"], "ipc is -2"),
        (["condense", "--ipc", "1", "--iterations", "-1"], "iterations is -1"),
        (["condense", "--ipc", "1", "--lr-images", "nan"], "lr_images is nan"),
        (["condense", "--ipc", "1", "--seed", "-1"], "seed is -1"),
        (["condense", "--ipc", "1", "--device", "gpu"], "device 'gpu'"),
        (["condense", "--ipc", "1", "--model", "convnet:depth=5"], "depth of 3 or less"),
        (["condense", "--ipc", "500", "--init", "real", "--baseline", "none"], "use an ipc of"),
        (["condense", "--ipc", "500"], "classes have 139 to 146 images"),
        (["condense", "--ipc", "1", *CONDENSE, "--networks", "0"], "networks is 0"),
        (["condense", "--ipc", "1", "--tensorboard", "--iterations", "-1"], "iterations is -1"),
        (["condense", "--ipc", "1", *CONDENSE, "--epochs", "0"], "epochs is 0"),
        (["select", "--ipc", "1"], "--coreset"),
        (["select", "--coreset", "random"], "--ipc"),
        (["select", "--coreset", "random", "--ipc", "500"], "expected a whole number from 1 to 146"),
        (["select", "--coreset", "herding", "--ipc", "0"], "ipc is 0"),
        (["select", "--coreset", "herding", "--ipc", "1", "--features", "pixel"], "Did you mean 'pixels'"),
        (["select", "--coreset", "k_center", "--ipc", "1", "--epochs", "0"], "epochs is 0"),
        (["select", "--coreset", "forgetting", "--ipc", "1", "--model", "convet"], "'convnet'"),
        (["select", "--coreset", "forgetting", "--ipc", "1", "--features", "pixels"], "coreset 'forgetting' takes no features"),
        (["select", "--coreset", "random", "--ipc", "1", "--epochs", "3", "--model", "mlp"], "coreset 'random' takes no model, epochs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_misused_command_line_is_refused_before_anything_is_written(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert expected in complaint(capsys)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]


def test_more_images_than_a_class_has_are_learned_from_noise_but_not_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_npz(tmp_path / "few.npz", each=3)
    command = ["condense", "--dataset", "npz:few.npz", "--ipc", "4", *CONDENSE, *EVALUATE, "--out", "run"]
    assert main(command) == 2
    assert "classes have 3 to 3 images to choose the baseline from; --baseline none" in complaint(capsys)
    assert not (tmp_path / "run").exists()
    assert main([*command, "--baseline", "none"]) == 0
    assert len(CondensedDataset.load(tmp_path / "run" / "condensed.safetensors")) == 12


# Errors: anything else is 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "missing"],
        ["evaluate", "missing.safetensors"],
        ["evaluate", "missing.pt", "--dataset", "digits"],
        ["show", "missing"],
        ["show", "missing.pt", "--dataset", "digits"],
        ["condense", "--ipc", "1", "--config", "missing.toml"],
        ["condense", "--ipc", "1", "--config", "missing.json"],
        ["condense", "--ipc", "1", "--dataset", "folder:missing"],
        ["condense", "--ipc", "1", "--dataset", "npz:missing.npz"],
    ],
    ids=" ".join,
)
def test_a_missing_file_is_named(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    assert "missing" in complaint(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags", [[], ["--tensorboard"]], ids=["", "tensorboard"])
def test_a_place_that_cannot_be_written_gets_a_sentence(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("precious")
    assert main(["condense", "--ipc", "1", *CONDENSE, *EVALUATE, *flags, "--out", "file"]) == 1
    assert re.search("file is a file|file/tensorboard cannot be written", complaint(capsys))
    assert Path("file").read_text() == "precious"


def test_a_picture_that_cannot_be_written_gets_a_sentence(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(finished), "--out", "nowhere/picture.png"]) == 1
    assert "nowhere/picture.png cannot be written" in complaint(capsys)


def test_a_damaged_result_gets_a_sentence(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.safetensors").write_bytes((finished / "condensed.safetensors").read_bytes()[:-9])
    for command in (["show", "cut.safetensors"], ["evaluate", "cut.safetensors"]):
        assert main(command) == 1
        assert "cut.safetensors is not a whole condensed dataset file" in complaint(capsys)


def test_a_run_that_has_not_finished_says_what_is_missing(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_bytes((finished / "config.json").read_bytes())
    assert main(["evaluate", "run"]) == 1
    assert "run/condensed.safetensors is missing" in complaint(capsys)


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "missing", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert main(["condense", "--ipc", "0", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_debug_in_a_file_shows_the_traceback_too(capsys: pytest.CaptureFixture[str]) -> None:
    Path("options.toml").write_text("ipc = 0\ndebug = true\n")
    assert main(["condense", "--config", "options.toml"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_fastdc_itself_is_two_lines_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise ArithmeticError("this\nthat\nand more")

    monkeypatch.setattr("fastdc.cli.info.report", fail)
    assert main(["info"]) == 1
    output, text = capsys.readouterr()
    assert output == ""
    assert text.splitlines() == ["fastdc: ArithmeticError: this", "This is a fault of fastdc; --debug shows where."]


@pytest.mark.parametrize(
    ("take", "said"),
    [
        (lambda: torch.empty(10**15), "memory ran out when 4000000000000000 bytes more were asked for. Take a smaller model"),
        (lambda: np.empty(10**15), "memory ran out when 7.11 PiB more were asked for. Take a smaller model"),
        (lambda: bytearray(10**16), "memory ran out. Take a smaller model"),
    ],
    ids=["torch", "numpy", "python"],
)
def test_memory_that_runs_out_is_said_with_the_cure(
    take: Any, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastdc.cli.info.report", take)
    assert main(["info"]) == 1
    assert complaint(capsys).startswith(f"fastdc: {said}")


# Signals


WATCHED = f"""
import signal, sys
from pathlib import Path
from fastdc import cli
from fastdc.engines import {AUTO.__name__} as Auto

def train(*arguments):
    Path("training").touch()
    original(*arguments)

original, Auto.train = Auto.train, train
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a parent in the background has switched off
cli.run()
"""


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_networks_are_evaluated_ends_the_command_at_once(finished: Path, signum: int, code: int) -> None:
    flags = ["--model", "mlp:width=8", "--networks", "4", "--epochs", "1000000"]
    process = python_process("-c", WATCHED, "evaluate", str(finished), *flags, threads=2)
    try:
        limit = time.monotonic() + 120
        while not Path("training").exists():
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.05)
        process.send_signal(signum)
        output, text = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == code
    assert output == ""
    assert len(text.splitlines()) == 1
    assert "stopped" in text
