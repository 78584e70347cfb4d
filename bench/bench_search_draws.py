"""How much of a proxy's rank correlation is chance: the seed that its networks are trained by, and that a coreset is chosen by.

    python bench/bench_search_draws.py FOLDER [--seeds 1 2 3] [--proxies random herding]

reads the folder of a search on FashionMNIST that trained all its networks on the whole set (--truth all), trains them once more by other
seeds, on coresets that are chosen by these seeds and on learned images as they are, and writes each rank correlation with the search's
accuracies on the whole set. The same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from record import RESULTS, write

from fastdc import load_dataset
from fastdc.condensed import CondensedDataset
from fastdc.coresets import SELECTIONS
from fastdc.experiments.image_sets import ImageSetOptions
from fastdc.experiments.search.parallel_trials import do_trials
from fastdc.experiments.search.proxy_sets import ProxySetRunner
from fastdc.experiments.search.result import ProxyResult, SearchResult
from fastdc.experiments.search.trial import EARLY_STOPPING, Trial, TrialOptions, TrialRunner

TOP = 10


def accuracies_by(seed: int, folder: Path, names: Sequence[str], models: Sequence[str]) -> dict[str, dict[str, float]]:
    """Of each network on some proxies of the search in `folder`, trained by another seed."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())["config"]
    train, test = load_dataset("fashion-mnist")
    out = folder / "draws" / f"seed{seed}"
    same = ("ipc", "iterations", "budget", "batch_real", "engine", "device")
    making = ImageSetOptions(
        **{key: config[key] for key in same}, model=config["proxy_model"], whole_set_epochs=config["coreset_epochs"], progress=False
    )
    chosen = ProxySetRunner(out / "proxies", train, making, seed)
    sets = {}
    for name in names:
        if name not in SELECTIONS:
            sets[name] = CondensedDataset.load(folder / "proxies" / name / "condensed.safetensors")
            continue
        if not chosen.is_done(name):
            chosen.do(name)
        sets[name] = chosen.images(name)
    options = TrialOptions(
        epochs=config["epochs"],
        protocol=config["protocol"],
        whole_set_epochs=config["whole_set_epochs"],
        stopped_after=1,
        seed=seed,
        engine=config["engine"],
        device=config["device"],
    )
    runner = TrialRunner(out / "networks", train, test, sets, options)
    trials = [Trial(model, tuple(names)) for model in models]
    if failures := do_trials(runner, trials, doing=f"seed {seed}", progress=True):
        raise RuntimeError(f"{len(failures)} networks failed: {next(iter(failures.values()))}")
    outcomes = {name: {trial.model: runner.outcome(trial, name) for trial in trials} for name in names}
    return {name: {model: found.accuracy for model, found in of.items() if found is not None} for name, of in outcomes.items()}


def main(folder: Path, seeds: Sequence[int], proxies: Sequence[str] | None) -> int:
    ranked = json.loads((folder / "ranking.json").read_text())
    names = proxies or [name for name in ranked if name not in ("skipped", EARLY_STOPPING)]
    found = {name: {network["model"]: network["accuracy"] for network in ranked[name]} for name in names}
    truth = {network["model"]: network["whole_set"] for network in next(iter(ranked.values()))}
    first = int(json.loads((folder / "config.json").read_text())["config"]["seed"])
    rows = []
    for seed in (first, *seeds):
        for name, accuracies in (found if seed == first else accuracies_by(seed, folder, names, list(truth))).items():
            proxy, result = ProxyResult(name, accuracies, 0, 0, 0), SearchResult((), truth, 0, 0, TOP, {})
            correlations = {f"correlation_{which}": result.correlation(proxy, top=which == "top") for which in ("top", "all")}
            rows.append({"proxy": name, "seed": seed, **correlations})
    command = shlex.join(["python", "bench/bench_search_draws.py", str(folder), *sys.argv[2:]])
    write(RESULTS / "search-draws.json", command, rows, networks=len(truth), top=TOP)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--proxies", nargs="+")
    arguments = parser.parse_args()
    sys.exit(main(arguments.folder, arguments.seeds, arguments.proxies))
