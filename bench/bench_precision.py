"""What each precision costs: the error of gradients, and the accuracy of images that were learned with it; and what it saves.

    python bench/bench_precision.py
    python bench/bench_precision.py --engine native

On the CPU the engine `cuda` rounds what goes into products as the tensor cores of a GPU do; `native` rounds with the processor's own
instructions, and is timed as well. Errors are relative to float64 in the 2-norm, of the default ConvNet on noise; beside them stands
that of class gradients by torch's autocast to bfloat16. Accuracies are those of networks that are trained in float32 on images of
FashionMNIST, one per class.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from record import RESULTS, Row, write
from torch import Tensor, nn

import fastdc
from fastdc.engines import CudaEngine, NativeEngine
from fastdc.models import build

CLASSES, REAL, SYNTHETIC, SIZE = 10, 8, 2, (3, 32, 32)
NETWORKS, TIMED = ("convnet", "convnet:width=32", "alexnet", "mlp"), 32  # what is timed, with so many real images of each class
CONDENSING = {"model": "convnet:width=32", "batch_real": 64, "iterations": 100, "device": "cpu", "progress": False}
KINDS: dict[str, type[CudaEngine] | type[NativeEngine]] = {"cuda": CudaEngine, "native": NativeEngine}
FILES = {"cuda": "precision.json", "native": "native_precision.json"}
EVALUATION = {"model": "convnet:width=32", "networks": 5, "progress": False}


def error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


def errors(activation: str, kind: type[CudaEngine] | type[NativeEngine]) -> list[Row]:
    """One row for each precision."""
    torch.manual_seed(0)
    module = build(f"convnet:activation={activation}", SIZE[0], CLASSES, SIZE[1:])
    synthetic, real = torch.randn(CLASSES, SYNTHETIC, *SIZE), torch.randn(CLASSES, REAL, *SIZE)
    exact = kind(copy.deepcopy(module).double())
    theta = exact.layout.flatten(module)
    target = exact.class_gradients(theta.double(), real.double())
    distance, gradient = exact.match(theta.double(), synthetic.double(), target, "layerwise_cosine")
    rows = []
    for precision in kind.precisions:
        engine = kind(copy.deepcopy(module), precision)
        found = engine.match(theta, synthetic, target.float(), "layerwise_cosine")
        rounded = {
            "class_gradients": error(engine.class_gradients(theta, real), target),
            "distance": error(found[0], distance),
            "image_gradients": error(found[1], gradient),
        }
        rows.append({"what": "error", "precision": precision, "activation": activation, **rounded})
    rows.append({"what": "autocast", "activation": activation, "class_gradients": error(by_autocast(module, real), target)})
    return rows


def by_autocast(module: nn.Module, real: Tensor) -> Tensor:
    """Class gradients [C, P] of images [C, n, ...] by torch alone."""
    gradients = []
    for number, images in enumerate(real):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(module(images).float(), torch.full((len(images),), number))
        gradients.append(torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(module.parameters()))]))
    return torch.stack(gradients)


def times(spec: str, rounds: int = 5, seconds: float = 4.0) -> list[Row]:
    """The least of some calls of the native engine, its precisions in turn: class gradients, and the synthetic side of a step."""
    torch.manual_seed(0)
    module = build(spec, SIZE[0], CLASSES, SIZE[1:])
    engines = {precision: NativeEngine(copy.deepcopy(module), precision) for precision in NativeEngine.precisions}
    theta, real = engines["float32"].layout.flatten(module), torch.randn(CLASSES, TIMED, *SIZE)
    target = engines["float32"].class_gradients(theta, real)
    rows = []
    for ipc in (None, 1, 10):
        synthetic = torch.randn(CLASSES, ipc or 1, *SIZE)
        found: dict[str, list[float]] = {precision: [] for precision in engines}
        until = time.perf_counter() + seconds
        while len(found["float32"]) < rounds or time.perf_counter() < until:
            for precision, engine in engines.items():
                began = time.perf_counter()
                if ipc is None:
                    engine.class_gradients(theta, real)
                else:
                    engine.match(theta, synthetic, target, "layerwise_cosine")
                found[precision].append(time.perf_counter() - began)
        rows.append({"what": "time", "network": spec, "ipc": ipc, **{name: min(each) for name, each in found.items()}})
    return rows


def accuracies(seed: int, kind: type[CudaEngine] | type[NativeEngine]) -> list[Row]:
    """One row for each precision."""
    train, test = fastdc.load_dataset("fashion-mnist")
    rows = []
    for precision in kind.precisions:
        began = time.monotonic()
        condensed = fastdc.condense(train, 1, precision=precision, engine=kind.name, seed=seed, **CONDENSING)
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
    parser.add_argument("--engine", choices=KINDS, default="cuda")
    parser.add_argument("--file", type=Path)
    options = parser.parse_args()
    kind, named = KINDS[options.engine], "" if options.engine == "cuda" else f" --engine {options.engine}"
    rows = [row for activation in ("swish", "relu") for row in errors(activation, kind)]
    if kind is NativeEngine:
        rows += [row for spec in NETWORKS for row in times(spec)]
    for seed in range(options.seeds):
        rows += accuracies(seed, kind)
        write(options.file or RESULTS / FILES[options.engine], f"python bench/bench_precision.py{named} --seeds {seed + 1}", rows)


if __name__ == "__main__":
    main()
