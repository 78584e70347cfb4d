"""A budget of time in the place of iterations: planned once, kept in the folder, and refused where nothing fits into it."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest
import torch

import fastdc
from fastdc import _condense
from fastdc.cli import main
from fastdc.errors import UsageError
from fastdc.loop import plan
from fastdc.loop.loop import Condensation
from fastdc.options.checks import seconds_of
from fastdc.recipe.pools import pretrained
from fastdc.training.whole_set import TrainedNetwork, WholeSetOptions

SMALL = {"ipc": 1, "model": "mlp:width=8", "matching_steps": 2, "model_epochs": 1, "batch_real": 4, "progress": False}


class Clock:
    """A clock that goes on by a second with each step of a condensation, and by nothing else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        take_step = Condensation._matching_step

        def step(condensation: Condensation) -> object:
            self.now += 1.0
            return take_step(condensation)

        monkeypatch.setattr(Condensation, "_matching_step", step)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_as_many_iterations_are_planned_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 s one step makes ready and is counted twice, four are tried; 8% of the 54 s left stay free: 24 iterations of 2 s."""
    clock = Clock(monkeypatch)
    condensed = fastdc.condense("digits", budget="1min", **SMALL)
    assert condensed.provenance["config"]["iterations"] == 24
    assert condensed.provenance["config"]["budget"] == "1min"
    assert clock.now - 100 == 5 + 2 * 24
    assert torch.equal(condensed.images, fastdc.condense("digits", iterations=24, **SMALL).images)


def test_the_trial_takes_a_share_of_a_long_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, planned = Clock(monkeypatch), []
    monkeypatch.setattr(Condensation, "result", lambda self, run, protocol: planned.append(self.config.iterations))
    fastdc.condense("digits", budget="1h", **SMALL)
    assert clock.now - 100 == 1 + 0.04 * 3600
    assert planned == [int((3600 - 145 - 1) * 0.92 / 2)]


def test_a_budget_into_which_nothing_fits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    with pytest.raises(UsageError, match=r"budget is too short: one iteration of 2 steps takes 2 s, and 1\.8 s are left"):
        fastdc.condense("digits", budget="6s", **SMALL)


def test_what_was_planned_is_kept_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    first = fastdc.condense("digits", budget="20s", out=tmp_path, **SMALL)
    (tmp_path / "condensed.safetensors").unlink()
    monkeypatch.setattr(plan, "_RESERVE", 0.5)  # another plan, were one made
    again = fastdc.condense("digits", budget="20s", out=tmp_path, **SMALL)
    assert torch.equal(first.images, again.images)
    assert json.loads((tmp_path / "config.json").read_text())["config"]["iterations"] == first.provenance["config"]["iterations"]
    with pytest.raises(UsageError, match="budget"):
        fastdc.condense("digits", budget="30s", out=tmp_path, **SMALL)


@pytest.mark.parametrize("budget", ["", "10", "10 min", "-1s", "0s", "1d", "infs", 30, 1.5, True])
def test_what_is_no_time_is_refused(budget: object) -> None:
    with pytest.raises(UsageError, match=r"budget is .*; expected a time such as '90s', '30min' or '2h'"):
        fastdc.condense("digits", budget=budget, **SMALL)


def test_nothing_is_planned_where_iterations_are_given_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The configuration of a run that was planned holds both, and gives the same run."""
    Clock(monkeypatch)
    first = fastdc.condense("digits", budget="20s", **SMALL)
    config = {**first.provenance["config"], "method": "dc"}
    monkeypatch.setattr(_condense, "planned_iterations", None)
    again = fastdc.condense("digits", **config, progress=False)
    assert torch.equal(first.images, again.images)
    (tmp_path / "config.json").write_text(json.dumps({"config": config}))
    assert main(["condense", "--config", str(tmp_path / "config.json"), "--out", str(tmp_path / "run"), "--epochs", "1", "--quiet"]) == 0
    assert torch.equal(fastdc.CondensedDataset.load(tmp_path / "run" / "condensed.safetensors").images, first.images)


def test_a_budget_for_learning_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="budget is '90s', but method 'untrained' learns nothing; leave it out, or give iterations"):
        fastdc.condense("digits", 1, method="untrained", budget="90s", progress=False)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1.5h", 5400), ("30min", 1800), (".5s", 0.5), ("2.min", 120)])
def test_a_time_is_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


def test_networks_that_are_trained_beforehand_are_within_the_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each takes 10 s when it is trained, and none when it is kept: what comes before the run counts both."""
    clock, kept = Clock(monkeypatch), set()
    train = pretrained.train_on_whole_set

    def timed(data: fastdc.ImageData, options: WholeSetOptions) -> TrainedNetwork:
        clock.now += 0 if options.seed in kept else 10
        kept.add(options.seed)
        return train(data, dataclasses.replace(options, cache=tmp_path))

    monkeypatch.setattr(pretrained, "train_on_whole_set", timed)
    options = {**SMALL, "pool": "pretrained:networks=2,epochs=1"}
    del options["model_epochs"]
    condensed = fastdc.condense("digits", budget="1min", **options)
    assert len(kept) == 2
    before = 11  # the step that makes ready, in which one network is trained; the other, and four steps
    assert condensed.provenance["config"]["iterations"] == int((60 - before - 10 - 4 - before) * 0.92 / 2)
    assert clock.now - 100 <= 60
