"""Architecture search: the space, rank correlations, what each network is trained on, a search that is killed, and the report."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import io
import json
import math
import threading
from collections import Counter
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from helpers import noise_data

import fastdc
from fastdc._evaluate import evaluate
from fastdc.cli import main
from fastdc.condensed import CondensedDataset
from fastdc.data import ImageData
from fastdc.engines.base import Training
from fastdc.errors import DataError, FastdcError, RunError, UsageError
from fastdc.experiments import ConvNetSpace, SearchResult, architecture_search
from fastdc.experiments.files import write_outcome
from fastdc.experiments.image_sets import ImageSetOptions
from fastdc.experiments.search import parallel_trials, proxy_sets, trial
from fastdc.experiments.search.report import as_csv, markdown, plot_against_truth, ranking
from fastdc.experiments.search.result import ProxyResult, rank_correlation
from fastdc.experiments.search.search import Search, SearchConfig
from fastdc.experiments.search.space import PAPER_SPACE, models_of
from fastdc.experiments.search.training_plans import early_steps, early_stopping_plan, images_seen
from fastdc.experiments.search.trial import EARLY_STOPPING, WHOLE_SET, Trial, TrialOptions, TrialRunner
from fastdc.models import build
from fastdc.parallel.jobs import do_all
from fastdc.parallel.threads import one_thread_each
from fastdc.runs.files import load_tensors, save_tensors
from fastdc.training import whole_set
from fastdc.training.schedule import paper_training

pytestmark = pytest.mark.usefixtures("one_thread")
SPACE = ["mlp:width=8", "mlp:width=16", "convnet:width=8,depth=1", "convnet:width=8,depth=2"]
OPTIONS: dict[str, Any] = {"space": SPACE, "ipc": 1, "epochs": 2, "whole_set_epochs": 1, "proxy_model": "mlp:width=8", "progress": False}
OPTIONS |= {"iterations": 1, "batch_real": 8, "coreset_epochs": 1}


@pytest.fixture(scope="module")
def digits() -> tuple[ImageData, ImageData]:
    return fastdc.load_dataset("digits")


class Counted:
    """Stands for what trains: notes each training, and gives an accuracy that the network's name decides."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.fail_at: dict[tuple[str, str], BaseException] = {}
        self._counting = threading.Lock()
        patch.setattr(TrialRunner, "_accuracy", lambda _, model, subject: self.train(model, subject))

    def train(self, model: str, subject: str) -> float:
        with self._counting:
            self.calls[model, subject] += 1
        if (model, subject) in self.fail_at:
            raise self.fail_at[model, subject]
        return 0.5 + 0.01 * (sum(map(ord, model + subject)) % 37)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


# the space


def test_the_paper_s_space_has_720_different_networks() -> None:
    models = list(PAPER_SPACE)
    assert len(set(models)) == len(models) == 720
    assert models[-1] == "convnet:width=256,depth=4,norm=group,activation=leaky_relu,pooling=avg"
    for model in models[:: 720 // 16]:
        assert build(model, 1, 10, (28, 28)) is not None


def test_a_part_of_a_space_is_drawn_by_the_seed() -> None:
    space = ConvNetSpace(widths=(8, 16))
    some = models_of(space, 20, 0)
    assert some == models_of(space, 20, 0) != models_of(space, 20, 1)
    members = list(space)
    positions = [members.index(model) for model in some]
    assert positions == sorted(set(positions))
    assert models_of(space, None, 0) == tuple(members)


# correlation


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([0.1, 0.2, 0.3, 0.4, 0.5], [0.2, 0.1, 0.4, 0.3, 0.5], 1 - 6 * 4 / (5 * 24)),
        ([1, 1, 2], [1, 2, 3], math.sqrt(3) / 2),  # ties have their mean rank
    ],
)
def test_spearman_of_known_ranks(first: list[float], second: list[float], expected: float) -> None:
    assert rank_correlation(first, second) == pytest.approx(expected)


@pytest.mark.parametrize(("first", "second"), [([1, 1, 1], [1, 2, 3]), ([1], [2]), ([], [])])
def test_there_is_no_correlation_without_an_order(first: list[float], second: list[float]) -> None:
    assert math.isnan(rank_correlation(first, second))


