"""What the engine `cuda` should hold at once."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from gpu.arms import Ours, Problem, held, matched
from gpu.measured import measure
from gpu.rows import Results
from gpu.settings import COUNT, DEVICE, GPU, IPCS


def chunks(results: Results) -> None:
    """What the engine should hold at once, one of the limits changed at a time: the MiB that a chunk keeps; the numbers of a class, in
    2**20, up to which convolutions with weights of each class go through patches, or directly; those that patches take at once; those that
    the planes of Winograd take, 0 for none of it; and whether windows are read from the maps directly, 0 for patches."""
    problem, usual = Problem(), (512, 8, 32, 8, 1)
    others = (
        (512, 8, 32, 8, 0),
        *((512, 8, 32, planes, 1) for planes in (0, 2, 4, 32)),
        *((memory, 8, 32, 8, 1) for memory in (128, 256, 1024)),
        *((512, few, 32, 8, 1) for few in (0, 2, 32)),
        *((512, 8, most, 8, 0) for most in (8, 128)),
    )
    for precision in ("float32", "tf32") if GPU else ("float32",):
        for limits in (usual, *(limits for limits in others if precision == "float32" or limits[3] == usual[3])):
            with held_at_once(*limits):
                arm = Ours(problem, "cuda", precision)
                labels = {"arm": "{} MiB, few {}, most {}, planes {}, direct {}".format(*limits), "precision": precision}
                real = arm.real_side(problem.real)
                jobs = {"real side": functools.partial(arm.real_side, problem.real)}
                jobs |= {f"synthetic side of {ipc}": functools.partial(matched, arm, problem.synthetic(ipc), real) for ipc in IPCS[:3]}
                for what, job in jobs.items():
                    results.attempt(what, functools.partial(measure, job, seconds=0.2, most=7, profiled=False), **labels)
                if GPU:
                    results.attempt("memory", functools.partial(held, arm, problem.synthetic(50)), ipc=50, **labels)


@contextlib.contextmanager
def held_at_once(memory: int, few: int, most: int, planes: int, direct: int) -> Iterator[None]:
    """Other limits of the engine cuda than its own."""
    from fastdc.engines import cuda
    from fastdc.engines.chain import convolution, winograd
    from fastdc.engines.chain import products as of_chain

    before, served = (cuda._MEMORY, of_chain.FEW, of_chain.MOST, winograd.MOST, winograd.FEWEST), convolution.DirectPass._directly
    if not direct:
        convolution.DirectPass._directly = lambda *_: False  # type: ignore[method-assign]
    cuda._MEMORY, of_chain.FEW, of_chain.MOST = {**before[0], DEVICE.type: memory}, few << 20, most << 20
    winograd.MOST, winograd.FEWEST = planes << 20, before[-1] if planes else COUNT
    try:
        yield
    finally:
        cuda._MEMORY, of_chain.FEW, of_chain.MOST, winograd.MOST, winograd.FEWEST = before
        convolution.DirectPass._directly = served  # type: ignore[method-assign]
