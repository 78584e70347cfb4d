"""Exchange a set with DD-Ranking (Li et al., 2025) by its files, and score it as DD-Ranking does.

DD-Ranking (github.com/NUS-HPC-AI-Lab/DD-Ranking) is given tensors that torch.load reads: images.pt [N, channels, H, W], normalised;
labels.pt, numbers of classes [N] or soft labels [N, C]; lr.pt, a learning rate, or none. It scores a set by two differences of accuracy:

    HLR = accuracy of the whole real set - accuracy of the set with hard labels        (hard label recovery, small is good)
    IOR = accuracy of the set - accuracy of as many random real images                 (improvement over random, large is good)

and by one number, with a = w IOR - (1 - w) HLR:  (exp(a) - exp(-1)) / (exp(1) - exp(-1)).
"""

import math
from pathlib import Path

import torch

import fastdc

MODEL, WEIGHT = "convnet:width=16", 0.5


def write(condensed: fastdc.CondensedDataset, folder: Path) -> None:
    """The files that DD-Ranking takes."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(condensed.images, folder / "images.pt")
    torch.save(condensed.targets, folder / "labels.pt")


def score(hlr: float, ior: float) -> float:
    """DD-Ranking's score, 0 to 1."""
    balance = WEIGHT * ior - (1 - WEIGHT) * hlr
    return (math.exp(balance) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def main() -> None:
    """Write a set as DD-Ranking reads it, read it as anyone's, and score it beside random images."""
    train, test = fastdc.load_dataset("digits")
    write(fastdc.condense(train, ipc=2, method="auto", iterations=2, model=MODEL), Path("submission"))

    said = {"mean": train.mean, "std": train.std, "class_names": train.class_names}  # which the files do not say
    condensed = fastdc.CondensedDataset.load("submission", **said)
    hard = fastdc.CondensedDataset(condensed.images, condensed.labels, **said)  # of a set with soft labels, the class of each
    whole = fastdc.CondensedDataset(train.normalised(slice(None)), train.labels, **said)

    options = {"model": MODEL, "networks": 2, "protocol": "dc"}
    real = fastdc.evaluate(whole, test, **options, epochs=40).mean
    hard_accuracy = fastdc.evaluate(hard, test, **options).mean
    random = fastdc.evaluate(fastdc.coresets.random(train, ipc=2), test, **options).mean
    for name, accuracy, with_hard in (
        ("condensed", fastdc.evaluate(condensed, test, **options).mean, hard_accuracy),
        ("random", random, random),
    ):
        hlr, ior = real - with_hard, accuracy - random
        print(f"{name:<10} {accuracy:.1%}  HLR {hlr:.1%}  IOR {ior:.1%}  score {score(hlr, ior):.3f}")


if __name__ == "__main__":
    main()
