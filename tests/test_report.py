"""Reports: what they show, what they leave out, and how they look in a browser."""

from __future__ import annotations

import dataclasses
import html
import itertools
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import noise_data, stop_at

import fastdc
from fastdc.cli import COMMANDS, main
from fastdc.cli.arguments import parse
from fastdc.cli.shared import command_line
from fastdc.condensed import CondensedDataset
from fastdc.experiments.continual import report as continual
from fastdc.experiments.continual.result import ContinualResult
from fastdc.experiments.search import report as search
from fastdc.experiments.search.result import ProxyResult, SearchResult
from fastdc.experiments.tables.cells import Cell, Definition, ImageSet
from fastdc.experiments.tables.job import Skipped
from fastdc.experiments.tables.report import FilledTable
from fastdc.loop.config import CondenseConfig
from fastdc.loop.thumbnails import kept_at, thumbnail
from fastdc.metrics import METRICS
from fastdc.recipe import CHOICES
from fastdc.report import write_comparison, write_report
from fastdc.report.confusion import confusion
from fastdc.report.repeat import USUAL
from fastdc.report.run import SETTINGS

pytestmark = pytest.mark.usefixtures("one_thread")
MARKUP = '<script>alert("1")</script>'
ESCAPED = "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;"
SMALL = {"model": "mlp:width=8", "matching_steps": 2, "model_epochs": 1, "batch_real": 8, "progress": False}
FLAGS = "--model mlp:width=8 --iterations 20 --matching-steps 2 --model-epochs 1 --batch-real 8 --networks 3 --epochs 2 --quiet"
WIDTHS, THEMES = (400, 1400), ("light", "dark")


