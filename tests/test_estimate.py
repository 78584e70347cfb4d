"""Estimates: from steps that leave nothing behind, for every recipe and pool; what a long run says, and what is refused for its size."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import noise_data
from processes import together

import fastdc
from fastdc.errors import UsageError
from fastdc.loop import forecast, memory
from fastdc.loop.config import CondenseConfig, resolved
from fastdc.loop.forecast import Forecast
from fastdc.loop.loop import Condensation
from fastdc.models.network import NetworkFamily
from fastdc.options.checks import as_duration
from fastdc.parallel import devices
from fastdc.parallel.memory_limits import free_within_limits
from fastdc.recipe import POOLS
from fastdc.recipe.pools import pretrained
from fastdc.training import whole_set

pytestmark = pytest.mark.usefixtures("one_thread")
DATA, MANY = noise_data([12] * 4), noise_data([90, 90])
SMALL: dict[str, Any] = {"model": "convnet:width=8", "iterations": 3, "matching_steps": 3, "batch_real": 8}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No more steps than an estimate needs; and a folder of its own for networks that are kept."""
    monkeypatch.setattr("fastdc._estimate._MEASURED", 0.0)
    monkeypatch.setattr(whole_set, "DEFAULT_CACHE", tmp_path / "networks")


def estimated(ipc: int = 1, **options: Any) -> fastdc.Estimate:
    return fastdc.estimate(DATA, ipc, **{**SMALL, **options})


