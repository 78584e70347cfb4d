"""How a run is repeated: its command, and the same in Python."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from fastdc.condensed import CondensedDataset
from fastdc.data import dataset_names
from fastdc.engines import ENGINES
from fastdc.loop.config import CondenseConfig, as_plain, resolved
from fastdc.metrics.definitions import BUILT_IN as BUILT_IN_METRICS
from fastdc.metrics.definitions import METRICS
from fastdc.models import model_names
from fastdc.options.ipc import checked_ipc
from fastdc.options.specs import split_spec
from fastdc.recipe import BUILT_IN, CHOICES, OPTIMIZERS, RECIPES
from fastdc.runs.content import in_a_line

USUAL = {"protocol": "auto", "networks": 5, "epochs": None}
"""The options of the evaluation that follows a condensation on the command line, with their defaults."""


def command(config: Mapping[str, Any], evaluation: Mapping[str, Any], condensed: CondensedDataset | None) -> str:
    """The command line that repeats a run; where there is none, a comment of the shell that says why.

    Args:
        config: of config.json.
        evaluation: of evaluation.json; empty where there is none, as behind a run that Python made.
        condensed: what was made, which says how the data was changed on the way in.
    """
    dataset, model = str(config["dataset"]), str(config["model"])
    if not _is_named(dataset):
        return f"# {in_a_line(dataset)} is no dataset that the command line knows: repeat the run in Python."
    if not _is_built_in(model):
        return f"# The network is a function, {in_a_line(model)}: repeat the run in Python."
    if own := _of_ones_own(config):
        return f"# The command line does not know {in_a_line(own)}: repeat the run in Python."
    options = {"dataset": dataset, **_data_options(condensed), **_given(config)}
    if evaluation:
        options |= {key: evaluation[key] for key, usual in USUAL.items() if evaluation[key] != usual}
        baselines = [name for name in evaluation["results"] if name != "condensed"]
        options |= {"baseline": next(iter(baselines), "none")} if baselines != ["random"] else {}
    flags = [f"--{name.replace('_', '-')} {_flag(name, value)}" for name, value in options.items() if value is not None]
    return " ".join(["fastdc condense", *flags, "--out runs/again"])


def python_call(config: Mapping[str, Any], condensed: CondensedDataset | None) -> str:
    """The call of `fastdc.condense` that repeats a run."""
    dataset, model = str(config["dataset"]), str(config["model"])
    made = "".join(f", {name}={value!r}" for name, value in _data_options(condensed).items())
    load = [f"train, test = fastdc.load_dataset({dataset!r}{made})"] if _is_named(dataset) else []
    data = "    train," if load else f"    train,  # {in_a_line(dataset)}: your training set"
    options = _given(config)
    if not _is_built_in(model):
        del options["model"]
        data += f"\n    model=...,  # your function {in_a_line(model)}"
    arguments = [f"    {name}={value!r}," for name, value in options.items()]
    return "\n".join(["import fastdc", "", *load, "condensed = fastdc.condense(", data, *arguments, '    out="runs/again",', ")"])


def _given(config: Mapping[str, Any]) -> dict[str, Any]:
    """The images per class, and the options by which a run differs from what its recipe says."""
    name = str(config["method"])
    known = split_spec(name)[0] in RECIPES
    start = CondenseConfig(ipc=checked_ipc(config["ipc"]), **({"method": name, "scale": config["scale"]} if known else {}))
    usual = as_plain(resolved(start, dataset=str(config["dataset"])))
    chosen = {key: getattr(start, key) for key in ("method", "scale") if getattr(start, key) != getattr(CondenseConfig, key)}
    # The iterations that a budget was turned into repeat a run; the budget would plan others.
    others = [key for key in usual if key not in ("ipc", "budget", "method", "scale")]
    return {"ipc": config["ipc"], **chosen, **{key: config[key] for key in others if config[key] != usual[key]}}


def _data_options(condensed: CondensedDataset | None) -> dict[str, Any]:
    """The options by which a dataset was changed on the way in, as its condensed images show them."""
    changes = condensed.provenance.get("changes", []) if condensed is not None else []
    if condensed is None or not changes:
        return {}
    some = any(str(change).startswith("only the classes") for change in changes)
    return {"image_size": condensed.image_size, **({"classes": list(condensed.class_names)} if some else {})}


def _is_named(dataset: str) -> bool:
    return dataset.partition(":")[0] in {name.partition(":")[0] for name in dataset_names()}


def _is_built_in(model: str) -> bool:
    return split_spec(model)[0] in model_names()


def _of_ones_own(config: Mapping[str, Any]) -> str | None:
    """What only the process knew that made the run: a recipe that was put into `RECIPES`, a metric in `METRICS`, or what was added to a
    registry."""
    method, metric, engine = (split_spec(str(config[name]))[0] for name in ("method", "distance", "engine"))
    if method in RECIPES and method not in BUILT_IN:
        return f"method {method}"
    if metric in METRICS and metric not in BUILT_IN_METRICS:
        return f"distance {metric}"
    kinds = {**CHOICES, "optimizer": OPTIMIZERS, **({"engine": ENGINES} if engine != "auto" else {})}
    return next((f"{kind} {config[kind]}" for kind, registry in kinds.items() if not registry.is_built_in(str(config[kind]))), None)


def _flag(name: str, value: Any) -> str:
    values = value if isinstance(value, list | tuple) else [value]
    return shlex.quote(",".join(map(str, values))) if name == "ipc" else shlex.join(map(str, values))