@pytest.fixture(scope="module")
def run(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of two images per class of digits."""
    folder = tmp_path_factory.mktemp("run") / "digits"
    assert main(["condense", "--ipc", "2", *FLAGS.split(), "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A copy of that run, which may be damaged."""
    return Path(shutil.copytree(run, tmp_path / "copied"))


def page_of(folder: Path) -> str:
    return write_report(folder).read_text()


def experiment(folder: Path, config: Mapping[str, Any], files: Mapping[str, str], sets: str) -> Path:
    """The folder of an experiment as its command leaves it, with one image set."""
    (folder / sets).mkdir(parents=True)
    fastdc.coresets.random("digits", 2).save(folder / sets / "condensed.safetensors")
    content = {"config": config, "fastdc": "0.2", "torch": "2.9", "fingerprint": "0"}
    files = {**files, "command.txt": f"fastdc table --note '{MARKUP}'"}
    for name, text in {**files, "config.json": json.dumps(content)}.items():
        (folder / name).write_text(text)
    write_report(folder)
    return folder


def table(folder: Path) -> Path:
    outcomes = {
        ("1", "Random"): fastdc.Evaluation((0.5, 0.52)),
        ("1", MARKUP): fastdc.Evaluation((0.7, 0.71)),
        ("10", "Random"): fastdc.Evaluation((0.6, 0.7)),
        ("10", MARKUP): Skipped("too small."),
    }
    cells = tuple(Cell(row, column, ImageSet("dc", "convnet", int(row)), "convnet") for row, column in outcomes)
    definition = Definition("Table 1: coresets", "images per class", cells, "coresets")
    paper = {"1": {"Random": (51.4, 3.8)}}
    filled = FilledTable(definition, dict(zip(cells, outcomes.values(), strict=True)), paper, "caption", {})
    files = {"table.md": filled.markdown(), "table.csv": filled.csv()}
    return experiment(folder, {"table": "coresets", "dataset": "digits", "protocol": "dc", "ipc": [1, 10]}, files, "cells/dc-ipc2-seed0")


def course(folder: Path) -> Path:
    stages = ("svhn", MARKUP, "usps")
    accuracies = (((0.9,), (0.7, 0.8), (0.6, 0.7, 0.9)), ((0.92,), (0.8, 0.8), (0.6, 0.8, 0.9)))
    results = [ContinualResult(memory, distill, stages, accuracies, 200, 51200) for memory in ("random", "dc") for distill in (True, False)]
    files = {"table.md": continual.markdown(results, "", None), "table.csv": continual.as_csv(results)}
    return experiment(folder, {"stages": list(stages), "seed": 0, "ipc": 10}, files, "runs/dc-seed0/memory1")


def searched(folder: Path) -> Path:
    accuracies = {f"convnet:width={width},depth=3,norm=instance,activation=relu": 0.4 + 0.01 * width for width in range(1, 16)}
    truth = {model: accuracy / 2 + 0.3 for model, accuracy in list(accuracies.items())[4:]}
    proxies = tuple(ProxyResult(name, accuracies, 60.0, 6.0, 100) for name in ("dc", MARKUP))
    result = SearchResult(proxies, truth, 600.0, 60000, 10, {"lenet": "too small."})
    files = {"table.md": search.markdown(result, "", None), "table.csv": search.as_csv(result), "ranking.json": search.ranking(result)}
    return experiment(folder, {"dataset": "digits", "top": 10, "proxies": ["dc"]}, files, "proxies/dc")


EXPERIMENTS = {"table": table, "course": course, "search": searched}


# what a report of a run shows


def test_a_run_has_a_report_with_all_of_it(run: Path) -> None:
    text = (run / "report.html").read_text()  # which the command has written
    results = json.loads((run / "evaluation.json").read_text())["results"]
    for subject in ("condensed", "random"):
        assert f"{100 * results[subject]['mean']:.1f}\u00a0±\u00a0{100 * results[subject]['std']:.1f}" in text
    assert text.count("Learned image of class ") == 20
    assert "Learned image of class 3, 2 of 2" in text
    assert [int(name) for name in re.findall(r'alt="The images after iteration (\d+)"', text)] == sorted(kept_at(20) - {0})
    assert "Line chart of the loss over the iterations" in text
    right = sum(results["condensed"]["confusion"][place][place] for place in range(10))
    assert right == round(sum(results["condensed"]["accuracies"]) * 360)
    for said in ("gradients", "fresh:train=synthetic", "mlp:width=8", json.loads((run / "config.json").read_text())["hardware"]):
        assert said in text
    assert "What is missing" not in text
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    assert not re.search(r"https?://", text)


def test_every_option_of_a_run_is_shown_and_its_evaluation_is_repeated_as_the_command_has_it() -> None:
    assert {field.name for field in dataclasses.fields(CondenseConfig)} == {*SETTINGS, *CHOICES, "ipc"}
    defaults = {field.name: field.default for field in dataclasses.fields(COMMANDS["condense"])}
    assert {name: defaults[name] for name in USUAL} == USUAL
    assert defaults["baseline"] == "random"


def test_its_command_and_its_call_repeat_the_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, call = map(html.unescape, re.findall(r"<pre[^>]*><code>(.*?)</code>", page_of(run), flags=re.DOTALL))
    expected = CondensedDataset.load(run).images
    for folder, repeat in (("command", lambda: main(shlex.split(command)[1:])), ("call", lambda: exec(call, {}))):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        repeat()
        assert torch.equal(CondensedDataset.load("runs/again").images, expected)
    again = json.loads((tmp_path / "command" / "runs" / "again" / "evaluation.json").read_text())
    assert again["results"] == json.loads((run / "evaluation.json").read_text())["results"]


def test_the_operations_of_digits_are_repeated_where_they_were_given(tmp_path: Path) -> None:
    options: dict[str, Any] = {**SMALL, "method": "dsa", "iterations": 0}
    for folder, given in (("usual", {}), ("given", {"augmentation": "siamese:operations=color+flip"})):
        fastdc.condense("digits", 1, out=tmp_path / folder, **given, **options)
        assert ("operations" in page_of(tmp_path / folder).split("<pre")[1]) == bool(given)


def test_a_run_of_python_says_the_command_and_the_call_that_repeat_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"iterations": 2, **{key: value for key, value in SMALL.items() if key != "model_epochs"}}
    expected = fastdc.condense("digits", 1, out=tmp_path / "run", pool="fresh:train=none", **options).images
    command, call = map(html.unescape, re.findall(r"<pre[^>]*><code>(.*?)</code>", page_of(tmp_path / "run"), flags=re.DOTALL))
    assert "None" not in command
    monkeypatch.chdir(tmp_path)
    assert main([*shlex.split(command)[1:], "--networks", "1", "--epochs", "1"]) == 0
    assert torch.equal(CondensedDataset.load("runs/again").images, expected)
    shutil.rmtree("runs/again")
    exec(call, {})
    assert torch.equal(CondensedDataset.load("runs/again").images, expected)