# trainings


def make_runner(folder: Path, data: tuple[ImageData, ImageData], **changes: Any) -> TrialRunner:
    sets = {"random": fastdc.coresets.random(data[0], 2)}
    options = TrialOptions(epochs=3, whole_set_epochs=2, stopped_after=9, seed=1, engine="auto", device="cpu", protocol="dc")
    return TrialRunner(folder, *data, sets, dataclasses.replace(options, **changes))


def test_a_proxy_is_evaluated_as_the_paper_evaluates(tmp_path: Path, digits: Any) -> None:
    runner, one = make_runner(tmp_path, digits), Trial("mlp:width=8", ("random",))
    runner.path(one).mkdir()
    runner.do(one)
    expected = fastdc.evaluate(runner.sets["random"], digits[1], model="mlp:width=8", networks=1, epochs=3, seed=1)
    outcome = runner.outcome(one, "random")
    assert outcome is not None
    assert outcome.accuracy == expected.mean
    assert outcome.seconds > 0


@pytest.mark.parametrize(
    ("subject", "stopped_after", "expected"),
    [
        (EARLY_STOPPING, 9, [(256, 0.01)] * 5 + [(256, 0.001)] * 4),
        (EARLY_STOPPING, 13, [(256, 0.01)] * 7 + [(256, 0.001)] * 6),
        (EARLY_STOPPING, 1, [(256, 0.01)]),
        (WHOLE_SET, 9, ([(256, 0.01)] * 5 + [(157, 0.01)]) + ([(256, 0.001)] * 5 + [(157, 0.001)])),
    ],
)
def test_steps_on_the_whole_set(
    tmp_path: Path, digits: Any, monkeypatch: pytest.MonkeyPatch, subject: str, stopped_after: int, expected: list[tuple[int, float]]
) -> None:
    seen = []

    def step(training: Training, images: Any, *_: Any) -> None:
        seen.append((len(images), round(training.sgd.lr, 6)))

    monkeypatch.setattr(Training, "step", step)
    runner, one = make_runner(tmp_path, digits, stopped_after=stopped_after), Trial("mlp:width=8", (subject,))
    runner.path(one).mkdir()
    runner.do(one)
    assert seen == expected


def test_early_stopping_sees_every_image_before_one_again() -> None:
    positions = torch.cat([positions for positions, _ in early_stopping_plan(1000, 8, seed=0)])
    assert len(positions) == 8 * 256
    assert len(set(positions[:1000].tolist())) == len(set(positions[1000:2000].tolist())) == 1000
    assert not torch.equal(positions[:1000], positions[1000:2000])
    assert not torch.equal(positions, torch.cat([positions for positions, _ in early_stopping_plan(1000, 8, seed=1)]))
    assert len(set(torch.cat([positions for positions, _ in early_stopping_plan(60000, 100, seed=0)]).tolist())) == images_seen(60000, 100)


def test_training_on_the_whole_set_learns(tmp_path: Path, digits: Any) -> None:
    runner, one = make_runner(tmp_path, digits, whole_set_epochs=30, stopped_after=120), Trial("mlp:width=64", (EARLY_STOPPING, WHOLE_SET))
    runner.path(one).mkdir()
    runner.do(one)
    outcomes = [runner.outcome(one, subject) for subject in one.subjects]
    assert all(outcome is not None and outcome.accuracy > 0.8 for outcome in outcomes)


@pytest.mark.parametrize(("protocol", "expected"), [("dc", 2 * 2), ("dsa", 2 * 2), ("idc:cutmix=0.0", 2 * 5)])  # 300 images, by 256 or 64
def test_early_stopping_takes_as_many_steps_as_the_proxy(
    digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, expected: int
) -> None:
    steps = []
    original = TrialRunner.__init__

    def note(self: TrialRunner, *arguments: Any) -> None:
        original(self, *arguments)
        steps.append(self.options.stopped_after)

    monkeypatch.setattr(TrialRunner, "__init__", note)
    options = OPTIONS | {"ipc": 30, "space": SPACE[:2], "protocol": protocol}
    architecture_search(*digits, proxies=["early_stopping"], **options, out=tmp_path)
    assert steps == [expected]


