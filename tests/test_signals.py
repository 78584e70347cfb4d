"""Ctrl-C ends whatever is called, in a notebook and on the command line; and helpers end with the process that started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT, needs_extension, noise_data
from torch import Tensor

import fastdc
from fastdc.coresets.herding import match_mean
from fastdc.coresets.k_center import farthest_first
from fastdc.data.k_means import medoids
from fastdc.engines import Engine, make_engine
from fastdc.experiments import architecture_search, continual_learning
from fastdc.experiments.continual.stages import split_classes
from fastdc.models import build
from fastdc.parallel.threads import one_thread_each, result_of
from fastdc.runtime.stopping import checked_at_stop_points

LIMIT = 10.0  # seconds from the signal to the end; on a machine that does nothing else it is one or two
AFTER = 1.0  # seconds of a call before the signal: by then it does what takes long

TRAIN = noise_data([300] * 10, side=28)
FEW = fastdc.coresets.random(TRAIN, 30)
FEATURES = torch.randn(4000, 500, generator=torch.Generator().manual_seed(0))


# As in a notebook: KeyboardInterrupt in the main thread, after which other calls work


def seconds_to_end(call: Callable[[], object]) -> float:
    """From SIGINT, which this process gets in the midst of a call, to its KeyboardInterrupt."""
    sent = []

    def send() -> None:
        time.sleep(AFTER)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(KeyboardInterrupt):
        call()
    ended = time.monotonic()
    sender.join()
    return ended - sent[0]


def evaluated(**options: Any) -> None:
    fastdc.evaluate(FEW, TRAIN, networks=4, epochs=10**6, progress=False, **options)


def condensed(ipc: int = 50, **options: Any) -> None:
    fastdc.condense(TRAIN, ipc, iterations=10**6, progress=False, **options)


def chosen(name: str, folder: Path) -> None:
    getattr(fastdc.coresets, name)(TRAIN, 10, epochs=10**6, cache=folder, progress=False)


def searched(folder: Path, *proxies: str) -> None:
    how: dict[str, Any] = {"space": ["convnet", "convnet:depth=2"], "epochs": 1000, "ipc": 50, "out": folder, "progress": False}
    architecture_search(TRAIN, TRAIN, proxies=proxies, **how)


def learned(folder: Path, memory: str, epochs: int) -> None:
    stages = split_classes(TRAIN, TRAIN, 5)
    continual_learning(stages, memory, 50, scenario="class", epochs=epochs, out=folder, progress=False)


CALLS: dict[str, Callable[[Path], None]] = {
    "evaluate, native": lambda _: evaluated(engine="native"),
    "evaluate, torch": lambda _: evaluated(engine="torch"),
    "evaluate, reference": lambda _: evaluated(engine="reference"),
    "evaluate, dsa": lambda _: evaluated(protocol="dsa"),
    "evaluate, batch norm": lambda _: evaluated(model="vgg11:norm=batch"),
    "evaluate, resnet": lambda _: evaluated(model="resnet18"),
    "condense": lambda _: condensed(),
    "condense, one image": lambda folder: condensed(1, out=folder),
    "condense, kept": lambda folder: condensed(out=folder),
    "condense, kept, torch": lambda folder: condensed(out=folder, engine="torch"),
    "condense, kept, reference": lambda folder: condensed(out=folder, engine="reference"),
    "condense, kept, batch norm": lambda folder: condensed(1, out=folder, model="resnet18:norm=batch"),
    **{f"condense, kept, {name}": lambda folder, name=name: condensed(10, out=folder, method=name) for name in ("dm", "idc", "dream")},
    "condense, kept, dd": lambda folder: condensed(10, out=folder, method="dd"),
    "herding": lambda folder: chosen("herding", folder),
    "forgetting": lambda folder: chosen("forgetting", folder),
    "herding, of features": lambda _: match_mean(FEATURES, 4000),
    "k_center, of features": lambda _: farthest_first(FEATURES, 4000),
    "k-means": lambda _: [medoids(FEATURES, 2000, torch.Generator()) for _ in range(1000)],  # type: ignore[func-returns-value]
    "search": lambda folder: searched(folder, "random"),
    "search, on the whole set": lambda folder: searched(folder, "early_stopping"),
    "search, condensing": lambda folder: searched(folder, "dc"),
    "continual": lambda folder: learned(folder, "random", 10**6),
    "continual, condensing": lambda folder: learned(folder, "dc", 1),
}


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c_ends_a_call(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    others = threading.enumerate()  # such as those that compile for torch
    assert seconds_to_end(lambda: CALLS[name](tmp_path / "out")) < LIMIT
    assert torch.get_num_threads() == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool") and thread not in others]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not list(tmp_path.rglob("*.tmp*"))


# Compiled code


@pytest.fixture(params=[1, 2])
def native(request: pytest.FixtureRequest, threads: None) -> tuple[Engine, Tensor, Tensor]:
    """An engine in one thread and in two, weights, and images of which a pass takes long."""
    torch.set_num_threads(request.param)
    engine = make_engine("native", build("convnet", 1, 10, (28, 28)))
    images = torch.randn(10, 2000, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return engine, engine.layout.flatten(engine.module), images


@needs_extension
def test_a_pass_in_compiled_code_ends_and_leaves_the_next_one_as_it_was(native: tuple[Engine, Tensor, Tensor]) -> None:
    engine, theta, images = native
    before = engine.class_gradients(theta, images[:, :20])
    assert seconds_to_end(lambda: engine.class_gradients(theta, images)) < LIMIT
    assert torch.equal(engine.class_gradients(theta, images[:, :20]), before)


@needs_extension
def test_a_thread_of_a_pool_leaves_compiled_code(native: tuple[Engine, Tensor, Tensor]) -> None:
    engine, theta, images = native
    with one_thread_each(2) as pool:
        futures = [pool.submit(engine.class_gradients, theta, images) for _ in range(2)]
        time.sleep(AFTER)
        assert not any(future.done() for future in futures)
        began = time.monotonic()
    assert time.monotonic() - began < LIMIT
    assert [type(future.exception()) for future in futures] == [CancelledError] * 2


@needs_extension
def test_a_handler_that_raises_nothing_changes_nothing(native: tuple[Engine, Tensor, Tensor]) -> None:
    engine, theta, images = native
    expected, heard = engine.class_gradients(theta, images[:, :50]), []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        found = engine.class_gradients(theta, images[:, :50])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(heard) > 1
    assert torch.equal(found, expected)


@needs_extension
def test_a_handler_that_calls_compiled_code_in_the_midst_of_it_is_refused(native: tuple[Engine, Tensor, Tensor]) -> None:
    engine, theta, images = native
    before = signal.signal(signal.SIGALRM, lambda *_: engine.class_gradients(theta, images[:, :1]))
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(RuntimeError, match="by a signal handler that interrupted it"):
            engine.class_gradients(theta, images)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_thread_that_waits_for_another_has_stop_points() -> None:
    def refuse() -> None:
        raise InterruptedError

    over = threading.Event()
    with one_thread_each(1) as pool, checked_at_stop_points(refuse):
        future = pool.submit(over.wait, 60)
        with pytest.raises(InterruptedError):
            result_of(future)
        over.set()


# The command line

WATCHED = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a parent in the background has switched off
from fastdc import cli
from fastdc.engines import NativeEngine, TorchEngine
for engine in (NativeEngine, TorchEngine):
    def training(*arguments, original=engine.training):
        Path("working").touch()
        return original(*arguments)
    def gradients(*arguments, original=engine.class_gradients):
        Path("working").touch()
        return original(*arguments)
    engine.training, engine.class_gradients = training, gradients
cli.run()
"""
COMMANDS = {
    "condense": "condense --ipc 50 --out out",
    "evaluate": "evaluate set.safetensors --networks 4 --epochs 1000000",
    "select": "select --coreset forgetting --ipc 10 --epochs 1000000 --cache cache --out out",
    "table": "table coresets --scale paper --ipc 50 --columns dc --out out",
    "search, two processes": "search --scale paper --networks 4 --proxies random --ipc 10 --workers 2 --out out",
    "continual": "continual --split 5 --scale paper --memory random --ipc 10 --out out",
}