@pytest.mark.parametrize("option", ["method", "distance"])
def test_what_is_ones_own_is_repeated_in_python_alone(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fastdc.RECIPES, "mine", fastdc.Recipe(match="features"))
    monkeypatch.setitem(METRICS, "mine", METRICS["mse"])
    options: dict[str, Any] = {
        "iterations": 1,
        "model": "mlp:width=8",
        "batch_real": 8,
        "progress": False,
        "engine": "torch",
        option: "mine",
    }
    fastdc.condense("digits", 1, out=tmp_path, **options)
    text = html.unescape(page_of(tmp_path))
    assert f"# The command line does not know {option} mine: repeat the run in Python." in text
    assert f"{option}='mine'" in text


def test_a_dataset_that_was_changed_is_changed_again(tmp_path: Path) -> None:
    flags = [*FLAGS.split(), "--image-size", "6", "--classes", "3", "8", "--baseline", "none", "--ipc", "1"]
    assert main(["condense", *flags, "--out", str(tmp_path)]) == 0
    text = html.unescape(page_of(tmp_path))
    assert "--image-size 6 6 --classes 3 8 --ipc 1" in text
    assert "fastdc.load_dataset('digits', image_size=(6, 6), classes=['3', '8'])" in text
    assert "--baseline none" in text


def test_a_call_in_python_writes_a_report_too(tmp_path: Path) -> None:
    names = {"class_names": (MARKUP, "b")}
    data = noise_data((12, 12))
    data = fastdc.ImageData.of(data.images, data.labels, name=f"my {MARKUP}\ndata", **names)
    fastdc.condense(data, 1, iterations=1, out=tmp_path, model_epochs=None, **{k: v for k, v in SMALL.items() if k != "model_epochs"})
    text = (tmp_path / "report.html").read_text()
    assert "The images have not been tested here" in text
    assert "no dataset that the command line knows" in text
    assert f"Learned image of class {ESCAPED}" in text
    assert MARKUP not in text


def test_an_evaluation_of_earlier_versions_has_no_matrix(copied: Path) -> None:
    assert "What is taken for what" in page_of(copied)
    content = json.loads((copied / "evaluation.json").read_text())
    for found in content["results"].values():
        del found["confusion"]
    (copied / "evaluation.json").write_text(json.dumps(content))
    text = page_of(copied)
    assert "What is taken for what" not in text
    assert "What they are worth" in text


def of_two_tests(classes: int, untested: int) -> list[list[int]]:
    """Counts of as many classes as are said, one of which has no test images; of each other one of two is known."""
    return [[0 if i == untested else int(j in (i, 0)) + int(i == j == 0) for j in range(classes)] for i in range(classes)]


def test_a_class_without_test_images_is_not_the_one_that_is_known_least() -> None:
    names = [f"class {number}" for number in range(30)]
    worst = confusion(of_two_tests(30, 5), names).worst
    assert worst is not None
    assert worst.caption == "The classes that are known least, of 29; 1 more has no test images"
    assert [(row.name, row.cells[0].text) for row in worst.rows[:6]] == [(f"class {number}", "50.0 %") for number in (1, 2, 3, 4, 6, 7)]


def test_the_row_of_a_class_without_test_images_says_so(run: Path, copied: Path) -> None:
    content = json.loads((copied / "evaluation.json").read_text())
    content["results"]["condensed"]["confusion"] = of_two_tests(10, 5)
    (copied / "evaluation.json").write_text(json.dumps(content))
    text = page_of(copied)
    assert "for the class above; a row of - is that of a class which has no test images</caption>" in text
    rows = re.findall(r'((?:<td class="(?:right|wrong)"[^>]*>[^<]*</td>)+)', text)
    assert [re.findall(">([^<]*)</td>", row) for row in rows[4:6]] == [["50", "", "", "", "50", "", "", "", "", ""], ["-"] * 10]
    assert "a row of -" not in page_of(run)


