"""Compiles every Triton kernel for GPUs that need not be there, and looks at what it would occupy of them.

TRITON_INTERPRET=1, which the other tests set, replaces the compiler within a process: this file runs itself as a script without it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from versions import triton_version

ARCHITECTURES = (80, 90, 100)
SPILLED = 0 if triton_version() >= (3, 8) else 8  # bytes of a thread at most; Triton 3.6 spills one double in some variants
VARIANTS = (  # every metric, and every dtype
    ("fp32", "layerwise_cosine"),
    ("fp32", "cosine"),
    ("fp32", "mse"),
    ("fp32", "l1"),
    ("fp64", "layerwise_cosine"),
    ("fp16", "layerwise_cosine"),
    ("bf16", "layerwise_cosine"),
)
BLOCKS = (  # every pass, as the default network has it; and each norm and activation where registers are scarcest
    *(("fp32", which, "sets", "relu", "avg", side) for which in ("forward", "back", "along", "back_along") for side in ("8", "32")),
    *(("fp32", "back_along", norm, "swish", "max", "32") for norm in ("sets", "constants", "none")),
    *(
        ("fp32", which, "sets", "relu", "avg", side, "32") for which in ("along", "back_along") for side in ("8", "32")
    ),  # a group of 32 maps
)
TRANSFORMS = tuple(
    (dtype, which, side) for which in ("input", "output", "output_adjoint") for dtype, side in (("fp32", "3"), ("fp32", "5"), ("fp64", "3"))
)
CONVOLUTIONS = tuple(  # of blocks that are full, and of the narrowest
    (dtype, which, precision, block)
    for dtype, precision, block in (("fp32", "ieee", "64"), ("fp32", "tf32", "64"), ("bf16", "ieee", "64"), ("fp32", "tf32", "16"))
    for which in ("there", "back", "weight_gradients")
)
LOSSES = tuple((dtype, which, "10") for which in ("cotangent", "cross_entropy_along") for dtype in ("fp32", "fp64"))
SUMS = (("fp32", "class_sums"), ("fp64", "class_sums"))

GATHERS = (("fp32", "gather_normalise"), ("fp64", "gather_normalise"))


def of_distance(dtype: str, metric: str) -> dict[str, Any]:
    """The kernel of the distance as `compiled_for` takes it."""
    from fastdc.kernels.layerwise_distance import BLOCK, WARPS, layerwise_distance_kernel

    pointers = {
        "synthetic": f"*{dtype}",
        "real": f"*{dtype}",
        "tiles": "*i64",
        "distance": "*fp64" if dtype == "fp64" else "*fp32",
        "cotangent": f"*{dtype}",
        "parts": "*fp64",
        "tickets": "*i32",
    }
    return {"kernel": layerwise_distance_kernel, "pointers": pointers, "constants": {"METRIC": metric, "BLOCK": BLOCK}, "warps": WARPS}


def of_block(dtype: str, which: str, norm: str, activation: str, pooling: str, side: str, channels: str = "1") -> dict[str, Any]:
    """One of the kernels of norm, activation and pooling, for square maps, with weights and a direction of them."""
    from fastdc.kernels import norm_act_pool as kernels

    kernel = getattr(kernels, f"{which}_kernel")
    sizes = ("total", "sets", "direction_stride", "each")
    pointers = {name: f"*{dtype}" for name in kernel.arg_names if name not in sizes and not name.isupper()}
    given = {"EPS": 1e-5, "SLOPE": 0.01, "NORM": norm, "AFFINE": norm != "none", "TURNED": norm != "none", "WANTED": False}
    given |= {"ACTIVATION": activation, "POOLING": pooling, "SIDE": 1 if pooling == "none" else 2}
    given |= kernels.Block(norm, 1, 0.0, activation, 0.0, pooling).tile(int(channels), int(side), int(side))
    constants = {name: value for name, value in given.items() if name in kernel.arg_names}
    return {"kernel": kernel, "pointers": pointers, "constants": constants, "warps": kernels.WARPS}


def of_transform(dtype: str, which: str, side: str) -> dict[str, Any]:
    """One of the transforms of Winograd's convolutions, whose kernels have `side` numbers a side, for maps of 16x16."""
    from fastdc.kernels import winograd as kernels

    kernel, around = getattr(kernels, f"{which}_kernel"), int(side) // 2
    tiling = kernels.Tiling(int(side), (around, around))
    down, across = tiling.tiles(16, 16)
    given = {"UP": around, "LEFT": around, "TILE": tiling.tile, "ADD": True, "HEIGHT": 16, "WIDTH": 16, "DOWN": down, "ACROSS": across}
    constants = {name: value for name, value in {**given, "BLOCK": kernels.BLOCK}.items() if name in kernel.arg_names}
    sizes = ("total", "channels", "of_class")
    pointers = {name: f"*{dtype}" for name in kernel.arg_names if name not in sizes and not name.isupper()}
    return {"kernel": kernel, "pointers": pointers, "constants": constants, "warps": kernels.WARPS}