def test_a_last_batch_that_is_not_full_is_a_step() -> None:
    assert (early_steps(256, paper_training(7)), early_steps(257, paper_training(7))) == (7, 14)


# a search


def test_every_network_is_trained_on_every_proxy_once_and_the_chosen_on_the_whole_set(digits: Any, counted: Counted) -> None:
    result = architecture_search(*digits, proxies=["random", "early_stopping"], top=1, random_truths=1, **OPTIONS)
    assert set(counted.calls.values()) == {1}
    assert {model for model, subject in counted.calls if subject == "random"} == set(SPACE)
    assert {model for model, subject in counted.calls if subject == "early_stopping"} == set(SPACE)
    tops = {proxy.ranking[0] for proxy in result.proxies}
    assert tops <= set(result.truth)
    assert len(result.truth) == min(4, len(tops) + 1)
    assert {model for model, subject in counted.calls if subject == WHOLE_SET} == set(result.truth)
    for proxy in result.proxies:
        accuracies = [proxy.accuracies[model] for model in proxy.ranking]
        assert accuracies == sorted(accuracies, reverse=True)
        assert result.best(proxy)[1] == result.truth[proxy.ranking[0]]
    assert [proxy.images for proxy in result.proxies] == [10, min(1437, 2 * 256)]


def test_all_networks_are_trained_on_the_whole_set_when_asked(digits: Any, counted: Counted) -> None:
    result = architecture_search(*digits, proxies=["random"], truth="all", top=1, random_truths=0, **OPTIONS)
    assert set(result.truth) == set(SPACE)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_killed_search_goes_on_and_ends_in_the_same_numbers(digits: Any, tmp_path: Path, monkeypatch: Any, threads: int) -> None:
    options: dict[str, Any] = OPTIONS | {"proxies": ["random", "herding", "dc", "early_stopping"], "top": 2, "random_truths": 1}
    expected = architecture_search(*digits, **options, out=tmp_path / "whole")
    done: list[tuple[str, str]] = []
    killed_at = {(SPACE[2], "dc")}
    original = TrialRunner._accuracy

    def accuracy(self: TrialRunner, model: str, subject: str) -> float:
        if (model, subject) in killed_at:
            raise KeyboardInterrupt
        found = original(self, model, subject)
        done.append((model, subject))
        return found

    monkeypatch.setattr(TrialRunner, "_accuracy", accuracy)
    torch.set_num_threads(threads)
    with pytest.raises(KeyboardInterrupt):
        architecture_search(*digits, **options, out=tmp_path / "killed")
    assert not any(subject == WHOLE_SET for _, subject in done)
    killed_at.clear()
    found = architecture_search(*digits, **options, out=tmp_path / "killed")
    assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    assert len(done) == len(set(done)) == 4 * 4 + len(expected.truth)
    assert json.loads(ranking(found)) == json.loads(ranking(expected))