class Clock:
    """A clock that goes on by what each step costs, and by nothing else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, first: float = 0.0, between: float = 0.0, sought: float = 0.0) -> None:
        """The seconds of a step: one, with so many more for the first with a network, for the training after any but the last, and
        where representatives are sought, every second step."""
        self.now, self.steps = 100.0, 0
        take_step = Condensation._matching_step

        def step(condensation: Condensation) -> object:
            at = condensation.state.step
            self.now += 1.0 + first * (at == 0) + between * (at < condensation.steps - 1) + sought * (at % 2 == 0)
            self.steps += 1
            return take_step(condensation)

        monkeypatch.setattr(Condensation, "_matching_step", step)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


# What it leaves behind: nothing


def test_nothing_is_written_and_nothing_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before, states = fastdc.condense(DATA, 1, progress=False, **SMALL), (torch.get_rng_state(), torch.get_num_threads())
    fastdc.estimate(DATA, 1, out=tmp_path / "run", pool="pretrained:networks=2,epochs=1", **SMALL)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.get_num_threads() == states[1]
    assert torch.equal(fastdc.condense(DATA, 1, progress=False, **SMALL).images, before.images)
    assert list(tmp_path.rglob("*")) == []


# What it finds


@pytest.mark.parametrize("method", fastdc.RECIPES)
def test_every_recipe_has_an_estimate(method: str) -> None:
    found = estimated(2, method=method, matching_steps=None, scale="laptop" if method not in ("auto", "untrained") else "paper")
    assert found.iterations == 3
    assert min(found.seconds, found.preparation, found.iteration, found.memory, found.disk) > 0
    assert found.seconds == found.preparation + 3 * found.iteration


@pytest.mark.parametrize("pool", list(POOLS))
@pytest.mark.parametrize("train", ["none", "synthetic", "real"])
def test_every_pool_has_an_estimate(pool: str, train: str) -> None:
    assert estimated(pool=f"{pool}:train={train}", matching_steps=2).iteration > 0


def test_learning_nothing_takes_the_preparation_alone() -> None:
    found = estimated(iterations=0)
    assert (found.iterations, found.iteration, found.seconds) == (0, 0.0, found.preparation)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9])
def test_an_iteration_is_its_first_step_its_last_and_those_between(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    clock = Clock(monkeypatch, first=0.5, between=3.0)
    found = estimated(matching_steps=steps, iterations=50)
    assert found.iteration == steps + 0.5 + 3.0 * (steps - 1)
    assert found.seconds == found.preparation + 50 * found.iteration
    assert clock.steps <= 4
    assert estimated(matching_steps=steps, iterations=100).seconds == pytest.approx(found.seconds + 50 * found.iteration, abs=5)


def test_steps_that_differ_in_rounds_are_taken_a_round_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, sought=5.0)
    assert estimated(batches="representatives:sample=10,every=2", matching_steps=10).iteration == 10 + 5 * 5.0


def test_more_steps_are_taken_where_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, first=0.5, between=3.0)
    monkeypatch.setattr("fastdc._estimate._MEASURED", 60.0)
    assert estimated(matching_steps=5).iteration == 5.5 + 4 * 3.0
    assert 100 + 60 <= clock.now <= 100 + 60 + 18


def test_the_steps_that_make_ready_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    take_step = Condensation._matching_step

    def slow_at_first(condensation: Condensation) -> object:
        clock.now += 7.0 * (condensation.state.moment == (0, 0))
        return take_step(condensation)

    monkeypatch.setattr(Condensation, "_matching_step", slow_at_first)
    found = estimated(iterations=10)
    assert (found.preparation, found.iteration, found.seconds) == (7.0, 3.0, 37.0)


def test_networks_that_are_trained_once_are_counted_unless_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = "pretrained:networks=3,epochs=2"
    Clock(monkeypatch)
    monkeypatch.setattr(pretrained, "seconds_of_training", lambda data, options: 20.0)
    assert estimated(pool=pool).preparation == 60.0
    fastdc.condense(DATA, 1, pool="pretrained:networks=1,epochs=2", progress=False, **SMALL)
    assert estimated(pool=pool).preparation == 40.0


@pytest.mark.parametrize("count", [48, 300, 1437])
def test_a_training_is_its_images_learned_and_classified(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By 2 s an image that is learned and 1 s one that is classified, in batches and blocks of which the last are smaller."""
    options, data = whole_set.WholeSetOptions(model="mlp:width=8", epochs=6, progress=False), noise_data([count // 3] * 3)
    assert whole_set.seconds_of_training(data, options) > 0
    clock = Clock(monkeypatch)

    def pieces(size: int, each: float) -> Iterator[int]:
        for start in range(0, count, size):
            clock.now += each * min(size, count - start)
            yield min(size, count - start)

    monkeypatch.setattr(
        whole_set._Training, "_steps", lambda self, phases: itertools.chain.from_iterable(pieces(256, 2.0) for _ in range(6))
    )
    monkeypatch.setattr(whole_set, "logits_by_block", lambda *_: ((slice(0, size), torch.zeros(size, 3)) for size in pieces(1000, 1.0)))
    assert whole_set.seconds_of_training(data, options) == pytest.approx(6 * count * (2.0 + 1.0))
    assert not whole_set.is_kept(data, options)


def test_a_budget_is_what_its_run_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    found = estimated(budget="10min", iterations=None)
    assert found.iterations == int((600 - 0.04 * 600) * 0.92 / 3)
    assert 0.9 * 600 < found.seconds <= 600
    with pytest.raises(UsageError, match="budget is too short: one iteration of 3 steps takes 3 s"):
        estimated(budget="2s", iterations=None)


@pytest.mark.parametrize("method", ["dc", "dd:unroll=2", "idc", "auto"])
def test_the_disk_is_that_of_the_folder(method: str, tmp_path: Path) -> None:
    fastdc.condense(DATA, 3, method=method, out=tmp_path / "run", progress=False, **SMALL)
    size = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*.*"))
    assert estimated(3, method=method).disk == pytest.approx(size, rel=0.2)


def test_the_memory_holds_the_images() -> None:
    few, many = (estimated(ipc, method="dm", init="noise", matching_steps=1).memory for ipc in (1, 3000))
    assert many - few > 2 * 4 * 3000 * DATA.images[0].numel() * 4  # what is stored, and its velocity


def test_it_reads_as_a_person_says_it() -> None:
    found = fastdc.Estimate(
        seconds=1560.0,
        memory=1_234_000_000,
        disk=4_000_000,
        preparation=60.0,
        iteration=1.5,
        iterations=1000,
        engine="native",
        precision="float32",
        machine="cpu (AVX512)",
        threads=2,
        processes=1,
    )
    assert str(found).splitlines() == [
        "about 26 min: 1,000 iterations of 1.5 s, and 60 s beside them",
        "1.23 GB of memory, 4 MB on disk",
        "measured with the engine native in float32 on cpu (AVX512), 2 threads",
    ]
    assert str(dataclasses.replace(found, processes=2)).endswith("2 threads, 2 processes")


# Options


def test_it_takes_the_options_of_condense() -> None:
    assert inspect.signature(fastdc.estimate).parameters == inspect.signature(fastdc.condense).parameters
    with pytest.raises(TypeError, match="unexpected keyword argument 'matching'"):
        estimated(matching=3)


@pytest.mark.parametrize(
    "options",
    [
        {"lr_images": 0.0},
        {"method": "dcc"},
        {"engine": "fast"},
        {"device": "cuda:9999"},
        {"out": 3},
        {"callbacks": [3]},
        {"init": "real", "ipc": [13, 1, 1, 1]},
        {"budget": "soon"},
        {"model": "convnet:width=x"},
    ],
)
def test_what_condense_refuses_is_refused(options: dict[str, Any]) -> None:
    ipc, others = options.get("ipc", 1), {name: value for name, value in options.items() if name != "ipc"}
    with pytest.raises(UsageError) as refused:
        fastdc.condense(DATA, ipc, **{**SMALL, **others})
    with pytest.raises(UsageError) as again:
        fastdc.estimate(DATA, ipc, **{**SMALL, **others})
    assert str(again.value) == str(refused.value)


# What a long run says


def lines(steps: int, seconds: list[float], ahead: float = 0.0) -> list[str]:
    """What is said of a run of so many steps, the first of which take so long."""
    said, now = Forecast(steps), 0.0
    found = []
    for each in seconds:
        now += each
        found.append(said.line(now, lambda: ahead))
    return [line for line in found if line is not None]


def test_a_run_of_more_than_ten_minutes_says_so_once() -> None:
    assert lines(1001, [60.0, *[1.5] * 20]) == ["this run takes about 25 min more"]  # the first step makes ready
    assert lines(1001, [0.1, *[0.5] * 20]) == []
    assert lines(1001, [0.1, *[0.5] * 20], ahead=3600.0) == ["this run takes about 68 min more"]
    assert lines(1001, [1.5, 1.5, 1.5]) == []  # not yet
    assert lines(3, [1000.0, 500.0]) == []  # of which most is behind
    assert lines(4, [10.0, 500.0]) == ["this run takes about 17 min more"]


@pytest.mark.parametrize("progress", [True, False])
def test_condense_says_it_where_progress_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], progress: bool
) -> None:
    expected = fastdc.condense(DATA, 1, progress=False, **SMALL)
    monkeypatch.setattr(forecast, "_KNOWN", 0.0)
    monkeypatch.setattr(forecast, "_LONG", 0.0)
    found = fastdc.condense(DATA, 1, progress=progress, **SMALL)
    assert capsys.readouterr().err.count("this run takes about") == progress
    assert torch.equal(found.images, expected.images)


