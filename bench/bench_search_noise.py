"""How stable the order of ten networks on the whole set is: those that proxies rank first, trained there once more.

    python bench/bench_search_noise.py runs/search-auto

reads the folder of a search on FashionMNIST, trains the networks that its proxies rank first by another seed, and writes for each proxy the
rank correlation with the search's accuracies on the whole set, that with the new ones, and that of the two with each other.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from record import RESULTS, write

from fastdc.experiments import architecture_search
from fastdc.experiments.search.result import rank_correlation

TOP, EPOCHS = 10, 2


def main(folder: Path) -> int:
    ranked = {name: ranking for name, ranking in json.loads((folder / "ranking.json").read_text()).items() if name != "skipped"}
    first = {name: [network["model"] for network in ranking[:TOP]] for name, ranking in ranked.items()}
    space = list(dict.fromkeys(model for models in first.values() for model in models))
    again = architecture_search(
        "fashion-mnist", "fashion-mnist", proxies=["random"], space=space, epochs=1, whole_set_epochs=EPOCHS, truth="all", seed=1
    ).truth
    rows = []
    for name, models in first.items():
        proxy, truth = ([network[key] for network in ranked[name][:TOP]] for key in ("accuracy", "whole_set"))
        anew = [again[model] for model in models]
        pairs = {"first_seed": (proxy, truth), "other_seed": (proxy, anew), "of_both": (truth, anew)}
        rows.append({"proxy": name, "networks": TOP, **{key: rank_correlation(*pair) for key, pair in pairs.items()}})
        print(rows[-1])
    write(RESULTS / "search-noise.json", f"python bench/bench_search_noise.py {folder}", rows, epochs=EPOCHS, trained=len(space))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