def test_accuracies_over_the_iterations_are_a_curve(copied: Path) -> None:
    lines = [json.dumps({"iteration": number, "accuracies": [0.1 * number, 0.1 * number + 0.02]}) for number in (1, 2, 5)]
    (copied / "curve.jsonl").write_text("\n".join(lines))
    assert "test accuracy in percent over the iterations: from 11.0 to 51.0." in page_of(copied)
    lines += [json.dumps({"iteration": number, "protocol": "dsa", "accuracies": [0.1 * number]}) for number in (3, 4)]
    (copied / "curve.jsonl").write_text("\n".join(lines))
    assert "over the iterations: unknown protocol, 2 networks from 11.0 to 51.0; protocol dsa, 1 network from 30.0 to 40.0." in page_of(
        copied
    )
    (copied / "curve.jsonl").write_text(lines[0][:-3])
    assert "What curve.jsonl says is not shown" in page_of(copied)


@pytest.mark.parametrize(
    ("other", "first", "second"),
    [
        ({"protocol": "dsa"}, "protocol dc", "protocol dsa"),
        ({"epochs": 1}, "300 epochs", "1 epoch"),
        ({"epochs": None}, "300 epochs", "unknown epochs"),
        ({"precision": "bfloat16"}, "float32", "bfloat16"),
        ({"accuracies": [0.25]}, "2 networks", "1 network"),
    ],
)
def test_points_that_were_taken_in_another_way_are_not_joined(other: dict[str, Any], first: str, second: str, copied: Path) -> None:
    usual = {"protocol": "dc", "epochs": 300, "precision": "float32", "accuracies": [0.2, 0.3]}
    points = [{"iteration": number, **usual, **(other if number > 2 else {})} for number in (1, 2, 3, 4)]
    (copied / "curve.jsonl").write_text("\n".join(map(json.dumps, points)))
    text = page_of(copied)
    assert f"over the iterations: {first} from 25.0 to 25.0; {second} from 25.0 to 25.0." in text
    assert f'<li class="color0"><span>{first}</span></li>' in text
    assert f'<li class="color1"><span>{second}</span></li>' in text


def test_many_classes_make_a_small_file(tmp_path: Path) -> None:
    labels = torch.arange(1000).repeat_interleave(torch.tensor([2, *[1] * 999]))
    names = [f"class {number}" for number in range(1000)]
    many = CondensedDataset(torch.rand(1001, 3, 64, 64), labels, mean=[0.0] * 3, std=[1.0] * 3, class_names=names)
    many.save(tmp_path / "condensed.safetensors")
    (tmp_path / "thumbnails").mkdir()
    small = thumbnail(many)
    assert len(small) < 80_000
    for iteration in kept_at(1000):
        (tmp_path / "thumbnails" / f"{iteration:07d}.png").write_bytes(small)
    text = page_of(tmp_path)
    assert len(text) < 6 << 20
    assert "1,000 of 1,001 images are shown, of 1,000 of 1,000 classes and 2 x 2 pixels of each are drawn as one" in text


