"""Callbacks: which events are told, in which order, with what; TensorBoard and the progress bar."""

from __future__ import annotations

import dataclasses
import gc
import io
import json
import math
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import tqdm
from helpers import AUTO, stop_at
from tolerances import KEPT_AS_FLOAT32

import fastdc
from fastdc.callbacks import CheckpointWritten, Ended, Evaluated, Event, IterationDone, Started, TensorBoard
from fastdc.condensed import CondensedDataset
from fastdc.engines import Engine
from fastdc.errors import UsageError
from fastdc.loop.config import CondenseConfig, resolved
from fastdc.parallel.devices import peak_memory
from fastdc.runs import progress
from fastdc.runs.files import load_tensors

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"ipc": 1, "model": "mlp:width=8", "iterations": 4, "matching_steps": 2, "model_epochs": 1, "batch_real": 8}


def events_of(**options: Any) -> tuple[list[Event], CondensedDataset]:
    events: list[Event] = []
    condensed = fastdc.condense("digits", callbacks=[events.append], **{**SMALL, **options})
    return events, condensed


def test_a_run_without_a_folder_tells_its_start_each_iteration_and_its_end() -> None:
    events, _ = events_of()
    assert [type(event) for event in events] == [Started, *[IterationDone] * 4, Ended]


def test_started_holds_the_configuration_with_every_number_resolved() -> None:
    events, _ = events_of(iterations=1, matching_steps=None, model_epochs=None, seed=5, device="cpu")
    options = {**SMALL, "iterations": 1, "matching_steps": 1, "model_epochs": 1}  # the paper's numbers at one image per class
    assert isinstance(events[0], Started)
    assert events[0] == Started(resolved(CondenseConfig(**options, seed=5, engine=AUTO.name, device="cpu")), iteration=0)
    assert [field.name for field in dataclasses.fields(CondenseConfig) if getattr(events[0].config, field.name) is None] == ["budget"]


def test_iterations_are_numbered_from_one_with_their_mean_loss_and_time() -> None:
    events, _ = events_of()
    done = [event for event in events if isinstance(event, IterationDone)]
    assert [event.iteration for event in done] == [1, 2, 3, 4]
    assert all(math.isfinite(event.loss) and event.loss > 0 and event.seconds > 0 for event in done)


def test_the_peak_of_memory_is_that_of_the_process_so_far() -> None:
    cpu = torch.device("cpu")
    before = peak_memory(cpu)
    events, _ = events_of(device="cpu")
    peaks = [event.peak_memory for event in events if isinstance(event, IterationDone)]
    assert [before, *peaks, peak_memory(cpu)] == sorted([before, *peaks, peak_memory(cpu)])
    assert before > 20 << 20


def test_the_loss_of_an_iteration_is_the_mean_over_its_steps_of_the_distance_summed_over_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    original, sums = AUTO.match, []

    def match(self: Engine, *args: Any) -> Any:
        distance, gradient = original(self, *args)
        sums.append(distance.sum().item())
        return distance, gradient

    monkeypatch.setattr(AUTO, "match", match)
    events, _ = events_of(iterations=2)
    done = [event for event in events if isinstance(event, IterationDone)]
    assert [event.loss for event in done] == pytest.approx([(sums[0] + sums[1]) / 2, (sums[2] + sums[3]) / 2])


def test_ended_holds_the_very_result(tmp_path: Path) -> None:
    events, condensed = events_of(out=tmp_path)
    assert isinstance(events[-1], Ended)
    assert events[-1].condensed is condensed
    assert (tmp_path / "condensed.safetensors").exists()


def test_every_checkpoint_that_is_told_of_is_on_the_disk(tmp_path: Path) -> None:
    seen = []

    def look(event: Event) -> None:
        if isinstance(event, CheckpointWritten):
            _, plain = load_tensors(event.path, "checkpoint")
            assert event.path == tmp_path / "checkpoint.safetensors"
            assert plain["iteration"] == event.iteration
            seen.append(event.iteration)

    fastdc.condense("digits", out=tmp_path, callbacks=[look], **SMALL)
    assert seen == sorted(seen)
    assert seen[-1] == SMALL["iterations"]


def test_a_run_with_a_folder_tells_of_checkpoints_between_start_and_end(tmp_path: Path) -> None:
    events, _ = events_of(out=tmp_path)
    assert isinstance(events[0], Started)
    assert isinstance(events[-2], CheckpointWritten)
    assert isinstance(events[-1], Ended)
    assert {type(event) for event in events[1:-1]} == {IterationDone, CheckpointWritten}
    assert [event.iteration for event in events if isinstance(event, IterationDone)] == [1, 2, 3, 4]


def test_the_metrics_hold_a_line_for_each_iteration_with_what_the_callbacks_were_told(tmp_path: Path) -> None:
    events, _ = events_of(out=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"event": "iteration", **vars(event)} for event in events if isinstance(event, IterationDone)]


