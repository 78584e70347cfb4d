"""Compiles every Triton kernel for GPUs that need not be there, and looks at what it would occupy of them.

TRITON_INTERPRET=1, which the other tests set, replaces the compiler within a process: this file runs itself as a script without it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

ARCHITECTURES = (80, 90, 100)
# Every metric, and every dtype. The first is compiled with each configuration that autotuning can pick; the others with the one that
# gives a thread the most elements, and so the most registers, to keep the time short.
VARIANTS = (
    ("fp32", "layerwise_cosine"),
    ("fp32", "cosine"),
    ("fp32", "mse"),
    ("fp64", "layerwise_cosine"),
    ("fp16", "layerwise_cosine"),
    ("bf16", "layerwise_cosine"),
)


def resources(dtype: str, metric: str, architecture: int) -> list[dict[str, Any]]:
    """What each configuration of `layerwise_distance_kernel` takes: registers of a thread, bytes of stack, local and shared memory."""
    import triton
    from fastdc.kernels.layerwise_distance import METRICS, layerwise_distance_kernel
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
    configs = layerwise_distance_kernel.configs
    if (dtype, metric) != VARIANTS[0]:
        configs = [max(configs, key=lambda config: (config.kwargs["BLOCK"] / config.num_warps, config.kwargs["BLOCK"]))]
    results = []
    for config in configs:
        constants = {"METRIC": METRICS[metric], **config.kwargs}
        kinds = {name: pointers.get(name, "constexpr" if name in constants else "i32") for name in layerwise_distance_kernel.arg_names}
        aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(kinds.values()) if kind.startswith("*")}
        source = ASTSource(layerwise_distance_kernel.fn, kinds, constants, aligned)
        compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": config.num_warps})
        used = resources_of_cubin(compiled.asm["cubin"], triton.knobs.nvidia.cuobjdump.path)
        name = f"BLOCK {config.kwargs['BLOCK']}, {config.num_warps} warps"
        results.append({"config": name, **used, "shared": compiled.metadata.shared})
    return results


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
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The resources of all cases, compiled from scratch in one process."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("case", CASES)
def test_kernel_compiles_and_keeps_to_its_registers(case, compiled, record_property):
    assert compiled[case], "no configuration was compiled"
    for used in compiled[case]:
        print(f"{case}, {used['config']}: {used['registers']} registers, {used['shared']} bytes of shared memory")
        record_property(used["config"], json.dumps(used))
    assert [used for used in compiled[case] if used["stack"] or used["local"]] == []


if __name__ == "__main__":
    print(json.dumps({case: resources(*arguments) for case, arguments in CASES.items()}))
