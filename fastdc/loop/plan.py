"""How long a run takes, from steps that are taken and thrown away; and how many iterations fit into a time, so that a run knows its end."""

from __future__ import annotations

import time

from fastdc.errors import UsageError
from fastdc.loop.loop import Condensation
from fastdc.recipe import POOLS

TRIAL_SHARE = 0.04  # of a budget may go into steps that are thrown away, or as many as an iteration is known from, where they take longer
_RESERVE = 0.08  # of what is left is not planned for: machines drift


def planned_iterations(trial: Condensation, built: float, end: float) -> int:
    """The iterations that fit in before the moment `end` of `time.monotonic`, with this planning and what comes before the first step.

    Args:
        trial: a run, of which steps are taken.
        built: the seconds that making it took, as making the run itself will.
        end: the moment.

    Raises:
        UsageError: not even one does.
    """
    began = time.monotonic()
    seconds = end - began + built
    make_ready(trial)
    before = built + time.monotonic() - began  # of the run, to which the pool adds:
    trial.pool.prepare()
    again = time.monotonic()
    POOLS.make(trial.recipe.pool, trial.pool.problem).prepare()  # what it keeps on disk is there by now
    ready = time.monotonic()
    before += ready - again
    iteration = seconds_of_iteration(trial, TRIAL_SHARE * seconds)
    left = trial.world.first(lambda: end - time.monotonic() - before)
    return iterations_within(left, iteration, trial.steps)


def iterations_within(seconds: float, iteration: float, steps: int) -> int:
    """The iterations that fit into `seconds`, with a reserve, when one of `steps` steps takes `iteration` seconds.

    Raises:
        UsageError: not even one does.
    """
    left = seconds * (1 - _RESERVE)
    if left < iteration:
        raise UsageError(
            f"the budget is too short: one iteration of {steps} steps takes {iteration:.2g} s, and {max(left, 0):.2g} s are left "
            "for it; give more time, fewer matching_steps or a smaller model."
        )
    return int(left / iteration)


def make_ready(trial: Condensation) -> int:
    """Take the steps that make ready what later ones find; how many they are. On a GPU the second one captures what the first one did."""
    count = 1 + trial.unread
    for _ in range(count):
        trial.take_step()
    return count


def seconds_of_iteration(trial: Condensation, least: float) -> float:
    """The seconds of an iteration, from steps that take `least` seconds or more.

    The first step of an iteration makes a network, and after the last one none is trained: both are taken, and count once. Of the steps
    between, which are alike in rounds of `Batches.period`, whole rounds are taken; the rest is left out where time is short.
    """
    end = trial.world.first(lambda: time.monotonic() + least)
    wanted = min(trial.steps - 2, trial.batches.period)
    between: list[float] = []
    ends: list[float] = []  # of a last step and the first one of the next iteration

    def step() -> float:
        began = time.monotonic()
        trial.take_step()
        return time.monotonic() - began

    def over() -> bool:
        return trial.world.first(lambda: time.monotonic() >= end)

    while len(between) < wanted or not ends or not over():
        while trial.state.step < trial.steps - 1 and (not between or len(between) % trial.batches.period or not over()):
            between.append(step())
        trial.state.step = trial.steps - 1
        ends.append(step() + step())
    found = sum(ends) / len(ends)
    if trial.steps == 1:
        found /= 2  # each was a first one and a last one
    elif trial.steps > 2:
        found += (trial.steps - 2) * sum(between) / len(between)
    return trial.world.first(lambda: found)
