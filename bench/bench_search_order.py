"""The ten networks that each proxy of a search ranks first: how stable their order on the whole set is, and how many have average pooling.

    python bench/bench_search_order.py runs/search-auto

reads the folder of a search on FashionMNIST, trains these networks on the whole set once more, by another seed, and writes for each proxy
the rank correlation with the search's accuracies on the whole set, that with the new ones, and that of the two with each other.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from record import RESULTS, write

from fastdc.experiments import architecture_search
from fastdc.experiments.search.result import rank_correlation

TOP, EPOCHS = 10, 2


def with_average_pooling(models: Sequence[str]) -> int:
    return sum("pooling=avg" in model for model in models)


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
        correlations = {key: rank_correlation(*pair) for key, pair in pairs.items()}
        rows.append({"proxy": name, **correlations, "average_pooling": with_average_pooling(models)})
    best = sorted(next(iter(ranked.values())), key=lambda network: -network["whole_set"])[:TOP]
    rows.append({"proxy": "whole set", "average_pooling": with_average_pooling([network["model"] for network in best])})
    write(
        RESULTS / "search-order.json", f"python bench/bench_search_order.py {folder}", rows, networks=TOP, epochs=EPOCHS, trained=len(space)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