def started(command: str, folder: Path) -> subprocess.Popen[str]:
    """A command on noise of the size of FashionMNIST's images, in a group of processes of its own, which has begun to train or to match."""
    pytest.importorskip("tyro", reason="tyro is not installed, which the command line needs")
    np.savez(folder / "noise.npz", x_train=TRAIN.images.numpy(), y_train=TRAIN.labels, x_test=TRAIN.images.numpy(), y_test=TRAIN.labels)
    fastdc.coresets.random(fastdc.load_dataset(f"npz:{folder / 'noise.npz'}")[0], 30).save(folder / "set.safetensors")
    name, *flags = command.split()
    where = ["--stages" if name == "continual" else "--dataset", f"npz:{folder / 'noise.npz'}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    arguments: dict[str, Any] = {"env": environment, "cwd": folder, "text": True, "start_new_session": True}
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED, name, *flags, *where], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **arguments
    )
    wait_until((folder / "working").exists, process)
    return process


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.05)


def gone_within(group: int, seconds: float) -> bool:
    """Whether no process of a group is left after some time at the most."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def end(group: int) -> None:
    """Kill what is left of a group of processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_ends_a_command_with_one_line(name: str, tmp_path: Path) -> None:
    """As a terminal does it, which sends the signal to helpers too."""
    process = started(COMMANDS[name], tmp_path)
    try:
        time.sleep(AFTER)
        os.killpg(process.pid, signal.SIGINT)
        began = time.monotonic()
        _, complaint = process.communicate(timeout=60)
        assert time.monotonic() - began < LIMIT
        assert process.returncode == 130
        assert len(complaint.splitlines()) == 1, complaint
        assert "again continues" in complaint
        assert gone_within(process.pid, 5)
    finally:
        end(process.pid)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_helpers_end_with_the_process_that_started_them(tmp_path: Path, signum: int) -> None:
    process = started(COMMANDS["search, two processes"], tmp_path)
    try:
        wait_until(lambda: len(list(tmp_path.glob("out/networks/*/.claim"))) == 2, process)  # each trains a network
        process.send_signal(signum)  # to it alone
        process.communicate(timeout=60)
        assert gone_within(process.pid, 5)
    finally:
        end(process.pid)


def test_helpers_end_that_have_not_begun(tmp_path: Path) -> None:
    process = started(COMMANDS["search, two processes"], tmp_path)
    process.kill()
    process.communicate(timeout=60)
    assert gone_within(process.pid, LIMIT)  # they load torch first
