"""What is seen of a run while it goes on: a curve of accuracy, thumbnails in a notebook, `fastdc show --watch`."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import signal
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import stop_at
from PIL import Image
from processes import together

import fastdc
from fastdc.callbacks import (
    CheckpointWritten,
    Ended,
    Evaluated,
    EvaluateEvery,
    Event,
    IterationDone,
    Snapshot,
    Started,
    TensorBoard,
    read_curve,
)
from fastdc.errors import DataError, Interrupted, UsageError
from fastdc.loop import strip
from fastdc.loop.loop import Condensation
from fastdc.runs.folder import in_use

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL: dict[str, Any] = {"ipc": 1, "model": "mlp:width=8", "iterations": 5, "matching_steps": 2, "model_epochs": 1, "batch_real": 8}
EVALUATION: dict[str, Any] = {"model": "mlp:width=8", "networks": 2, "epochs": 2}


def curve(every: int = 2) -> EvaluateEvery:
    return EvaluateEvery(every, "digits", **EVALUATION)


class Snapshots:
    """Keeps the images of every iteration, and the other events."""

    def __init__(self) -> None:
        self.images: dict[int, torch.Tensor] = {}
        self.events: list[Event] = []

    def wants_snapshot(self, iteration: int) -> bool:
        return True

    def __call__(self, event: Event) -> None:
        if isinstance(event, Snapshot):
            self.images[event.iteration] = event.condensed.images
        self.events.append(event)


# The curve


@pytest.fixture(scope="module")
def whole(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run with a curve."""
    folder = tmp_path_factory.mktemp("whole")
    fastdc.condense("digits", out=folder, callbacks=[curve()], **SMALL)
    return folder


