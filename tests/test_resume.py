"""Runs that survive: killed, stopped, refused, damaged, out of space; and one seed that decides every bit."""

from __future__ import annotations

import builtins
import contextlib
import errno
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import AUTO, Dropping, DroppingByFunction, Linear, noise_data, stop_at
from torch import Tensor, nn

import fastdc
from fastdc.callbacks import CheckpointWritten, Event, IterationDone, Started
from fastdc.condensed import CondensedDataset
from fastdc.data import ImageData
from fastdc.engines import TorchEngine
from fastdc.errors import DataError, FastdcError, Interrupted, RunError, UsageError
from fastdc.loop.checkpoint import Description, State, load_checkpoint, save_checkpoint
from fastdc.runs import files as storage
from fastdc.runs import folder as run

# Children are forked from a server that has fastdc imported and has computed nothing, so that a start takes no two seconds.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["sklearn.datasets", "sklearn.model_selection", "torchvision.utils", "fastdc", __name__])

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"ipc": 2, "model": "mlp:width=8", "iterations": 6, "matching_steps": 3, "model_epochs": 2, "batch_real": 16, "progress": False}
LONG = {**SMALL, "iterations": 30}
UNEQUAL = (40, 3, 17)  # images of each class
KILLS_EACH = 6


@pytest.fixture(scope="module")
def whole(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run with the arguments SMALL."""
    folder = tmp_path_factory.mktemp("whole")
    fastdc.condense("digits", out=folder, **SMALL)
    return folder


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The folder of a run with the arguments SMALL that was stopped in its fourth iteration."""
    return stopped_run(tmp_path / "stopped", iteration=4)


def stopped_run(folder: Path, iteration: int, data: Any = "digits", **options: Any) -> Path:
    with pytest.raises(InterruptedError):
        fastdc.condense(data, out=folder, callbacks=[stop_at(iteration=iteration)], **{**SMALL, **options})
    assert (folder / "checkpoint.safetensors").exists()
    return folder


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without the time and the memory that they took."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "peak_memory")} for line in lines]


def assert_same_run(folder: Path, other: Path) -> None:
    assert torch.equal(CondensedDataset.load(folder / "condensed.safetensors").images, loaded(other).images)
    assert (folder / "condensed.safetensors").read_bytes() == (other / "condensed.safetensors").read_bytes()
    assert (folder / "condensed.png").read_bytes() == (other / "condensed.png").read_bytes()
    assert metrics(folder) == metrics(other)
    assert not list(folder.glob("*.tmp"))


def loaded(folder: Path) -> CondensedDataset:
    return CondensedDataset.load(folder / "condensed.safetensors")


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a run with its bytes; the lock is no part of it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def read_state(path: Path, shape: tuple[int, ...] = (20, 1, 8, 8)) -> State:
    state = State(torch.zeros(shape), {"velocity": torch.zeros(shape)})
    theta = storage.load_tensors(path, "checkpoint")[0].get("theta", torch.zeros(0))
    load_checkpoint(path, state, len(theta))
    return state


def must_not_start(event: Event) -> None:
    raise AssertionError("the run was not refused")


# Killed at random moments


def child(started: Any, folder: str, options: dict[str, Any], moment: str | None = None) -> None:
    """What a process of its own does: the run, killed by itself at a named moment where one is given."""

    def note(event: Event) -> None:
        if isinstance(event, Started):
            started.set()

    torch.set_num_threads(1)
    if moment is not None:
        MOMENTS[moment]()
    fastdc.condense("digits", out=folder, callbacks=[note], **options)


def start(folder: Path, options: dict[str, Any], moment: str | None = None) -> Any:
    started = PROCESSES.Event()
    process = PROCESSES.Process(target=child, args=(started, str(folder), options, moment))
    process.start()
    assert started.wait(120)
    return process


@pytest.mark.parametrize("model", ["convnet:width=8", "convnet:width=8,norm=batch"])
def test_a_run_killed_at_random_moments_ends_in_the_same_bits(tmp_path: Path, model: str) -> None:
    options = {**LONG, "model": model}
    begin = time.monotonic()
    process = start(tmp_path / "whole", options)
    process.join()
    length = time.monotonic() - begin
    delays = random.Random(model)
    kills, attempt = 0, 0
    while kills < KILLS_EACH:  # once, unless this machine has become so much quicker that a run ends before it is killed
        folder, attempt = tmp_path / f"attempt {attempt}", attempt + 1
        for _ in range(KILLS_EACH):
            process = start(folder, options)
            process.join(delays.uniform(0, length / (2 * KILLS_EACH)))
            process.kill()
            process.join()
            kills += process.exitcode == -signal.SIGKILL
        process = start(folder, options)
        process.join()
        assert process.exitcode == 0
        assert_same_run(folder, tmp_path / "whole")


def kill_self(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def on_call(
    owner: Any, name: str, number: int, before: Callable[..., None] | None = None, after: Callable[..., None] | None = None
) -> None:
    """Replace a function by one that does something more at its call of that number, from 1 on."""
    original, calls = getattr(owner, name), [0]

    def replacement(*args: Any, **keywords: Any) -> Any:
        calls[0] += 1
        if before is not None and calls[0] == number:
            before(*args)
        result = original(*args, **keywords)
        if after is not None and calls[0] == number:
            after(*args)
        return result

    setattr(owner, name, replacement)


def with_every_step_kept(sabotage: Callable[[], None]) -> Callable[[], None]:
    def prepare() -> None:
        run._CHECKPOINT_SHARE = 1e9  # a checkpoint after every step
        run.RunFolder.keep_thumbnail = lambda *_: None  # type: ignore[method-assign]  # files are counted
        sabotage()

    return prepare


def half_a_line(folder: Any, record: dict[str, Any]) -> None:
    with open(folder._metrics, "a") as file:
        file.write(json.dumps(record)[:17])
    kill_self()


def half_a_file(descriptor: int) -> None:
    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
    kill_self()


# The first file that is written is config.json, the ninth the checkpoint after the second step of the third iteration.
MOMENTS: dict[str, Callable[[], None]] = {
    "while config.json is written": lambda: on_call(os, "fsync", 1, before=half_a_file),
    "before the first checkpoint is renamed": with_every_step_kept(lambda: on_call(os, "replace", 2, before=kill_self)),
    "while a checkpoint is written": with_every_step_kept(lambda: on_call(os, "fsync", 9, before=half_a_file)),
    "before a checkpoint is renamed": with_every_step_kept(lambda: on_call(os, "replace", 9, before=kill_self)),
    "after a checkpoint within an iteration": with_every_step_kept(lambda: on_call(os, "replace", 9, after=kill_self)),
    "between a line of metrics and its checkpoint": with_every_step_kept(lambda: on_call(run.RunFolder, "log", 2, after=kill_self)),
    "within a line of metrics": with_every_step_kept(lambda: on_call(run.RunFolder, "log", 3, before=half_a_line)),
    "before the result is written": lambda: on_call(CondensedDataset, "save", 1, before=kill_self),
    "between the result and its picture": lambda: on_call(CondensedDataset, "save", 1, after=kill_self),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_the_worst_moment_ends_in_the_same_bits(tmp_path: Path, whole: Path, moment: str) -> None:
    started = PROCESSES.Event()
    process = PROCESSES.Process(target=child, args=(started, str(tmp_path / "run"), SMALL, moment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    fastdc.condense("digits", out=tmp_path / "run", **SMALL)
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.usefixtures("every_step_kept")
def test_checkpoints_are_written_within_an_iteration_too(tmp_path: Path) -> None:
    steps = []

    def note(event: Event) -> None:
        if isinstance(event, CheckpointWritten):
            state = read_state(event.path)
            steps.append(state.step)
            assert (state.theta is None) == (state.step == 0)

    fastdc.condense("digits", out=tmp_path, callbacks=[note], **SMALL)
    assert steps == [1, 2, 0] * SMALL["iterations"]


# Stopped by a signal


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_command_with_a_checkpoint_and_a_line_that_says_how_to_continue(
    tmp_path: Path, signum: int, code: int, cli: ModuleType
) -> None:
    options = {**SMALL, "model": "convnet:width=8", "iterations": 20}
    flags = [part for key, value in options.items() if key != "progress" for part in (f"--{key.replace('_', '-')}", str(value))]
    folder = tmp_path / "run"
    command = ["condense", *flags, "--out", str(folder), "--networks", "1", "--epochs", "1", "--baseline", "none"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "fastdc.cli", *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(folder / "checkpoint.safetensors", process)
    process.send_signal(signum)
    output, complaint = process.communicate(timeout=60)
    assert process.returncode == code
    assert output == ""
    assert len(complaint.splitlines()) == 1
    assert "again continues" in complaint
    assert str(folder) in complaint
    assert not (folder / "condensed.safetensors").exists()
    assert cli.main(command) == 0
    fastdc.condense("digits", out=tmp_path / "whole", **options)
    assert_same_run(folder, tmp_path / "whole")


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.01)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_interrupted_after_the_step_and_puts_the_handlers_back(tmp_path: Path, whole: Path, signum: int) -> None:
    def send(event: Event) -> None:
        if isinstance(event, IterationDone) and event.iteration == 2:
            os.kill(os.getpid(), signum)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match=r"2 of 6 iterations.*again continues") as error:
        fastdc.condense("digits", out=tmp_path, callbacks=[send], **SMALL)
    assert error.value.signum == signum
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert read_state(tmp_path / "checkpoint.safetensors").iteration == 2
    fastdc.condense("digits", out=tmp_path, **SMALL)
    assert_same_run(tmp_path, whole)


def test_a_signal_in_the_last_step_is_not_lost(tmp_path: Path, whole: Path) -> None:
    def send(event: Event) -> None:
        if isinstance(event, IterationDone) and event.iteration == SMALL["iterations"]:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fastdc.condense("digits", out=tmp_path, callbacks=[send], **SMALL)
    fastdc.condense("digits", out=tmp_path, **SMALL)
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("call", [1, 2, 5, 9])
def test_a_step_that_takes_too_long_is_ended_and_the_run_goes_on_from_the_one_before(
    tmp_path: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {**SMALL, "engine": "torch"}  # which asks for signals between its chunks, however small they are
    fastdc.condense("digits", out=tmp_path / "whole", **options)
    original, calls = TorchEngine.match, []

    def match(self: TorchEngine, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr("fastdc.runs.signals.GRACE", 0.0)
        patch.setattr("fastdc.loop.loop._SURE_TO_END", 0.0)
        patch.setattr(run, "_CHECKPOINT_SHARE", 1e-9)  # none but the first, and that of the interruption
        patch.setattr(TorchEngine, "match", match)
        with pytest.raises(Interrupted, match=rf"after {(call - 1) // 3} of 6 iterations.*again continues"):
            fastdc.condense("digits", out=tmp_path / "run", **options)
    assert len(calls) == call
    state = read_state(tmp_path / "run" / "checkpoint.safetensors")
    assert 3 * state.iteration + state.step == call - 1
    fastdc.condense("digits", out=tmp_path / "run", **options)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


# Refused


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"ipc": 3},
        {"iterations": 5},
        {"model": "mlp:width=9"},
        {"matching_steps": 2, "model_epochs": 3},
        {"lr_images": 0.2, "lr_model": 0.02, "batch_real": 8},
        {"init": "real"},
        {"distance": "mse"},
        {"engine": "reference"},
    ],
    ids=lambda other: "+".join(other),
)
def test_other_arguments_are_refused_with_the_fields_that_differ_and_nothing_is_changed(stopped: Path, other: dict[str, Any]) -> None:
    before = content(stopped)
    with pytest.raises(UsageError) as error:
        fastdc.condense("digits", out=stopped, callbacks=[must_not_start], **{**SMALL, **other})
    text = str(error.value)
    fields = {*SMALL, "seed", "init", "lr_images", "lr_model", "distance", "engine", "device", "dataset", "fingerprint"}
    assert {field for field in fields if re.search(rf"\b{field} \(", text)} == {*other}
    assert all(str(value) in text for value in other.values())
    assert str(stopped) in text
    assert content(stopped) == before


def test_arguments_that_mean_the_same_are_the_same(stopped: Path, whole: Path) -> None:
    train, _ = fastdc.load_dataset("digits")
    fastdc.condense(train, out=str(stopped), **{**SMALL, "engine": AUTO.name, "device": "cpu", "lr_images": 0.1})
    assert_same_run(stopped, whole)


def test_other_data_are_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    folder = stopped_run(tmp_path / "run", 2, noise_data(UNEQUAL))
    before = content(folder)
    images = noise_data(UNEQUAL).images.clone()
    images[5, 0, 3, 3] += 1
    with pytest.raises(UsageError, match=r"differs in the images to learn from, their size or classes; fingerprint \("):
        fastdc.condense((images, noise_data(UNEQUAL).labels), out=folder, callbacks=[must_not_start], **SMALL)
    assert content(folder) == before


def test_a_checkpoint_without_its_configuration_is_refused_and_kept(tmp_path: Path) -> None:
    fastdc.condense("digits", out=tmp_path, **SMALL)
    (tmp_path / "config.json").unlink()
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(DataError, match=r"holds a checkpoint, but not the config.json"):
        fastdc.condense("digits", out=tmp_path, **{**SMALL, "seed": 1})
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_weights_that_overflow_while_trained_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a weight of the network.* not finite at iteration 1, step 1\. Lower .* lr_model \(1e\+30\)"):
        fastdc.condense("digits", out=tmp_path, **{**SMALL, "lr_model": 1e30})


# Damaged


def flip(path: Path, position: int, bit: int = 0) -> None:
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1 << bit
    path.write_bytes(raw)


def damage_version(path: Path) -> None:
    state = read_state(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "FORMAT_VERSION", storage.FORMAT_VERSION + 1)
        digits = Description(torch.arange(10).repeat_interleave(2), (0.0,), (1.0,), tuple("0123456789"), "plain", {})
        save_checkpoint(path, state, 0, digits)


def damage_kind(path: Path) -> None:
    fastdc.coresets.random("digits", 2).save(path)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty": lambda path: path.write_bytes(b""),
    "a few bytes": lambda path: path.write_bytes(path.read_bytes()[:5]),
    "cut within the header": lambda path: path.write_bytes(path.read_bytes()[:99]),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "one byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "one byte long": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "text": lambda path: path.write_text("not a checkpoint\n" * 99),
    "a list for a header": lambda path: path.write_bytes((2).to_bytes(8, "little") + b"[]"),
    "a flipped bit in the length of the header": lambda path: flip(path, 0),
    "a flipped bit in the header": lambda path: flip(path, 200),
    "a flipped bit in the last tensor": lambda path: flip(path, path.stat().st_size - 1),
    "another version": damage_version,
    "another kind": damage_kind,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gets_a_sentence_and_all_files_stay(stopped: Path, damage: str) -> None:
    DAMAGES[damage](stopped / "checkpoint.safetensors")
    before = content(stopped)
    with pytest.raises(DataError) as error:
        fastdc.condense("digits", out=stopped, callbacks=[must_not_start], **SMALL)
    assert str(stopped / "checkpoint.safetensors") in str(error.value)
    assert ("version" in str(error.value)) == (damage == "another version")
    assert "\n" not in str(error.value)
    assert content(stopped) == before


def test_any_flipped_bit_in_a_checkpoint_is_noticed(stopped: Path) -> None:
    path = stopped / "checkpoint.safetensors"
    raw = path.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    bits = random.Random(0)
    accepted = []
    for position in (*range(header), *sorted(bits.sample(range(header, len(raw)), 200))):
        path.write_bytes(raw)
        flip(path, position, bits.randrange(8))
        try:
            read_state(path)
        except DataError:
            continue
        accepted.append(raw[max(0, position - 5) : position + 5])
    assert accepted == []


@pytest.mark.parametrize("text", ["", '{"config": {"ipc"', "[]", '{"config": []}', "{}", '{"config": null, "fingerprint": "0"}'])
def test_a_damaged_configuration_gets_a_sentence_and_all_files_stay(stopped: Path, text: str) -> None:
    (stopped / "config.json").write_text(text)
    before = content(stopped)
    with pytest.raises(DataError, match=r"config\.json cannot be read"):
        fastdc.condense("digits", out=stopped, callbacks=[must_not_start], **SMALL)
    assert content(stopped) == before


# Locked


def test_a_second_run_at_once_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    folder, options = tmp_path / "run", {**SMALL, "iterations": 100_000}

    process = start(folder, options)
    with pytest.raises(RunError, match=r"in use by another run.*another folder"):
        fastdc.condense("digits", out=folder, callbacks=[must_not_start], **options)
    assert process.is_alive()
    process.kill()
    process.join()
    with pytest.raises(InterruptedError):
        fastdc.condense("digits", out=folder, callbacks=[stop_at(Started)], **options)


def test_a_second_run_within_the_same_process_is_refused_and_does_not_disturb_the_first(tmp_path: Path, whole: Path) -> None:
    refusals = []

    def again(event: Event) -> None:
        if isinstance(event, IterationDone):
            with pytest.raises(RunError, match="in use") as error:
                fastdc.condense("digits", out=tmp_path, **SMALL)
            refusals.append(error)

    fastdc.condense("digits", out=tmp_path, callbacks=[again], **SMALL)
    assert len(refusals) == SMALL["iterations"]
    assert_same_run(tmp_path, whole)


# No place to write


def test_a_file_for_a_folder_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(RunError, match="file is a file; expected a folder"):
        fastdc.condense("digits", out=tmp_path / "file", callbacks=[must_not_start], **SMALL)
    with pytest.raises(RunError, match="file is a file; expected a folder"):
        fastdc.condense("digits", out=tmp_path / "file" / "run", callbacks=[must_not_start], **SMALL)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc, where nobody can make a folder")
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed() -> None:
    with pytest.raises(RunError, match=r"/proc/self/fastdc cannot be written .*name a folder that can be written"):
        fastdc.condense("digits", out="/proc/self/fastdc", callbacks=[must_not_start], **SMALL)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_stops_the_run_with_advice_and_the_last_checkpoint_stays(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    kept: list[bytes] = []

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill(event: Event) -> None:
        if isinstance(event, CheckpointWritten):
            kept.append(event.path.read_bytes())
        if isinstance(event, IterationDone) and event.iteration == 3:
            monkeypatch.setattr(storage.os, call, fail)

    with pytest.raises(RunError, match=r"checkpoint\.safetensors cannot be written \(No space left on device\); free some space"):
        fastdc.condense("digits", out=tmp_path, callbacks=[fill], **SMALL)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == kept[-1]
    assert not list(tmp_path.glob("*.tmp"))
    monkeypatch.undo()
    fastdc.condense("digits", out=tmp_path, **SMALL)
    assert_same_run(tmp_path, whole)


def test_a_disk_too_full_for_a_line_of_metrics_stops_the_run_and_it_can_be_continued(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: Any, mode: str) -> Any:
        if mode == "ab":  # a checkpoint, written when it is due, has its own test
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return builtins.open(file, mode)

    def fill(event: Event) -> None:
        if isinstance(event, IterationDone) and event.iteration == 3:
            monkeypatch.setattr(storage, "open", fail, raising=False)

    with pytest.raises(RunError, match=r"metrics\.jsonl cannot be written \(No space left on device\); free some space"):
        fastdc.condense("digits", out=tmp_path, callbacks=[fill], **SMALL)
    monkeypatch.setattr(storage, "open", builtins.open, raising=False)
    fastdc.condense("digits", out=tmp_path, **SMALL)
    assert_same_run(tmp_path, whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here; it takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill_up(folder: Path) -> None:
    with open(folder / "ballast", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024))
    assert not shutil.disk_usage(folder).free


def test_a_disk_that_is_full_in_truth_stops_the_run_and_it_can_be_continued(small_disk: Path, whole: Path) -> None:
    def fill(event: Event) -> None:
        if isinstance(event, IterationDone) and event.iteration == 3:
            fill_up(small_disk)

    with pytest.raises(RunError, match=r"No space left on device.*free some space"):
        fastdc.condense("digits", out=small_disk / "run", callbacks=[fill], **SMALL)
    assert read_state(small_disk / "run" / "checkpoint.safetensors").iteration <= 3
    (small_disk / "ballast").unlink()
    fastdc.condense("digits", out=small_disk / "run", **SMALL)
    assert_same_run(small_disk / "run", whole)


def test_a_disk_that_is_full_before_the_run_is_refused(small_disk: Path) -> None:
    fill_up(small_disk)
    with pytest.raises(RunError, match=r"No space left on device.*free some space"):
        fastdc.condense("digits", out=small_disk / "run", **SMALL)


# Finished


def test_a_finished_run_called_again_returns_the_same_without_computing(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for name in ("class_gradients", "image_gradients", "train"):
        monkeypatch.setattr(AUTO, name, lambda *_: pytest.fail("computed"))
    again = fastdc.condense("digits", out=folder, **SMALL)
    first = loaded(whole)
    assert torch.equal(again.images, first.images)
    assert again.provenance == first.provenance
    assert content(folder) == content(whole)


def test_a_run_without_a_folder_returns_what_one_with_a_folder_does(whole: Path) -> None:
    condensed = fastdc.condense("digits", **SMALL)
    assert torch.equal(condensed.images, loaded(whole).images)
    assert condensed.provenance == loaded(whole).provenance


# Not finite


def assert_good(path: Path) -> None:
    state = read_state(path)
    assert state.stored.isfinite().all()
    assert state.moments["velocity"].isfinite().all()


def test_a_learning_rate_far_too_large_stops_the_run_with_advice(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"not finite at iteration \d, step \d, class '\d'\. Lower lr_images \(1e\+36\)") as error:
        fastdc.condense("digits", out=tmp_path, **{**SMALL, "matching_steps": 1, "lr_images": 1e36})
    assert str(tmp_path / "checkpoint.safetensors") in str(error.value)
    assert_good(tmp_path / "checkpoint.safetensors")


@pytest.mark.parametrize(
    ("rate", "error", "text"),
    [
        (3e38, RunError, r"not finite at iteration 1, step 1, class '\d'\. Lower lr_images \(3e\+38\)"),
        (1e39, UsageError, r"lr_images is 1e\+39; expected .* small enough for float32"),
    ],
    ids=["in the last step", "before the first"],
)
def test_a_learning_rate_at_which_images_overflow_is_refused_and_no_checkpoint_holds_them(
    tmp_path: Path, rate: float, error: type[FastdcError], text: str
) -> None:
    options = {**SMALL, "model": "convnet:width=8", "iterations": 1, "matching_steps": 1, "ipc": 1, "lr_images": rate}
    with pytest.raises(error, match=text):
        fastdc.condense("digits", out=tmp_path, **options)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_weights_that_are_not_finite_stop_the_run_and_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    drawn = []

    def spoiled(channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
        network = nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size[0] * image_size[1], num_classes))
        drawn.append(network)
        if len(drawn) > 6:
            nn.init.constant_(network[1].weight, torch.nan)
        return network

    done = []

    def note(event: Event) -> None:
        if isinstance(event, IterationDone):
            done.append(event.iteration)

    options = {**SMALL, "iterations": 20, "model": spoiled}
    with pytest.raises(RunError, match="not finite at iteration") as error:
        fastdc.condense("digits", out=tmp_path, callbacks=[note], **options)
    assert len(done) >= 2
    assert f"iteration {done[-1] + 1}, step 1, class '0'" in str(error.value)
    assert "lr_model" in str(error.value)
    assert_good(tmp_path / "checkpoint.safetensors")
    assert read_state(tmp_path / "checkpoint.safetensors").iteration <= done[-1]


class Contrast(Linear):
    """A linear network on images of full contrast: NaN where an image has none."""

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        flat = flat - flat[:, :1]
        return self.linear(flat / flat.abs().amax(1, keepdim=True))


@pytest.mark.parametrize("engine", ["torch", "reference"])
def test_the_class_that_is_not_finite_is_named(engine: str) -> None:
    data = noise_data((20, 20, 20, 20))
    images = data.images.clone()
    images[data.labels == 2] = 77
    data = ImageData.of(images, data.labels, class_names=["ant", "bee", "cow", "dog"])
    with pytest.raises(RunError, match="iteration 1, step 1, class 'cow'"):
        fastdc.condense(data, **{**SMALL, "model": Contrast, "engine": engine})


# One seed decides everything


@pytest.mark.parametrize("model", ["mlp:width=8", "convnet:width=8", "convnet:width=8,norm=batch"])
def test_the_same_seed_gives_the_same_bits_and_another_one_others(model: str) -> None:
    options = {**SMALL, "model": model, "iterations": 3}
    torch.manual_seed(1)
    first = fastdc.condense("digits", seed=3, **options).images
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(first, fastdc.condense("digits", seed=3, **options).images)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, fastdc.condense("digits", seed=4, **options).images)


def test_the_file_of_a_result_is_the_same_bytes_whoever_writes_it(tmp_path: Path, whole: Path) -> None:
    for name in "abcdef":  # the order of a hash table would differ from one to the next
        loaded(whole).save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == (whole / "condensed.safetensors").read_bytes()


@pytest.mark.parametrize("model", [Dropping, DroppingByFunction])
def test_a_network_with_dropout_gives_the_same_bits_interrupted_or_not(tmp_path: Path, model: type[Dropping]) -> None:
    options = {**SMALL, "model": model}
    torch.manual_seed(1)
    first = fastdc.condense("digits", **options).images
    torch.manual_seed(2)
    assert torch.equal(first, fastdc.condense("digits", **options).images)
    stopped_run(tmp_path, 3, model=model)
    assert torch.equal(first, fastdc.condense("digits", out=tmp_path, **options).images)


# Classes of unequal size


@pytest.mark.parametrize("model", ["mlp:width=8", "convnet:width=8", "convnet:width=8,norm=batch"])
def test_unequal_classes_and_classes_smaller_than_a_batch_work(tmp_path: Path, model: str) -> None:
    options = {**SMALL, "model": model}
    condensed = fastdc.condense(noise_data(UNEQUAL), **options)
    assert condensed.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert condensed.class_names == ("class 0", "class 1", "class 2")
    stopped_run(tmp_path, 2, noise_data(UNEQUAL), model=model)
    assert torch.equal(condensed.images, fastdc.condense(noise_data(UNEQUAL), out=tmp_path, **options).images)


def test_a_class_with_one_image_works() -> None:
    condensed = fastdc.condense(noise_data((1, 9, 30)), **{**SMALL, "ipc": 4})
    assert condensed.images.shape == (12, 1, 8, 8)


def test_an_unfinished_run_of_version_0_1_is_refused_with_a_sentence(tmp_path: Path) -> None:
    config = {"dataset": "digits", "ipc": 2, "method": "dc", "iterations": 3}
    (tmp_path / "config.json").write_text(json.dumps({"config": config, "fingerprint": "x", "fastdc": "0.1.0", "torch": "2.14.1"}))
    with pytest.raises(UsageError, match=r"holds a run of fastdc 0\.1\.0.*finish it with that version, or use another folder"):
        fastdc.condense("digits", out=tmp_path, **SMALL)


def test_more_iterations_go_on_to_the_bits_of_a_run_of_that_many(tmp_path: Path) -> None:
    options = {**SMALL, "out": tmp_path / "longer"}
    fastdc.condense("digits", **{**options, "iterations": 2})
    began = []
    fastdc.condense("digits", **{**options, "iterations": 5}, callbacks=[lambda event: began.append(getattr(event, "iteration", None))])
    assert began[0] == 2
    fastdc.condense("digits", **{**SMALL, "iterations": 5, "out": tmp_path / "straight"})
    assert torch.equal(loaded(tmp_path / "longer").images, loaded(tmp_path / "straight").images)
    assert metrics(tmp_path / "longer") == metrics(tmp_path / "straight")
    assert json.loads((tmp_path / "longer/config.json").read_text())["config"]["iterations"] == 5


@pytest.mark.parametrize(("changes", "named"), [({"iterations": 1}, "iterations"), ({"iterations": 5, "lr_images": 0.2}, "lr_images")])
def test_fewer_iterations_or_another_option_beside_more_are_refused_and_nothing_changes(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    options = {**SMALL, "iterations": 2, "out": tmp_path}
    fastdc.condense("digits", **options)
    before = content(tmp_path)
    with pytest.raises(UsageError, match=rf"differs in {named} \("):
        fastdc.condense("digits", **{**options, **changes})
    assert content(tmp_path) == before


def test_metrics_that_were_cut_or_are_a_link_are_refused_and_stay(tmp_path: Path) -> None:
    fastdc.condense("digits", out=tmp_path / "run", **SMALL)
    file = tmp_path / "run" / "metrics.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    with pytest.raises(DataError, match=rf"metrics\.jsonl has {len(whole) - 5} bytes; expected at least {len(whole)}"):
        fastdc.condense("digits", out=tmp_path / "run", **SMALL)
    assert file.read_bytes() == whole[:-5]
    file.unlink()
    (tmp_path / "precious").write_bytes(whole + b"mine")
    file.symlink_to(tmp_path / "precious")
    with pytest.raises(RunError, match=r"metrics\.jsonl is a link; expected a regular file"):
        fastdc.condense("digits", out=tmp_path / "run", **SMALL)
    assert (tmp_path / "precious").read_bytes() == whole + b"mine"


WEIGHTS = sum(weight.numel() for weight in fastdc.models.build(SMALL["model"], 1, 10, (8, 8)).parameters())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"iteration": -2}, "iteration is -2, no whole number from 0 on"),
        ({"step": True}, "step is True"),
        ({"metrics_bytes": 1.5}, "metrics_bytes is 1.5"),
        ({"iteration": None}, "iteration is None"),
        ({"theta": torch.zeros(3)}, r"theta is torch\.float32 \[3\], not \d+ weights"),
        ({"theta": torch.zeros(WEIGHTS, dtype=torch.float64)}, r"theta is torch\.float64 \[\d+\], not \d+ weights in torch\.float32"),
        ({"stored": torch.full((20, 1, 8, 8), torch.nan)}, "stored is not finite"),
        ({"moments.velocity": torch.zeros(3)}, r"moments\.velocity is torch\.float32 \[3\]"),
        ({"moments.other": torch.zeros(3)}, "moments are"),
    ],
)
def test_a_checkpoint_that_is_whole_and_says_what_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    fastdc.condense("digits", out=tmp_path, **SMALL)
    path = tmp_path / "checkpoint.safetensors"
    tensors, said = storage.load_tensors(path, "checkpoint")
    tensors |= {name: value for name, value in changes.items() if isinstance(value, Tensor)}
    storage.save_tensors(path, "checkpoint", tensors, said | {name: value for name, value in changes.items() if name in said})
    with pytest.raises(DataError, match=match):
        fastdc.condense("digits", out=tmp_path, **SMALL)


def test_step_sizes_of_dd_beyond_what_a_weight_holds_end_the_run_with_advice(tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": "dd:unroll=2", "model": "mlp:width=4", "batch_real": 4, "progress": False, "out": tmp_path}
    fastdc.condense("digits", 1, iterations=1, **options)
    path = tmp_path / "checkpoint.safetensors"
    tensors, said = storage.load_tensors(path, "checkpoint")
    tensors["learned.log_step_sizes"].fill_(100.0)
    storage.save_tensors(path, "checkpoint", tensors, said)
    with pytest.raises(RunError, match=r"not finite at iteration 2.*Lower lr_images"):
        fastdc.condense("digits", 1, iterations=2, **options)
