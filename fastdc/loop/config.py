"""From the configuration that a user gives to one that a run can use: checked, with the paper's loop lengths in place of None."""

from __future__ import annotations

import dataclasses

from fastdc.engines import check_engine
from fastdc.errors import UsageError, unknown_name
from fastdc.methods import check_method, method_class
from fastdc.methods.config import CondenseConfig
from fastdc.metrics import METRICS
from fastdc.options.checks import check_count, check_rate
from fastdc.runtime.seeding import check_seed

INITS = ("noise", "real")


def resolved(config: CondenseConfig) -> CondenseConfig:
    """A configuration with the paper's loop lengths in place of None.

    Raises:
        UsageError: a value out of range, or an unknown name; the text says which.
    """
    counts = ("ipc", "iterations", "batch_real", "matching_steps", "model_epochs")
    for name in counts:
        check_count(name, getattr(config, name), optional=name in ("matching_steps", "model_epochs"))
    for name in ("lr_images", "lr_model"):
        check_rate(name, getattr(config, name))
    for kind, name, known in (("init", config.init, INITS), ("metric", config.distance, METRICS)):
        if name not in known:
            raise unknown_name(kind, name, known)
    method = check_method(config.method)
    check_engine(config.engine)
    check_seed(config.seed)
    steps, epochs = method_class(method).loop_lengths(config.ipc)
    if epochs is None and config.model_epochs is not None:
        raise UsageError(
            f"model_epochs is {config.model_epochs}, but method {method!r} trains no network between matching steps; leave it out."
        )
    return dataclasses.replace(
        config,
        method=method,
        matching_steps=steps if config.matching_steps is None else config.matching_steps,
        model_epochs=epochs if config.model_epochs is None else config.model_epochs,
    )