def test_networks_that_are_still_to_be_trained_are_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolved(CondenseConfig(ipc=1, pool="pretrained:networks=4,epochs=1", **SMALL))
    family = NetworkFamily(SMALL["model"], DATA.channels, DATA.num_classes, DATA.image_size, torch.device("cpu"))
    run = Condensation(config, DATA, family, (), False)
    train = pretrained.train_on_whole_set
    monkeypatch.setattr(pretrained, "train_on_whole_set", lambda *given: dataclasses.replace(train(*given), seconds=30.0))
    run.take_step()
    assert run.pool.seconds_ahead() == 3 * 30.0
    run.pool.prepare()
    assert run.pool.seconds_ahead() == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 ms"), (0.05, "50 ms"), (9.94, "9.9 s"), (9.96, "10 s"), (7199.0, "120 min"), (7200.0, "2 h"), (1e6, "12 days")],
)
def test_a_time_is_said(seconds: float, text: str) -> None:
    assert as_duration(seconds) == text


# What cannot fit


@pytest.mark.parametrize(
    ("free", "options", "match"),
    [
        (1e6, {"ipc": 1000}, r"a set of 4,000 images with its gradient takes 0\.0 GB, .* give an ipc of \d+ or less"),
        (1e5, {"model": "mlp:width=1000"}, r"a network of [\d,]+ weights with .* give a model of [\d,]+ weights or less"),
        (
            2e4,
            {"data": noise_data([90, 90]), "model": "mlp:width=2", "batch_real": 80},
            r"a batch of 80 real .* give a batch_real of \d+ or less",
        ),
        (10.0, {}, "give fewer images per class, a smaller model or smaller images"),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: float, options: dict[str, Any], match: str
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    given = {**SMALL, "data": DATA, "ipc": 1, **options}
    with pytest.raises(UsageError, match=match):
        fastdc.estimate(**given)
    with pytest.raises(UsageError, match=match):
        fastdc.condense(**given, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_what_is_said_to_fit_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 1e6)
    with pytest.raises(UsageError) as refused:
        estimated(100_000)
    most = int(str(refused.value).split("an ipc of ")[1].split(" ")[0].replace(",", ""))
    estimated(most)
    with pytest.raises(UsageError, match=f"give an ipc of {most:,} or less"):
        estimated(most + 1)


def test_a_way_that_cannot_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the way of 999,999,999 steps takes .* give an unroll of [\d,]+ or less, or a smaller network"):
        fastdc.condense(DATA, 1, method="dd:unroll=999999999", out=tmp_path / "run", progress=False, **{**SMALL, "matching_steps": 1})
    assert not (tmp_path / "run").exists()


LIMIT, USED, ONCE = 1_000_000, 600_000, 100_000  # bytes


def limited(folder: Path, limit: str, version: int) -> Path:
    """A group of the system with this limit, as it says it in a version."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, text in zip(names, (limit, str(USED)), strict=True):
        (folder / name).write_text(f"{text}\n")
    once = "inactive_file" if version == 2 else "total_inactive_file"
    (folder / "memory.stat").write_text(f"anon 5\nactive_file 7\n{once} {ONCE}\nunevictable 0\n")
    return folder


@pytest.mark.parametrize(
    ("own", "groups", "expected"),
    [
        ("0::/job/step", {"job": "2000000", "job/step": str(LIMIT)}, LIMIT - USED + ONCE),
        ("0::/job/step", {"job": str(LIMIT), "job/step": "max"}, LIMIT - USED + ONCE),
        ("0::/job", {"job": str(USED // 2)}, 0),
        ("0::/", {"": str(LIMIT)}, LIMIT - USED + ONCE),
        ("0::/docker/of/the/host", {"": str(LIMIT)}, LIMIT - USED + ONCE),
        ("0::/../outside", {"": str(LIMIT), "../outside": "1"}, LIMIT - USED + ONCE),
        (
            "5:cpu:/\n4:memory,hugetlb:/job/step\n0::/",
            {"memory/job": str(LIMIT), "memory/job/step": str(2**63 - 4096)},
            LIMIT - USED + ONCE,
        ),
        ("4:memory:/docker/of/the/host", {"memory": str(LIMIT)}, LIMIT - USED + ONCE),
        ("4:cpu:/job\n0::/", {"job": str(LIMIT), "memory/job": str(LIMIT)}, math.inf),
        ("0::/job", {"job": "max"}, math.inf),
        ("0::/job", {"job": "a lot"}, math.inf),
        ("odd", {"": str(LIMIT)}, math.inf),
    ],
)
def test_what_the_limits_of_a_container_or_a_batch_system_leave_is_free(
    own: str, groups: dict[str, str], expected: float, tmp_path: Path
) -> None:
    (tmp_path / "cgroup").write_text(f"{own}\n")
    (tmp_path / "fs").mkdir()
    for folder, limit in groups.items():
        limited(tmp_path / "fs" / folder, limit, 1 if folder.startswith("memory") else 2)
    assert free_within_limits(tmp_path / "cgroup", tmp_path / "fs") == expected


def test_limits_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    assert free_within_limits(tmp_path / "missing", tmp_path) == math.inf
    (tmp_path / "cgroup").write_bytes(b"0::/\xff\n")
    assert free_within_limits(tmp_path / "cgroup", tmp_path) == math.inf
    (tmp_path / "cgroup").write_text("0::/job")
    (limited(tmp_path / "job", str(LIMIT), 2) / "memory.stat").unlink()
    assert free_within_limits(tmp_path / "cgroup", tmp_path) == LIMIT - USED


def test_a_run_fits_into_the_limit_of_its_container(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < devices.free_memory(torch.device("cpu")) <= devices.free_within_limits()
    monkeypatch.setattr(devices, "free_within_limits", lambda: 1000.0)
    assert devices.free_memory(torch.device("cpu")) == 1000.0
    with pytest.raises(UsageError, match=r"takes .* GB, and 0.0 GB are free on cpu"):
        fastdc.condense(DATA, 1, progress=False, **SMALL)


# Several processes, and the command


def _estimated() -> fastdc.Estimate:
    torch.set_num_threads(1)
    fastdc._estimate._MEASURED = 0.0
    return estimated(pool="pretrained:networks=3,epochs=1")


@pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="torch has no gloo")
def test_several_processes_have_one_estimate() -> None:
    one, other = together(2, _estimated)
    assert one == other
    assert one.processes == 2


def test_the_command_prints_it(
    cli: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["--dataset", "digits", "--ipc", "1", "--model", "mlp:width=8", "--iterations", "7", "--networks", "3", "--out", "run"]
    assert cli.main(["estimate", *command]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("about ")
    assert list(tmp_path.iterdir()) == []
    assert cli.main(["estimate", "--ipc", "0"]) == 2
    assert "ipc is 0" in capsys.readouterr().err
