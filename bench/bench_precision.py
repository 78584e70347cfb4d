"""What each precision costs: the error of gradients, and the accuracy of images that were learned with it.

    python bench/bench_precision.py

On the CPU the engine `cuda` rounds what goes into products as the tensor cores of a GPU do. Errors are relative to float64 in the 2-norm,
of the default ConvNet on noise. Accuracies are those of networks that are trained in float32 on images of FashionMNIST, one per class.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import torch
from record import RESULTS, Row, write
from torch import Tensor

import fastdc
from fastdc.engines import PRECISIONS, CudaEngine
from fastdc.models import build

CLASSES, REAL, SYNTHETIC, SIZE = 10, 8, 2, (3, 32, 32)
CONDENSING = {"model": "convnet:width=32", "batch_real": 64, "iterations": 100, "engine": "cuda", "device": "cpu", "progress": False}
EVALUATION = {"model": "convnet:width=32", "networks": 5, "progress": False}


def error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


def errors(activation: str) -> list[Row]:
    """One row for each precision."""
    torch.manual_seed(0)
    module = build(f"convnet:activation={activation}", SIZE[0], CLASSES, SIZE[1:])
    synthetic, real = torch.randn(CLASSES, SYNTHETIC, *SIZE), torch.randn(CLASSES, REAL, *SIZE)
    exact = CudaEngine(copy.deepcopy(module).double())
    theta = exact.layout.flatten(module)
    target = exact.class_gradients(theta.double(), real.double())
    distance, gradient = exact.match(theta.double(), synthetic.double(), target, "layerwise_cosine")
    rows = []
    for precision in PRECISIONS:
        engine = CudaEngine(copy.deepcopy(module), precision)
        found = engine.match(theta, synthetic, target.float(), "layerwise_cosine")
        rounded = {
            "class_gradients": error(engine.class_gradients(theta, real), target),
            "distance": error(found[0], distance),
            "image_gradients": error(found[1], gradient),
        }
        rows.append({"what": "error", "precision": precision, "activation": activation, **rounded})
    return rows


def accuracies(seed: int) -> list[Row]:
    """One row for each precision."""
    train, test = fastdc.load_dataset("fashion-mnist")
    rows = []
    for precision in PRECISIONS:
        began = time.monotonic()
        condensed = fastdc.condense(train, 1, precision=precision, seed=seed, **CONDENSING)
        seconds = time.monotonic() - began
        found = fastdc.evaluate(condensed, test, **EVALUATION)
        rows.append(
            {"what": "accuracy", "precision": precision, "seed": seed, "mean": 100 * found.mean, "std": 100 * found.std, "seconds": seconds}
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--file", type=Path, default=RESULTS / "precision.json")
    options = parser.parse_args()
    rows = [*errors("swish"), *errors("relu")]
    for seed in range(options.seeds):
        rows += accuracies(seed)
        write(options.file, f"python bench/bench_precision.py --seeds {seed + 1}", rows)


if __name__ == "__main__":
    main()