@pytest.mark.usefixtures("every_step_kept")
def test_a_continued_run_starts_where_it_stopped_and_a_finished_one_at_its_end(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        fastdc.condense("digits", out=tmp_path, callbacks=[stop_at(CheckpointWritten, 2)], **SMALL)
    events, _ = events_of(out=tmp_path)
    assert isinstance(events[0], Started)
    assert events[0].iteration == 2
    assert [event.iteration for event in events if isinstance(event, IterationDone)] == [3, 4]
    events, _ = events_of(out=tmp_path)
    assert [type(event) for event in events] == [Started, Ended]
    assert isinstance(events[0], Started)
    assert events[0].iteration == SMALL["iterations"]


def test_all_callbacks_are_told_in_their_order() -> None:
    told: list[str] = []
    callbacks = [lambda event, name=name: told.append(name) for name in "abc"]
    fastdc.condense("digits", callbacks=callbacks, **{**SMALL, "iterations": 1})
    assert told == list("abcabcabc")  # Started, IterationDone, Ended


@pytest.mark.usefixtures("every_step_kept")
@pytest.mark.parametrize("kind", [Started, IterationDone, CheckpointWritten, Ended])
def test_a_callback_that_raises_ends_the_run_and_the_same_call_continues_it(tmp_path: Path, kind: type) -> None:
    def complain(event: Event) -> None:
        if isinstance(event, kind) and getattr(event, "iteration", 2) in (0, 2):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fastdc.condense("digits", out=tmp_path / "run", callbacks=[complain], **SMALL)
    continued = fastdc.condense("digits", out=tmp_path / "run", **SMALL)
    whole = fastdc.condense("digits", out=tmp_path / "whole", **SMALL)
    assert torch.equal(continued.images, whole.images)
    losses = [[json.loads(line)["loss"] for line in (tmp_path / run / "metrics.jsonl").open()] for run in ("run", "whole")]
    assert losses[0] == losses[1]


# TensorBoard


def test_tensorboard_gets_losses_accuracies_and_the_picture(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed")
    board = TensorBoard(tmp_path)
    events: list[Event] = []
    condensed = fastdc.condense("digits", callbacks=[board, events.append], **SMALL)
    board(Evaluated("condensed", fastdc.Evaluation((0.25, 0.5))))
    written = accumulator.EventAccumulator(str(tmp_path))
    written.Reload()
    losses = {event.iteration: event.loss for event in events if isinstance(event, IterationDone)}
    assert {scalar.step: scalar.value for scalar in written.Scalars("loss")} == pytest.approx(losses, rel=KEPT_AS_FLOAT32)
    assert [scalar.value for scalar in written.Scalars("accuracy/condensed")] == [0.25, 0.5]
    picture = written.Images("condensed")[0]
    assert (picture.width, picture.height) == condensed.grid().size


def test_losses_are_on_the_disk_as_soon_as_they_are_told(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    board = TensorBoard(tmp_path)
    sizes = []
    for iteration in (1, 2, 3):
        board(IterationDone(iteration, 1.0, 0.1, 1))
        sizes.append(sum(path.stat().st_size for path in tmp_path.glob("events.out.tfevents.*")))
    assert 0 < sizes[0] < sizes[1] < sizes[2]


def test_the_thread_of_tensorboard_ends_with_its_callback(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    before = threading.active_count()
    board = TensorBoard(tmp_path)
    board(IterationDone(1, 1.0, 0.1, 1))
    assert threading.active_count() == before + 1
    del board
    gc.collect()
    assert threading.active_count() == before


def test_tensorboard_that_is_not_installed_is_said_so_with_the_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match="tensorboard is not installed; pip install"):
        TensorBoard(tmp_path)


# The progress bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def condense_and_evaluate(progress: bool) -> None:
    condensed = fastdc.condense("digits", progress=progress, **SMALL)
    fastdc.evaluate(condensed, "digits", model="mlp:width=8", networks=2, epochs=1, progress=progress)


def test_progress_is_silent_when_stderr_is_not_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    condense_and_evaluate(progress=True)
    assert sys.stderr.getvalue() == ""


def test_progress_shows_loss_and_time_left_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    condense_and_evaluate(progress=True)
    shown = sys.stderr.getvalue()
    assert "condensing" in shown
    assert "evaluating" in shown
    assert "8/8" in shown  # 4 iterations of 2 steps
    assert "loss=" in shown
    assert "<00:00" in shown


def test_progress_is_silent_on_a_terminal_too_when_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    condense_and_evaluate(progress=False)
    assert sys.stderr.getvalue() == ""


class _Clock:
    """A clock that goes on by so many seconds at each look."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


def _told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: float, shown: bool = True) -> list[str]:
    monkeypatch.setattr(progress.time, "monotonic", _Clock(seconds))
    with progress.progress_bar(10, "condensing", "step", shown=shown, done=2) as bar:
        for number in range(8):
            bar.update()
            bar.set_postfix(loss=f"{number}", refresh=False)
    return capsys.readouterr().err.splitlines()


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = _told(monkeypatch, capsys, 10.0)
    assert lines[0] == "condensing: 5 of 10 steps, loss 1; 00:30 passed, about 00:50 left"
    assert lines[-1].startswith("condensing: 10 of 10 steps, loss 6; ")
    assert len(lines) == 3


def test_short_work_and_work_that_shall_be_quiet_say_nothing_to_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _told(monkeypatch, capsys, 0.1) == []
    assert _told(monkeypatch, capsys, 100.0, shown=False) == []


def test_a_notebook_gets_a_bar_though_its_stderr_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = SimpleNamespace(get_ipython=lambda: SimpleNamespace(config={"IPKernelApp": {}}))
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    with progress.progress_bar(10, "condensing", "step", shown=True) as bar:
        assert isinstance(bar, tqdm.std.tqdm)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not isinstance(progress.progress_bar(10, "condensing", "step", shown=True), tqdm.std.tqdm)