# what is missing or damaged


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "condensed.safetensors", "evaluation.json"])
def test_a_file_that_is_missing_or_cut_short_is_said(copied: Path, name: str) -> None:
    whole = (copied / name).read_bytes()
    (copied / name).write_bytes(whole[: len(whole) * 2 // 3])
    cut = page_of(copied)
    (copied / name).unlink()
    gone = page_of(copied)
    for text in (cut, gone):
        notes = re.search(r'<section class="notes".*?</section>', text, flags=re.DOTALL)
        assert notes is not None
        assert name in notes[0]
        assert text.count("<h2") > 4  # the rest is shown


def test_the_cost_says_the_most_memory_of_all_iterations_where_a_line_holds_it(copied: Path) -> None:
    lines = [json.loads(line) for line in (copied / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["peak_memory"]  # as older runs have it
    (copied / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    without = page_of(copied)
    assert "memory, the most at once" not in without
    assert "one iteration" in without
    lines[3]["peak_memory"], lines[5]["peak_memory"] = 7 << 29, 2 << 30
    (copied / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "memory, the most at once</dt><dd>3.5 GiB" in re.sub(r"\s*\n\s*", "", page_of(copied))


def test_other_content_than_expected_is_said(copied: Path) -> None:
    (copied / "config.json").write_text('{"config": {"ipc": "many"}}')
    (copied / "evaluation.json").write_text('{"results": {"condensed": {"accuracies": [2]}}}')
    (copied / "thumbnails" / "0000000.png").write_bytes(b"no picture")
    (copied / "metrics.jsonl").write_text('{"event": "iteration", "iteration": 1, "loss": NaN, "seconds": 1}\n[]\n')
    text = page_of(copied)
    assert all(name in text for name in ("config.json", "evaluation.json", "thumbnails/0000000.png", "metrics.jsonl"))


def test_a_report_that_cannot_be_written_harms_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.html").mkdir()
    (tmp_path / "thumbnails").write_text("mine")
    assert main(["condense", "--ipc", "1", *FLAGS.split(), "--baseline", "none", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().err.splitlines()
    assert all(line.startswith("fastdc: ") and "the run goes on without it" in line for line in said)
    assert any("report.html" in line for line in said)
    assert any("thumbnails" in line for line in said)
    assert (tmp_path / "evaluation.json").exists()
    assert (tmp_path / "thumbnails").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "no run is named"),
        (["nowhere"], "nowhere is no folder"),
        (["."], "holds no run"),
        (["run", "run"], "side by side, such as --out compare.html"),
        (["run", "table", "--out", "both.html"], "holds no condensed dataset"),
    ],
)
def test_what_cannot_be_reported_is_said(
    arguments: list[str], expected: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments:
        table(tmp_path / "elsewhere" / "table")
    places = {"run": str(run), "table": str(tmp_path / "elsewhere" / "table")}
    assert main(["report", *(places.get(argument, argument) for argument in arguments)]) != 0
    assert expected in capsys.readouterr().err


# thumbnails


def test_an_interrupted_run_ends_with_the_thumbnails_of_one_that_was_not(tmp_path: Path, every_step_kept: None) -> None:
    data, options = noise_data((12, 12)), {**SMALL, "iterations": 20}
    fastdc.condense(data, 1, out=tmp_path / "whole", **options)
    for iteration in (3, 11):
        with pytest.raises(InterruptedError):
            fastdc.condense(data, 1, out=tmp_path / "parts", callbacks=[stop_at(iteration=iteration)], **options)
    fastdc.condense(data, 1, out=tmp_path / "parts", **options)
    whole, parts = ({file.name: file.read_bytes() for file in (tmp_path / name / "thumbnails").iterdir()} for name in ("whole", "parts"))
    assert sorted(whole) == [f"{iteration:07d}.png" for iteration in sorted(kept_at(20))]
    assert whole == parts


# experiments, and several runs


@pytest.mark.parametrize(
    "command",
    [
        "table coresets --dataset usps --ipc 1 10 --columns random dc --image-size 24 32 --scale tiny --seed 3",
        "table coresets --classes 1 2 3 --ipc 1 --columns random",
        "continual --stages digits usps --memory random dc:distance=mse --epochs 2",
        "search --dataset digits --proxies dc early_stopping --truth all --engine torch",
    ],
)
def test_the_command_of_an_experiment_is_the_one_that_was_given(command: str) -> None:
    given = parse(COMMANDS, [*command.split(), "--out", "here", "--quiet", "--workers", "2"], "")
    line = command_line(command.split()[0], given)
    assert parse(COMMANDS, shlex.split(line)[1:], "") == parse(COMMANDS, command.split(), "")
    assert "--out" not in line


@pytest.mark.parametrize("kind", EXPERIMENTS)
def test_an_experiment_has_its_report(kind: str, tmp_path: Path) -> None:
    text = (EXPERIMENTS[kind](tmp_path) / "report.html").read_text()
    shown = {
        "table": ("Table 1: coresets", "51.0\u00a0±\u00a01.0", "paper 51.4 ± 3.8", "Left out: too small."),
        "course": ("91.0\u00a0±\u00a01.0", "dc, distilled", "forgotten"),
        "search": ("Scatter plot of 11 networks", "lenet was left out: too small.", "convnet:width=15"),
    }
    assert [said for said in shown[kind] if said not in text] == []
    assert ESCAPED in text
    assert MARKUP not in text
    assert "The first images of" in text
    for name in ("config.json", "table.csv"):
        (tmp_path / name).write_text("{")
    damaged = page_of(tmp_path)
    assert "What config.json says is not shown" in damaged
    assert "table.csv" in damaged


def test_runs_stand_side_by_side(run: Path, tmp_path: Path) -> None:
    fastdc.condense("digits", 1, iterations=3, seed=5, out=tmp_path / "other", **SMALL)
    write_comparison([run, tmp_path / "other"], tmp_path / "compare.html")
    text = (tmp_path / "compare.html").read_text()
    differing = re.search(r"The options that differ.*?</table>", text, flags=re.DOTALL)
    assert differing is not None
    assert re.findall(r'<th scope="row">([^<]*)</th>', differing[0]) == ["ipc", "iterations", "seed"]
    assert "digits: condensed" in text
    assert "other: The images have not been tested here" in text


# in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless browser; where there is none, its tests are skipped, and fail where CI=true."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        found = None
    if found is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no browser: apt-get install chromium, pip install playwright")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of every kind."""
    folder = tmp_path_factory.mktemp("pages")
    write_comparison([run, run], folder / "compare.html")
    made = {kind: make(folder / kind) / "report.html" for kind, make in EXPERIMENTS.items()}
    return {"run": run / "report.html", "compare": folder / "compare.html", **made}


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """Opens a page in the browser; nothing may go wrong there, and nothing be asked of a network."""
    wrong, opened = [], []

    def open_page(file: Path) -> Any:
        page = browser.new_page()
        opened.append(page)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
        page.goto(file.as_uri())
        return page

    yield open_page
    for page in opened:
        page.close()
    assert wrong == []


CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const over = (colors) => {
    for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!text || !element.checkVisibility() || element.closest("script, style")) continue;
    const grounds = [];
    for (let e = element; e; e = e.parentElement) grounds.unshift(getComputedStyle(e).backgroundColor);
    const back = over(grounds), front = over([...grounds, getComputedStyle(element).color]);
    const [low, high] = [light(back), light(front)].sort((a, b) => a - b);
    found.push([(high + 0.05) / (low + 0.05), element.textContent.trim().slice(0, 40)]);
  }
  return found.sort((a, b) => a[0] - b[0])[0];
}"""


@pytest.mark.parametrize("kind", ["run", "compare", *EXPERIMENTS])
def test_a_report_opens_in_a_browser(kind: str, pages: dict[str, Path], opened: Any) -> None:
    page = opened(pages[kind])
    for width in WIDTHS:
        for theme in THEMES:
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=theme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("[...document.images].every((image) => image.alt && image.complete && image.naturalWidth > 0)")
            ratio, text = page.evaluate(CONTRAST)
            assert ratio >= 4.5, (width, theme, text)
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((heading) => Number(heading.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("[...document.querySelectorAll('table')].every((table) => table.caption && table.querySelector('th[scope]'))")
    assert page.evaluate("[...document.querySelectorAll('svg')].every((svg) => svg.closest('[role=img], [aria-hidden=true]'))")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 23, 26)"  # the last one is dark


def test_slider_and_tabs_are_moved_by_keys(run: Path, opened: Any) -> None:
    page = opened(run / "report.html")
    shown = """[...document.querySelectorAll(".frames figure")].filter((figure) => figure.checkVisibility())
        .map((figure) => figure.querySelector("img").alt)"""
    assert page.evaluate(shown) == ["The images after iteration 20"]
    page.locator("#frame").focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(shown) == ["The images after iteration 19"]
    assert page.locator("#frame").get_attribute("aria-valuetext") == "iteration 19"
    page.keyboard.press("Home")
    assert page.evaluate(shown) == ["The images at the start"]
    page.locator("#tab-command").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-python"
    assert page.locator("#panel-python").is_visible()
    assert not page.locator("#panel-command").is_visible()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_paper_shows_what_is_hidden_on_a_screen(run: Path, opened: Any) -> None:
    page = opened(run / "report.html")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("#panel-python").is_visible()
    assert page.locator(".frames figure:visible").count() == len(kept_at(20))
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
