"""Convolutions with weights of each class, in every way that the engine `cuda` has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gpu.measured import measure, products, relative
from gpu.rows import Results
from gpu.settings import CLASSES, DEVICE, GPU, IPCS, PRECISIONS, REAL


@contextlib.contextmanager
def convolved_by(arm: str) -> Iterator[None]:
    """Convolutions with weights of each class through patches, by kernels that read windows from the maps, by a call of the library for
    each class, by Winograd, or as the engine chooses."""
    from fastdc.engines.chain import winograd
    from fastdc.engines.chain.products import ConvolutionPass

    before = ConvolutionPass._by_patches, winograd.TILES
    if arm in ("patches", "direct", "each class"):
        ConvolutionPass._by_patches = lambda *_: arm != "each class"  # type: ignore[method-assign]
    if arm == "winograd":
        winograd.TILES = 0
    try:
        yield
    finally:
        ConvolutionPass._by_patches, winograd.TILES = before  # type: ignore[method-assign]


def convolutions(results: Results) -> None:
    """The convolutions of the ConvNet with weights of each class and those that all share: products, their transposes, and gradients by the
    weights; of some classes of some images, and as in training of a batch that is one class."""
    width, sides = (128, (32, 16, 8)) if GPU else (4, (6, 3))
    gradients, *others = "weight gradients", "products", "transposed"
    jobs = [
        (gradients, CLASSES, REAL),
        (gradients, 1, REAL),
        *((what, CLASSES, ipc) for ipc in (IPCS[0], 1) for what in (gradients, *others)),
    ]
    for precision in PRECISIONS:
        for channels, side in zip((3, *[width] * len(sides[1:])), sides, strict=True):
            for what, count, each in jobs:
                labels = {"precision": precision, "channels": channels, "side": side, "count": count, "each": each}
                convolution_rows(results, f"{what}, {count} of {each}, {channels} to {width}, {side}x{side}", what, width, labels)


def convolution_rows(results: Results, title: str, what: str, width: int, labels: dict[str, Any]) -> None:
    """One job by every arm, the first of which says what is right."""
    from fastdc.engines.chain.base import Network
    from fastdc.engines.chain.convolution import DirectPass
    from fastdc.engines.chain.precision import PRECISIONS as ROUNDINGS
    from fastdc.engines.chain.products import ConvolutionPass
    from fastdc.engines.chain.winograd import WinogradPass
    from fastdc.engines.plan import Convolution

    channels, side, count, each = (labels[key] for key in ("channels", "side", "count", "each"))
    precision = ROUNDINGS[labels["precision"]]
    step = Convolution("weight", None, channels, width, (3, 3), (1, 1), (1, 1), (1, 1), 1)
    weights = torch.randn(count, width, channels, 3, 3, device=DEVICE)
    x, gy = (torch.randn(count * each, c, side, side, device=DEVICE) for c in (channels, width))
    terms = 1 if what == "weight gradients" else 2
    operations = terms * 2 * 9 * count * each * channels * width * side**2
    expected: list[Tensor] = []

    def job(kind: type[ConvolutionPass]) -> dict[str, Any]:
        made = kind(step, Network({"weight": weights[0]}, {}, precision), x)
        gradients, v = made.round(gy), made.round(weights)
        made.gy, place = gradients, torch.zeros_like(weights)  # which the graph adds to, as long as it is launched
        calls: dict[str, Callable[[], Tensor | None]] = {
            "weight gradients": lambda: made._add_gradients({"weight": place}, made.x, gradients, None),
            "products": lambda: made.tangent(made.x, v),
            "transposed": lambda: made.tangent_back(gradients, v),
        }
        call = calls[what]
        found = call()
        expected.append(place.clone() if found is None else found)
        found = expected[-1]
        error = relative(found, expected[0])
        assert error < (1e-4 if labels["precision"] == "float32" else 3e-2), f"the relative error is {error}"
        graph = replay_of(call)
        figures = measure(graph, seconds=0.1, most=5, profiled=False)
        return {"TFLOP/s": operations / 1e9 / figures.get("event_ms", figures["wall_ms"]), "error": error, **figures}

    kinds = {"each class": ConvolutionPass, "patches": ConvolutionPass, "chosen": ConvolutionPass}
    if GPU:
        kinds |= {"direct": DirectPass, "chosen": DirectPass}
    if GPU and channels > 3 and labels["precision"] != "bfloat16":
        kinds |= {"winograd": WinogradPass, **({"chosen": WinogradPass} if labels["precision"] == "float32" else {})}
    for arm, kind in kinds.items():

        def within(arm: str = arm, kind: type[ConvolutionPass] = kind) -> dict[str, Any]:
            with products("float32", deterministic=True), precision.computing(x), torch.no_grad(), convolved_by(arm):
                return job(kind)

        results.attempt(title, within, arm=arm, **labels)


def replay_of(job: Callable[[], object]) -> Callable[[], object]:
    """The job as the engine does it on a GPU, where launches cost next to nothing."""
    if not GPU:
        return job
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        job()
    return graph.replay
