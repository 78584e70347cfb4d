"""Whole condensations: time, accuracy, the same bits twice."""

from __future__ import annotations

import functools
import os
import statistics
import time
from typing import Any

import torch

from gpu.arms import condensed
from gpu.rows import Results
from gpu.settings import DEVICE, GPU, MODEL

# Images per class, precision, most iterations, and which share of the time that is left may go to them.
RUNS = (
    ((1, "float32", 300, 0.45), (1, "tf32", 300, 0.4), (10, "tf32", 1000, 0.65)) if GPU else ((1, "float32", 2, 1.0), (2, "tf32", 1, 1.0))
)


def condensation(results: Results) -> None:
    import fastdc

    train, test = fashion_mnist(results)
    results.attempt("same bits", functools.partial(same_bits, train), needs=5, data=train.name)
    for ipc in dict.fromkeys(ipc for ipc, *_ in RUNS):
        evaluation = functools.partial(evaluate, fastdc.coresets.random(train, ipc), test)
        results.attempt("evaluate", evaluation, needs=6, subject=f"random {ipc}", data=train.name)
    for ipc, precision, wanted, share in RUNS:
        labels, made = {"precision": precision, "data": train.name}, []
        condense = functools.partial(condense_in_time, results, train, ipc, precision, wanted, share, made)
        results.attempt("condense", condense, needs=5, ipc=ipc, **labels)
        for images in made:
            results.attempt("evaluate", functools.partial(evaluate, images, test), needs=6, subject=f"condensed {ipc}", **labels)


def condense_in_time(results: Results, train: Any, ipc: int, precision: str, wanted: int, share: float, made: list[Any]) -> dict[str, Any]:
    """As many iterations of those wanted as fit into the share of the time that is left; the images go to `made`."""
    options = {"engine": "cuda", "precision": precision}
    *_, one = condensed(train, ipc, 3, **options)[1]  # the first with all that is done once in a process, the second captured
    iterations = max(1, min(wanted, int(share * results.left() / one)))
    start = time.perf_counter()
    images, each = condensed(train, ipc, iterations, **options)
    seconds = time.perf_counter() - start
    images.save_grid(results.folder / f"condensed-{train.name}-{ipc}-{precision}.png")
    made.append(images)
    return {"seconds": seconds, "iterations": iterations, "seconds_per_iteration": statistics.median(each)}


def fashion_mnist(results: Results) -> tuple[Any, Any]:
    """Its images to train on and to test on, or the digits where it is missing or too large."""
    import fastdc

    root = os.environ.get("FASTDC_GPU_DATA")
    if GPU and root:
        return fastdc.load_dataset("fashion-mnist", root=root)
    reason = "set FASHION_MNIST to the folder of its files" if GPU else "it is too large without a GPU"
    results.row("data", data="digits", skipped=f"FashionMNIST: {reason}")
    return fastdc.load_dataset("digits")


def same_bits(train: Any) -> dict[str, Any]:
    """One run twice."""
    iterations = 10 if GPU else 2
    first, second = (condensed(train, 1, iterations, engine="cuda")[0].images for _ in range(2))
    assert torch.equal(first, second), "the images of two runs differ"
    return {"iterations": iterations, "equal": True}


def evaluate(images: Any, test: Any) -> dict[str, Any]:
    import fastdc

    networks, epochs = (5, 300) if GPU else (2, 3)
    start = time.perf_counter()
    options = {"model": MODEL, "engine": "cuda", "device": DEVICE.type, "progress": False}
    found = fastdc.evaluate(images, test, networks=networks, epochs=epochs, **options)
    seconds = time.perf_counter() - start
    return {"accuracy_%": 100 * found.mean, "std_%": 100 * found.std, "networks": networks, "epochs": epochs, "seconds": seconds}