def test_a_point_of_the_curve_is_what_a_run_of_so_many_iterations_is_worth(whole: Path) -> None:
    for iteration, found in read_curve(whole / "curve.jsonl").items():
        shorter = fastdc.condense("digits", **{**SMALL, "iterations": iteration})
        assert found == dataclasses.replace(fastdc.evaluate(shorter, "digits", **EVALUATION), confusion=None)
    records = [json.loads(line) for line in (whole / "curve.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in records] == [2, 4]
    assert all(record["mean"] == pytest.approx(sum(record["accuracies"]) / 2) for record in records)


def test_a_run_with_a_curve_ends_in_the_bits_of_one_without(whole: Path, tmp_path: Path) -> None:
    plain = fastdc.condense("digits", out=tmp_path, **SMALL)
    assert torch.equal(plain.images, fastdc.CondensedDataset.load(whole).images)
    losses = [[json.loads(line)["loss"] for line in (folder / "metrics.jsonl").open()] for folder in (tmp_path, whole)]
    assert losses[0] == losses[1]


def test_all_callbacks_are_told_of_a_point_after_its_iteration() -> None:
    events: list[Event] = []
    points = curve()
    fastdc.condense("digits", callbacks=[events.append, points], **SMALL)
    told = [type(event) for event in events]
    assert told == [Started, IterationDone, IterationDone, Evaluated, IterationDone, IterationDone, Evaluated, IterationDone, Ended]
    found = [event for event in events if isinstance(event, Evaluated)]
    assert found == [Evaluated("condensed", evaluation, iteration) for iteration, evaluation in points.points.items()]


def test_tensorboard_gets_the_curve(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed")
    points = curve()
    fastdc.condense("digits", callbacks=[TensorBoard(tmp_path), points], **SMALL)
    written = accumulator.EventAccumulator(str(tmp_path))
    written.Reload()
    found = {scalar.step: scalar.value for scalar in written.Scalars("accuracy/curve")}
    assert found == pytest.approx({iteration: evaluation.mean for iteration, evaluation in points.points.items()})


@pytest.mark.usefixtures("every_step_kept")
@pytest.mark.parametrize(
    ("kind", "iteration"), [(IterationDone, 2), (Evaluated, 2), (CheckpointWritten, 2), (IterationDone, 3), (Evaluated, 4)]
)
def test_a_continued_run_has_each_point_once(whole: Path, tmp_path: Path, kind: type, iteration: int) -> None:
    with pytest.raises(InterruptedError):
        fastdc.condense("digits", out=tmp_path, callbacks=[curve(), stop_at(kind, iteration)], **SMALL)
    fastdc.condense("digits", out=tmp_path, callbacks=[curve()], **SMALL)
    assert (tmp_path / "curve.jsonl").read_text() == (whole / "curve.jsonl").read_text()


def test_a_finished_run_called_again_evaluates_nothing(whole: Path) -> None:
    events: list[Event] = []
    points = curve()
    fastdc.condense("digits", out=whole, callbacks=[events.append, points], **SMALL)
    assert [type(event) for event in events] == [Started, Ended]
    assert points.points == read_curve(whole / "curve.jsonl")


def test_an_evaluation_that_is_interrupted_leaves_a_checkpoint_and_is_made_up_for(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> fastdc.Evaluation:
        raise Interrupted("stopped", signal.SIGINT)

    points = curve(4)
    with monkeypatch.context() as patch:
        patch.setattr("fastdc.callbacks.evaluate", interrupted)
        with pytest.raises(Interrupted, match=r"stopped after 4 of 5 iterations; the same call again"):
            fastdc.condense("digits", out=tmp_path, callbacks=[points], **SMALL)
    assert points.points == {}
    snapshots, points = Snapshots(), curve()
    fastdc.condense("digits", out=tmp_path, callbacks=[snapshots, points], **SMALL)
    assert snapshots.events[0].iteration == 4
    assert points.points == {4: read_curve(whole / "curve.jsonl")[4]}


def test_points_beyond_where_a_run_begins_are_dropped(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "curve.jsonl").write_bytes((whole / "curve.jsonl").read_bytes())
    with pytest.raises(InterruptedError):
        fastdc.condense("digits", out=tmp_path, callbacks=[curve(), stop_at(IterationDone)], **SMALL)
    assert (tmp_path / "curve.jsonl").read_text() == ""


@pytest.mark.parametrize("text", ["{", '{"iteration": 0, "accuracies": [0.5]}', '{"iteration": 2, "accuracies": [2]}', "[]", "\xff"])
def test_a_damaged_curve_gets_a_sentence_and_stays(tmp_path: Path, text: str) -> None:
    (tmp_path / "curve.jsonl").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"curve.jsonl is not a curve of accuracy"):
        fastdc.condense("digits", out=tmp_path, callbacks=[curve()], **SMALL)
    assert (tmp_path / "curve.jsonl").read_text(encoding="latin-1") == text


def test_a_curve_with_arguments_that_cannot_be_used_is_refused_before_the_run() -> None:
    with pytest.raises(UsageError, match="every is 0"):
        EvaluateEvery(0, "digits")
    with pytest.raises(TypeError, match="network"):
        EvaluateEvery(1, "digits", network=5)


def test_the_command_writes_the_curve_of_its_evaluation(tmp_path: Path, cli: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", "mlp:width=8", "--iterations", "4", "--batch-real", "8", "--networks", "2", "--epochs", "2", "--baseline", "none"]
    command = ["condense", "--ipc", "1", *flags, "--out", str(tmp_path / "run"), "--quiet", "--evaluate-every"]
    assert cli.main([*command, "0"]) == 2
    assert "evaluate_every is 0" in capsys.readouterr().err
    assert cli.main([*command, "2"]) == 0
    points = read_curve(tmp_path / "run" / "curve.jsonl")
    final = json.loads((tmp_path / "run" / "evaluation.json").read_text())["results"]["condensed"]
    assert list(points) == [2, 4]
    assert list(points[4].accuracies) == final["accuracies"]


# Snapshots


def test_snapshots_are_the_images_of_their_iteration_where_steps_are_looked_at_late(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt, late, begin = Snapshots(), Snapshots(), Condensation.__init__

    def as_on_a_gpu(self: Condensation, *arguments: Any) -> None:
        begin(self, *arguments)
        self.unread = 1

    fastdc.condense("digits", callbacks=[prompt], **SMALL)
    monkeypatch.setattr(Condensation, "__init__", as_on_a_gpu)
    fastdc.condense("digits", callbacks=[late], **SMALL)
    assert [type(event) for event in late.events] == [type(event) for event in prompt.events]
    assert list(prompt.images) == [0, 1, 2, 3, 4, 5]
    assert all(torch.equal(images, late.images[iteration]) for iteration, images in prompt.images.items())
    assert not torch.equal(prompt.images[0], prompt.images[1])


def _snapshots() -> dict[int, torch.Tensor]:
    torch.set_num_threads(1)
    snapshots = Snapshots()
    fastdc.condense("digits", callbacks=[snapshots], progress=False, **{**SMALL, "iterations": 2})
    return snapshots.images


@pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="torch has no gloo")
def test_snapshots_of_several_processes_are_whole() -> None:
    expected = _snapshots()
    found, others = together(2, _snapshots)
    assert others == {}  # the first alone has callbacks
    assert all(torch.equal(images, expected[iteration]) for iteration, images in found.items())
    assert list(found) == [0, 1, 2]


# Thumbnails in a notebook


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a notebook shows: the strip as it was each time it changed."""
    shown: list[str] = []
    handle = SimpleNamespace(update=shown.append)

    def display(content: str, display_id: bool) -> SimpleNamespace:
        assert display_id
        assert not shown  # once; then the same place changes
        shown.append(content)
        return handle

    kernel = SimpleNamespace(get_ipython=lambda: SimpleNamespace(config={"IPKernelApp": {}}))
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(HTML=str, display=display))
    return shown


def test_a_notebook_shows_a_strip_that_grows(shown: list[str]) -> None:
    fastdc.condense("digits", **SMALL)
    assert [len(re.findall("<img ", content)) for content in shown] == [1, 2, 3, 4, 5, 6]
    assert re.findall('alt="(.*?)"', shown[-1]) == [f"the images after iteration {iteration}" for iteration in range(6)]
    assert html.unescape(shown[-1]) == shown[-1]


def test_the_strip_of_a_long_run_is_short(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strip, "_THUMBNAILS", 2)
    fastdc.condense("digits", **SMALL)
    assert re.findall("<figcaption>(.*?)<", shown[-1]) == ["iteration 0", "iteration 3", "iteration 5"]


def test_a_notebook_that_wants_no_progress_shows_none(shown: list[str]) -> None:
    fastdc.condense("digits", progress=False, **SMALL)
    assert shown == []


# fastdc show --watch


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastdc.cli.watch._PAUSE", 0.01)


@pytest.mark.usefixtures("quick", "every_step_kept")
def test_watch_waits_for_a_run_and_follows_it_to_its_end(tmp_path: Path, cli: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    folder, picture = tmp_path / "run", tmp_path / "seen.png"

    def slowly(event: Event) -> None:
        time.sleep(0.2)

    def condense() -> None:
        time.sleep(0.2)
        fastdc.condense("digits", out=folder, callbacks=[slowly], **SMALL)

    run = threading.Thread(target=condense)
    run.start()
    assert cli.main(["show", str(folder), "--watch", "--out", str(picture)]) == 0
    run.join()
    first, *lines, last = capsys.readouterr().out.splitlines()
    assert first == f"{folder / 'checkpoint.safetensors'} is not there yet; waiting for the run to begin"
    assert last == f"the run has ended; its picture is {picture}"
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1] == f"iteration 5 of 5, loss {losses[-1]:.4g}"
    assert lines[0] == "iteration 0 of 5"
    assert len(lines) > 4
    assert Image.open(picture).tobytes() == Image.open(folder / "condensed.png").tobytes()
    assert not in_use(folder)


@pytest.mark.usefixtures("quick")
def test_watch_says_where_a_run_stopped(tmp_path: Path, cli: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InterruptedError):
        fastdc.condense("digits", out=tmp_path, callbacks=[stop_at(IterationDone, 2)], **SMALL)
    assert cli.main(["show", str(tmp_path), "--watch"]) == 0
    assert capsys.readouterr().out.endswith(
        f"no process works on the run; its command again continues it; its picture is {tmp_path / 'condensed.png'}\n"
    )


def test_ctrl_c_ends_watching_with_a_sentence(
    tmp_path: Path, cli: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastdc.cli.watch.time", SimpleNamespace(sleep=interrupt))
    assert cli.main(["show", str(tmp_path / "run"), "--watch"]) == 130
    assert capsys.readouterr().err == f"fastdc: {tmp_path / 'run'} is no longer watched; a run there goes on.\n"


def test_what_cannot_be_watched_gets_a_sentence(whole: Path, cli: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", str(whole / "condensed.safetensors"), "--watch"]) == 2
    assert "--watch follows the folder of a run" in capsys.readouterr().err
    old = Path(__file__).parent / "golden" / "run-0.2"
    assert cli.main(["show", str(old), "--watch", "--out", str(whole / "old.png")]) == 1
    assert "does not say how its images look" in capsys.readouterr().err


def test_a_run_is_in_use_while_its_lock_is_held_and_looking_refuses_none(tmp_path: Path) -> None:
    seen: list[bool] = []
    assert not in_use(tmp_path)
    fastdc.condense("digits", out=tmp_path, callbacks=[lambda event: seen.append(in_use(tmp_path))], **SMALL)
    assert set(seen) == {True}
    assert not in_use(tmp_path)