def of_convolution(dtype: str, which: str, precision: str, block: str) -> dict[str, Any]:
    """One of the kernels of convolutions of 3x3, with two terms, for blocks of so many features."""
    from fastdc.kernels import convolution as kernels

    gradients = which == "weight_gradients"
    kernel = kernels.weight_gradients_kernel if gradients else kernels.convolution_kernel
    given = {"UP": 1, "LEFT": 1, "KH": 3, "KW": 3, "ROWS": 16, "COLUMNS": 16, "ADD": True}
    given |= {"BACK": which == "back", "TERMS": 2, "PRECISION": precision}
    given |= {"FEATURES": int(block), "PLACES": kernels.BLOCK, "NUMBERS": kernels.BLOCK, "DEPTH": kernels.DEPTH}
    constants = {name: value for name, value in given.items() if name in kernel.arg_names}
    operands = ("x", "weight", "other_x", "other_weight", "gy")
    pointers = dict.fromkeys(operands, f"*{dtype}") | dict.fromkeys(("y", "sums"), "*fp32")
    return {"kernel": kernel, "pointers": pointers, "constants": constants, "warps": kernels.WARPS, "stages": kernels.STAGES}


def of_loss(dtype: str, which: str, classes: str) -> dict[str, Any]:
    """One of the kernels of cross-entropy."""
    from fastdc.kernels import cross_entropy as kernels

    kernel = kernels.cotangent_kernel if which == "cotangent" else kernels.along_kernel
    block = 1 << (int(classes) - 1).bit_length()
    pointers = dict.fromkeys(("logits", "shares", "cotangent", "tangent", "result"), f"*{dtype}") | {"labels": "*i64"}
    return {"kernel": kernel, "pointers": pointers, "constants": {"ROWS": kernels.BLOCK // block, "BLOCK": block}, "warps": kernels.WARPS}


def of_sums(dtype: str, _: str) -> dict[str, Any]:
    """The kernel of sums by class."""
    from fastdc.kernels import class_sums as kernels

    pointers = dict.fromkeys(("values", "sums", "other_values", "other_sums"), f"*{dtype}")
    constants = {"ROWS": kernels.ROWS, "BLOCK": kernels.BLOCK}
    return {"kernel": kernels.class_sums_kernel, "pointers": pointers, "constants": constants, "warps": kernels.WARPS}


def of_gather(dtype: str, name: str) -> dict[str, Any]:
    """The kernel that gathers and normalises images."""
    from fastdc.kernels import gather_normalise as kernels

    pointers = {"images": "*u8", "index": "*i64", "levels": f"*{dtype}", "result": f"*{dtype}"}
    kernel = getattr(kernels, f"{name}_kernel")
    return {"kernel": kernel, "pointers": pointers, "constants": {"BLOCK": kernels.BLOCK}, "warps": kernels.WARPS}


def compiled_for(
    architecture: int, kernel: Any, pointers: dict[str, str], constants: dict[str, Any], warps: int, stages: int = 3
) -> dict[str, int]:
    """What a kernel takes of a GPU: registers of a thread, bytes of stack, local and shared memory; and the warps of a program."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = {name: pointers.get(name, "constexpr" if name in constants else "i32") for name in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(kinds.values()) if kind.startswith("*")}
    source = ASTSource(kernel, kinds, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps, "num_stages": stages})
    found = resources_of_cubin(compiled.asm["cubin"], triton.knobs.nvidia.cuobjdump.path)
    return {**found, "shared": compiled.metadata.shared, "warps": warps}


def resources_of_cubin(cubin: bytes, cuobjdump: str) -> dict[str, int]:
    """Registers of a thread and bytes of its stack frame and local memory: a register that is spilled has its place in one of them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = subprocess.run([cuobjdump, "-res-usage", str(path)], capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage))
    return {"registers": int(found["REG"]), "stack": int(found["STACK"]), "local": int(found["LOCAL"])}


CASES: dict[str, tuple[Callable[..., dict[str, Any]], tuple[str, ...], int]] = {
    f"{'-'.join(variant[1:])}-{variant[0]}-sm{architecture}": (of, variant, architecture)
    for of, variants in (
        (of_distance, VARIANTS),
        (of_block, BLOCKS),
        (of_convolution, CONVOLUTIONS),
        (of_transform, TRANSFORMS),
        (of_loss, LOSSES),
        (of_sums, SUMS),
        (of_gather, GATHERS),
    )
    for variant in variants
    for architecture in ARCHITECTURES
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """The resources of all cases, compiled from scratch in one process."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(triton_version() < (3, 4), reason="this needs Triton 3.4: before it, Triton does not say where its tools are")
@pytest.mark.parametrize("case", CASES)
def test_kernel_compiles_and_keeps_to_its_registers(
    case: str, compiled: dict[str, dict[str, int]], record_property: Callable[[str, object], None]
) -> None:
    used = compiled[case]
    print(f"{case}: {used['registers']} registers, {used['shared']} bytes of shared memory")
    record_property("resources", json.dumps(used))
    assert used["stack"] + used["local"] <= SPILLED


if __name__ == "__main__":
    print(json.dumps({case: compiled_for(architecture, **of(*variant)) for case, (of, variant, architecture) in CASES.items()}))
