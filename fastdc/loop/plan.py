"""How many iterations fit into a time: planned from steps that are taken and thrown away, so that the run itself knows its end."""

from __future__ import annotations

import time

from fastdc.data import ImageData
from fastdc.errors import UsageError
from fastdc.loop.config import CondenseConfig
from fastdc.loop.loop import Condensation
from fastdc.models.network import NetworkFamily
from fastdc.recipe import POOLS

_TRIAL_SHARE = 0.04  # of the time may go into steps that are thrown away,
_TRIAL_STEPS = 3  # or as many as these, where they take longer
_RESERVE = 0.08  # of what is left is not planned for: machines drift


def planned_iterations(config: CondenseConfig, real: ImageData, family: NetworkFamily, end: float) -> int:
    """The iterations that fit in before the moment `end` of `time.monotonic`, with this planning and what comes before the first step.

    Raises:
        UsageError: not even one does.
    """
    began = time.monotonic()
    seconds = end - began
    trial = Condensation(config, real, family, None, (), False)
    trial.take_step()  # which makes what later steps find ready
    before = time.monotonic() - began  # of the run, to which the pool adds:
    trial.pool.prepare()
    again = time.monotonic()
    POOLS.make(trial.recipe.pool, trial.pool.problem).prepare()  # what it keeps on disk is there by now
    ready = time.monotonic()
    before += ready - again
    steps, here = 0, trial.world
    while steps < _TRIAL_STEPS or here.first(lambda: time.monotonic() - ready < _TRIAL_SHARE * seconds):
        trial.take_step()
        steps += 1
    now = time.monotonic()
    left, iteration = here.first(lambda: ((end - now - before) * (1 - _RESERVE), (now - ready) / steps * trial.steps))
    if left < iteration:
        raise UsageError(
            f"the budget is too short: one iteration of {trial.steps} steps takes {iteration:.2g} s, and {max(left, 0):.2g} s are left "
            "for it; give more time, fewer matching_steps or a smaller model."
        )
    return int(left / iteration)
