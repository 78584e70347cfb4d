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


def resources(dtype: str, metric: str, architecture: int) -> dict[str, int]:
    """What `layerwise_distance_kernel` takes: registers of a thread, bytes of stack, local and shared memory."""
    import triton
    from fastdc.kernels.layerwise_distance import BLOCK, WARPS, layerwise_distance_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers = {
        "synthetic": f"*{dtype}",
        "real": f"*{dtype}",
        "tiles": "*i64",
        "distance": "*fp64" if dtype == "fp64" else "*fp32",
        "cotangent": f"*{dtype}",
        "parts": "*fp64",
        "tickets": "*i32",
    }
    constants = {"METRIC": metric, "BLOCK": BLOCK}
    kinds = {name: pointers.get(name, "constexpr" if name in constants else "i32") for name in layerwise_distance_kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(kinds.values()) if kind.startswith("*")}
    source = ASTSource(layerwise_distance_kernel, kinds, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": WARPS})
    return {**resources_of_cubin(compiled.asm["cubin"], triton.knobs.nvidia.cuobjdump.path), "shared": compiled.metadata.shared}


def resources_of_cubin(cubin: bytes, cuobjdump: str) -> dict[str, int]:
    """Registers of a thread and bytes of its stack frame and local memory: a register that is spilled has its place in one of them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = subprocess.run([cuobjdump, "-res-usage", str(path)], capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage))
    return {"registers": int(found["REG"]), "stack": int(found["STACK"]), "local": int(found["LOCAL"])}


def case_name(dtype: str, metric: str, architecture: int) -> str:
    return f"{metric}-{dtype}-sm{architecture}"


CASES = {case_name(*variant, architecture): (*variant, architecture) for variant in VARIANTS for architecture in ARCHITECTURES}


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
    print(json.dumps({case: resources(*arguments) for case, arguments in CASES.items()}))