def test_threads_on_one_folder_share_the_networks(digits: Any, tmp_path: Path, counted: Counted) -> None:
    results: list[SearchResult] = []
    options = OPTIONS | {"proxies": ["random", "early_stopping"], "space": ConvNetSpace(widths=(8,), depths=(1,), poolings=("avg",))}
    threads = [threading.Thread(target=lambda: results.append(architecture_search(*digits, **options, out=tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert set(counted.calls.values()) == {1}
    assert len({ranking(result) for result in results}) == 1


def test_a_failed_network_is_named_and_tried_again(digits: Any, tmp_path: Path, counted: Counted) -> None:
    counted.fail_at = {(SPACE[1], "random"): RunError("a weight is not finite.")}
    with pytest.raises(RunError, match=r"1 of 4 networks failed, mlp:width=16 first: a weight is not finite\. The same call"):
        architecture_search(*digits, proxies=["random"], **OPTIONS, out=tmp_path)
    counted.fail_at = {}
    architecture_search(*digits, proxies=["random"], **OPTIONS, out=tmp_path)
    assert counted.calls[SPACE[0], "random"] == 1
    assert counted.calls[SPACE[1], "random"] == 2


def test_what_fails_in_one_thread_is_not_tried_by_another(digits: Any, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_trials, "compute_threads", lambda: 3)
    counted.fail_at = {(model, "random"): RunError("a weight is not finite.") for model in SPACE}
    with pytest.raises(RunError, match="4 of 4 networks failed"):
        architecture_search(*digits, proxies=["random"], **OPTIONS)
    assert set(counted.calls.values()) == {1}


def test_a_network_that_diverges_on_the_whole_set_has_no_accuracy(digits: Any) -> None:
    train, test = digits
    wild = dataclasses.replace(train, std=(1e-30,))
    with pytest.raises(RunError, match="the weights of mlp:width=8 on early_stopping are not finite"):
        architecture_search(wild, test, proxies=["early_stopping"], **OPTIONS | {"space": SPACE[:2]})


def test_a_proxy_may_be_of_a_method_without_a_step(digits: Any, counted: Counted) -> None:
    result = architecture_search(*digits, proxies=["untrained"], **OPTIONS)
    assert [proxy.name for proxy in result.proxies] == ["untrained"]


def test_the_images_of_a_proxy_are_counted_as_they_are(counted: Counted) -> None:
    data = noise_data((3, 20, 20))
    with pytest.warns(UserWarning, match="all that they have"):
        result = architecture_search(data, data, proxies=["random"], **OPTIONS | {"ipc": 10})
    assert result.proxies[0].images == 23


def test_networks_that_do_not_fit_are_left_out_and_counted(digits: Any, tmp_path: Path, counted: Counted) -> None:
    lines: list[str] = []
    config = SearchConfig(proxies=("random",), ipc=1, proxy_model="mlp:width=8", progress=False)
    space = [*SPACE, "convnet:width=8,depth=4", "lenet", "convnet:width=10,norm=group"]
    result = Search(*digits, space, config, tmp_path).run(lines.append)
    assert list(result.skipped) == space[4:]
    assert "4 poolings reduce a 8x8 image to nothing" in result.skipped["convnet:width=8,depth=4"]
    assert [line.split(":")[0] for line in lines] == ["left out convnet", "left out lenet", "left out convnet"]
    assert set(result.proxies[0].accuracies) == set(SPACE)
    assert "3 network(s) were left out:\n\n- convnet:width=8,depth=4: 4 poolings" in markdown(result, "", None)
    with pytest.raises(UsageError, match="none of the 2 networks can take the images; the first: "):
        architecture_search(*digits, proxies=["random"], **OPTIONS | {"space": space[4:6]}, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_networks_that_the_engine_does_not_serve_are_left_out(digits: Any, counted: Counted) -> None:
    space = [*(f"convnet:width={width},depth=1,norm=group" for width in (12, 20)), *SPACE[2:]]
    result = architecture_search(*digits, proxies=["random"], **OPTIONS | {"space": space, "engine": "native", "proxy_model": SPACE[2]})
    assert list(result.skipped) == space[:2]
    assert "it serves multiples of 8" in result.skipped[space[0]]


def test_a_method_s_seconds_are_those_of_all_calls(digits: Any, tmp_path: Path, counted: Counted) -> None:
    made = Search(*digits, SPACE, SearchConfig(proxies=("dc",), ipc=1, proxy_model="mlp:width=8", iterations=2), tmp_path).sets
    made.do("dc")
    metrics = made.path("dc") / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"seconds": 0', '"seconds": 9'))
    made.do("dc")  # finds the images there
    assert made.seconds("dc") > 18


def test_proxies_that_differ_in_a_character_are_made_each(digits: Any, tmp_path: Path, counted: Counted) -> None:
    proxies = ("idc:augmentation=crop+scale", "idc:augmentation=crop/scale")
    runner = make_runner(tmp_path, digits)
    sets = Search(*digits, SPACE, SearchConfig(proxies=proxies, ipc=1, proxy_model="mlp:width=8"), tmp_path / "search").sets
    assert sets.path(proxies[0]) == tmp_path / "search" / "proxies" / "idc_augmentation=crop_scale"  # as an earlier version called it
    assert sets.path(proxies[1]).name.startswith("idc_augmentation=crop_scale-")
    runner.sets = dict.fromkeys(proxies, runner.sets["random"])
    one = Trial(SPACE[0], proxies)
    runner.path(one).mkdir()
    runner.do(one)
    assert [counted.calls[SPACE[0], proxy] for proxy in proxies] == [1, 1]


def test_a_coreset_s_seconds_are_those_of_a_killed_call_too(digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SearchConfig(proxies=("herding",), ipc=1, proxy_model="mlp:width=8", coreset_epochs=1, progress=False)
    made = Search(*digits, SPACE, config, tmp_path).sets
    with monkeypatch.context() as patch:
        patch.setattr(CondensedDataset, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            made.do("herding")
    (network,) = (made.path("herding") / "networks").glob("*.safetensors")
    tensors, content = load_tensors(network, whole_set.KIND)
    save_tensors(network, whole_set.KIND, tensors, {**content, "seconds": 1000.0})
    made.do("herding")
    assert 1000 < made.seconds("herding") < 1100


def test_a_proxy_that_another_process_has_just_made_is_left_as_it_is(digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Search(*digits, SPACE, SearchConfig(proxies=("random",), ipc=1, proxy_model="mlp:width=8"), tmp_path).sets
    acquire = FileLock.acquire

    def after_the_other(lock: FileLock, **given: Any) -> Any:
        made.do("random")
        write_outcome(made.path("random") / "made.json", {"proxy": "random", "seconds": 1000.0})
        return acquire(lock, **given)

    monkeypatch.setattr(FileLock, "acquire", after_the_other)
    assert not do_all(["random"], made, made.do, lambda _: None)
    assert made.seconds("random") == 1000


def test_a_proxy_is_made_within_a_budget(digits: Any, tmp_path: Path, counted: Counted) -> None:
    architecture_search(*digits, proxies=("dm",), budget="2s", out=tmp_path, **OPTIONS)
    written = json.loads((tmp_path / "proxies" / "dm" / "config.json").read_text())
    assert written["config"]["budget"] == "2s"
    assert {"table.md", "table.csv", "ranking.json", "report.html"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(("proxies", "expected"), [(("dc", "herding"), (1000, 256)), (("dc", "dm", EARLY_STOPPING), (None, 256))])
def test_a_proxy_has_the_numbers_of_its_recipe_unless_others_are_given(
    digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxies: tuple[str, ...], expected: tuple[int | None, int]
) -> None:
    made: list[ImageSetOptions] = []
    monkeypatch.setattr(proxy_sets, "make_image_set", lambda name, train, options, *_: made.append(options))
    for number, given in enumerate(({}, {"iterations": 3, "batch_real": 4})):
        config = SearchConfig(proxies=proxies, ipc=1, proxy_model="mlp:width=8", **given)
        search = Search(*digits, SPACE, config, tmp_path / str(number))
        search.sets.path("dc").mkdir(parents=True)
        search.sets.do("dc")
        content = json.loads((tmp_path / str(number) / "config.json").read_text())["config"]
        assert (content["iterations"], content["batch_real"]) == ((3, 4) if given else expected)
    assert [(options.iterations, options.batch_real) for options in made] == [expected, (3, 4)]


def test_a_locked_network_is_waited_for(digits: Any, tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_runner(tmp_path / "networks", digits).path(Trial(SPACE[0], ()))
    folder.mkdir(parents=True)
    other = FileLock(folder / ".claim", thread_local=False)
    other.acquire()

    def sleep(seconds: float) -> None:
        assert counted.calls[SPACE[0], "random"] == 0
        assert counted.calls[SPACE[3], "random"] == 1
        other.release()

    monkeypatch.setattr("fastdc.parallel.jobs.time.sleep", sleep)
    architecture_search(*digits, proxies=["random"], **OPTIONS, out=tmp_path)
    assert counted.calls[SPACE[0], "random"] == 1


def test_whoever_waits_for_others_stops_too(digits: Any, tmp_path: Path, counted: Counted) -> None:
    runner, waited = make_runner(tmp_path, digits), threading.Event()
    runner.path(Trial(SPACE[0], ())).mkdir(parents=True)
    with FileLock(runner.path(Trial(SPACE[0], ())) / ".claim", thread_local=False), one_thread_each(1) as pool:
        waiting = pool.submit(do_all, [Trial(SPACE[0], ("random",))], runner, runner.do, lambda _: waited.set())
        assert waited.wait(timeout=60)
    assert isinstance(waiting.exception(), CancelledError)
    assert not counted.calls


def test_a_damaged_outcome_is_named(digits: Any, tmp_path: Path, counted: Counted) -> None:
    architecture_search(*digits, proxies=["random"], **OPTIONS, out=tmp_path)
    file = tmp_path / "networks" / "mlp_width=8" / "random.json"
    file.write_text('{"accuracy": "much"}')
    with pytest.raises(DataError, match=r"random\.json is not what an experiment wrote: .*accuracy is much.* remove it"):
        architecture_search(*digits, proxies=["random"], **OPTIONS, out=tmp_path)


# the report


def result() -> SearchResult:
    dc = ProxyResult("dc", {"a": 0.5, "b": 0.7, "c": 0.6, "d": 0.4}, 120.0, 30.0, 100)
    early = ProxyResult("early_stopping", {"a": 0.5, "b": 0.5, "c": 0.4, "d": 0.3}, 60.0, 0.0, 10000)
    return SearchResult((dc, early), {"a": 0.81, "b": 0.9, "c": 0.85}, 600.0, 60000, 2, {"e": "too deep."})


def test_numbers_made_by_hand_in_the_report() -> None:
    found = result()
    dc, early = found.proxies
    assert dc.ranking == ("b", "c", "a", "d")
    assert early.ranking == ("a", "b", "c", "d")  # of equals the first in the space
    assert (found.best(dc), found.best(early)) == (("b", 0.9), ("a", 0.81))
    assert found.correlation(dc, top=True) == pytest.approx(1)
    assert found.correlation(dc, top=False) == pytest.approx(1)  # over a, b and c
    assert math.isnan(found.correlation(early, top=True))
    assert found.correlation(early, top=False) == pytest.approx(0)
    text = markdown(found, "caption", "search.png")
    assert "|  | dc | early_stopping | whole set |" in text
    assert "| best network, % | 90.0 | 81.0 | 90.0 |" in text
    assert "| rank correlation, top 2 | 1.00 | - | 1.00 |" in text
    assert "| minutes, networks | 2.0 | 1.0 | 10.0 (3) |" in text
    assert "| minutes, proxy | 0.5 | 0.0 |  |" in text
    assert "| images stored | 100 | 10000 | 60000 |" in text
    assert "- e: too deep." in text
    assert "(search.png)" in text
    rows = list(csv.reader(io.StringIO(as_csv(found))))
    assert rows[1] == ["dc", "b", "90.00", "1.0000", "1.0000", "2.00", "0.50", "100"]
    assert rows[3] == ["whole set", "b", "90.00", "1", "1", "10.00", "0", "60000"]
    listed = json.loads(ranking(found))
    assert [entry["model"] for entry in listed["dc"]] == ["b", "c", "a", "d"]
    assert listed["dc"][3] == {"model": "d", "accuracy": 0.4, "whole_set": None}
    assert listed["skipped"] == {"e": "too deep."}


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_the_plot_is_a_picture() -> None:
    assert plot_against_truth(result()).startswith(b"\x89PNG")


def test_the_command_from_end_to_end_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command = [
        "search",
        "--scale",
        "tiny",
        "--depths",
        "1",
        "4",
        "--networks",
        "9",
        "--ipc",
        "1",
        "--quiet",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert f"written to {tmp_path / 'out'}" in output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "networks", "proxies", "table.md", "table.csv", "ranking.json", "report.html", "command.txt"} <= names
    listed = json.loads((tmp_path / "out" / "ranking.json").read_text())
    assert output.count("left out convnet:width=8,depth=4") == len(listed["skipped"]) > 0
    assert len(listed["dc"]) + len(listed["skipped"]) == 9
    before = (tmp_path / "out" / "ranking.json").read_text()
    again = Counted(monkeypatch)
    assert main(command) == 0
    assert not again.calls
    assert (tmp_path / "out" / "ranking.json").read_text() == before
    images = CondensedDataset.load(tmp_path / "out" / "proxies" / "dc" / "condensed.safetensors")
    expected = fastdc.condense("digits", 1, model="convnet:width=8", iterations=1, batch_real=8, progress=False)
    assert torch.equal(images.images, expected.images)
    entry = listed["dc"][0]
    assert entry["accuracy"] == fastdc.evaluate(images, "digits", model=entry["model"], networks=1, epochs=2, progress=False).mean


def test_the_caption_at_the_scale_of_the_paper_says_what_all_methods_have(tmp_path: Path) -> None:
    flags = "--scale paper --networks 2 --widths 8 --depths 1 --epochs 1 --whole-set-epochs 1 --top 1 --random-truths 0 --ipc 1"
    flags += " --proxies random --proxy-model mlp:width=8 --quiet"
    assert main(["search", *flags.split(), "--out", str(tmp_path)]) == 0
    assert "iterations 1000, batch_real 256, coreset_epochs 20" in (tmp_path / "table.md").read_text()


def test_processes_share_a_search(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["search", "--scale", "tiny", "--proxies", "random", "--ipc", "1", "--quiet", "--workers", "2", "--out", str(tmp_path)]
    assert main(command) == 0
    capfd.readouterr()
    assert len(list(tmp_path.glob("networks/*/random.json"))) == 4


# bad input


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"proxies": ["hearding"]}, UsageError, "unknown proxy 'hearding'. Did you mean 'herding'"),
        ({"proxies": []}, UsageError, "expected one or more, each once"),
        ({"proxies": ["dc", "dc"]}, UsageError, "expected one or more, each once"),
        ({"proxies": ["random:x=1"]}, UsageError, "a coreset takes none here"),
        ({"space": ["mlp", "convnett"]}, UsageError, "unknown model 'convnett'. Did you mean 'convnet'"),
        ({"space": ["mlp", "convnet:breadth=3"]}, UsageError, "unknown option"),
        ({"space": ConvNetSpace(norms=("instanse",))}, UsageError, "unknown norm 'instanse'. Did you mean 'instance'"),
        ({"space": ConvNetSpace(widths=(0,))}, UsageError, "width is 0; expected a whole number of 1 or more"),
        ({"space": "mlp"}, UsageError, "space is 'mlp'; expected a ConvNetSpace, or a list"),
        ({"space": [build, "mlp"]}, UsageError, "a member of the space is a function"),
        ({"space": ["mlp"]}, UsageError, "the space has 1 network(s); expected two or more"),
        ({"space": []}, UsageError, "the space has 0 network(s)"),
        ({"space": ["mlp", "mlp"]}, UsageError, "'mlp' is in the space twice"),
        ({"networks": 5}, UsageError, "networks is 5; expected 2 to 4"),
        ({"networks": 1}, UsageError, "networks is 1; expected 2 to 4"),
        ({"ipc": 500}, UsageError, "ipc is 500; expected a whole number from 1 to"),
        ({"ipc": 0}, UsageError, "ipc is 0"),
        ({"truth": "some"}, UsageError, "unknown truth 'some'. Known: all, top"),
        ({"top": 0}, UsageError, "top is 0"),
        ({"random_truths": -1}, UsageError, "random_truths is -1; expected a whole number of 0 or more"),
        ({"epochs": 0}, UsageError, "epochs is 0"),
        ({"proxy_model": "lenet"}, UsageError, "needs images of 16x16"),
        ({"seed": -1}, UsageError, "seed is -1"),
        ({"engine": "nativ"}, UsageError, "unknown engine"),
        ({"device": "gpu"}, UsageError, "unknown device"),
        ({"budget": "soon"}, UsageError, "budget is 'soon'; expected a time such as"),
        ({"out": 3}, UsageError, "out is 3; expected the path"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # others hold addresses, which differ from process to process
)
def test_bad_input_gets_a_sentence(digits: Any, counted: Counted, changes: dict[str, Any], error: type[FastdcError], text: str) -> None:
    with pytest.raises(error) as caught:
        architecture_search(*digits, **OPTIONS | changes)
    assert text in str(caught.value)
    assert not counted.calls


def test_data_that_does_not_fit_is_refused(digits: Any, counted: Counted) -> None:
    train, _ = digits
    other = ImageData.of(torch.zeros(10, 1, 9, 9, dtype=torch.uint8) + torch.arange(9, dtype=torch.uint8), torch.arange(10))
    with pytest.raises(DataError, match=r"the test set has 10 classes of \[1, 9, 9\] images"):
        architecture_search(train, other, **OPTIONS)


def test_test_images_are_normalised_as_training_images_are(digits: Any, tmp_path: Path) -> None:
    train, test = digits
    search = Search(train, (test.images // 2, test.labels), SPACE, SearchConfig(proxy_model="mlp:width=8"), tmp_path)
    assert (search.test.mean, search.test.std) == (train.mean, train.std)


def test_labels_that_are_names_are_numbered_alike_in_both_halves(tmp_path: Path) -> None:
    images, names = noise_data((4, 4)).images, ["cat", "dog", "fox", "owl"]
    config = SearchConfig(ipc=1, proxy_model="mlp:width=8")
    search = Search((images, names * 2), (images[:4], ["fox", "owl", "fox", "cat"]), SPACE, config, tmp_path)
    assert search.test.labels.tolist() == [2, 3, 2, 0]


def test_the_report_says_what_was_done_to_the_images(digits: Any, tmp_path: Path, counted: Counted) -> None:
    changed = tuple(dataclasses.replace(half, changes=("only the classes 1, 2",)) for half in digits)
    architecture_search(*changed, proxies=["random"], **OPTIONS, out=tmp_path)
    assert "digits (only the classes 1, 2), protocol dc, seed 0" in (tmp_path / "table.md").read_text()


def test_a_search_of_digits_mirrors_no_image(digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(trial, "evaluate", lambda images, test, **how: seen.append(how["protocol"]) or evaluate(images, test, **how))
    options: dict[str, Any] = OPTIONS | {"space": SPACE[:2], "proxies": ["dm"], "protocol": "idc"}
    architecture_search(*digits, **options, out=tmp_path / "digits")
    assert set(seen) == {"idc:operations=color+crop/scale/rotate"}
    learned = CondensedDataset.load(tmp_path / "digits" / "proxies" / "dm" / "condensed.safetensors")
    assert learned.provenance["config"]["augmentation"] == "siamese:operations=color+crop+cutout+scale+rotate,mode=one"
    assert "protocol idc:operations=color+crop/scale/rotate, seed 0" in (tmp_path / "digits" / "table.md").read_text()
    architecture_search(*(dataclasses.replace(half, name="data") for half in digits), **options, out=tmp_path / "data")
    written = [json.loads((tmp_path / name / "config.json").read_text())["config"]["protocol"] for name in ("digits", "data")]
    assert written == ["idc:operations=color+crop/scale/rotate", "idc"]


def test_another_search_in_the_folder_is_refused(digits: Any, tmp_path: Path, counted: Counted) -> None:
    architecture_search(*digits, proxies=["random"], **OPTIONS, out=tmp_path)
    with pytest.raises(UsageError, match=r"differs in space \('4 networks, \w+' there, '3 networks, \w+' now\)"):
        architecture_search(*digits, proxies=["random"], **OPTIONS | {"space": SPACE[:3]}, out=tmp_path)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--scale", "huge"], "unknown scale 'huge'"),
        (["--widths", "8", "0"], "widths is 0"),
        (["--norms", "instanse"], "unknown norm 'instanse'"),
        (["--workers", "0"], "workers is 0"),
        (["--networks", "0"], "networks is 0"),
    ],
    ids=str,
)
def test_bad_flags_get_a_sentence(flags: list[str], text: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["search", "--scale", "tiny", *flags]) == 2
    assert text in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
