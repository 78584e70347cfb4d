"""The CUDA kernel compiles for every architecture, without spills: checks that need nvcc, but no GPU."""

import os
import re
import runpy
import shutil
import subprocess

import pytest
from helpers import ROOT

SOURCE = ROOT / "csrc" / "cuda" / "layerwise_distance.cu"
SYMBOLS = {"fastdc_cuda_layerwise_distance", "fastdc_cuda_unusable", "fastdc_cuda_metric_name", "fastdc_cuda_launches"}
METRICS = re.findall(r'^ *\{"\w+", Metric::', (ROOT / "csrc" / "row_distance.h").read_text(), flags=re.MULTILINE)
KERNELS = 4 * len(METRICS)  # one for each dtype

ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for '(?P<arch>sm_\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers[^\n]*?(?P<shared>\d+) bytes smem",
    re.DOTALL,
)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The shared object, the architectures in it, and what ptxas said about its kernels."""
    if shutil.which("nvcc") is None:
        reason = "nvcc is not on PATH"
        (pytest.fail if os.environ.get("FASTDC_REQUIRE_CUDA") == "1" else pytest.skip)(reason)
    library = tmp_path_factory.mktemp("cuda") / "_cuda.so"
    architectures = runpy.run_path(str(ROOT / "setup.py"))["cuda_architectures"]("nvcc")
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in architectures]
    options = ["-std=c++17", "-O3", "-cudart", "static", "-Xcompiler", "-fPIC", "-shared", "-Xptxas", "-v"]
    done = subprocess.run(["nvcc", *options, *targets, "-o", library, SOURCE], capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "warning" not in output
    return library, architectures, [match.groupdict() for match in ENTRY.finditer(output)]


def test_every_kernel_fits_into_registers(compiled):
    _, architectures, kernels = compiled
    assert sorted(kernel["arch"] for kernel in kernels) == sorted(KERNELS * [f"sm_{arch}" for arch in architectures])
    assert len({(kernel["name"], kernel["arch"]) for kernel in kernels}) == len(kernels)
    for kernel in kernels:
        print(f"{kernel['arch']} {kernel['registers']} registers, {kernel['shared']} bytes of shared memory: {kernel['name']}")
    spilling = [kernel for kernel in kernels if any(int(kernel[key]) for key in ("stack", "stores", "loads"))]
    assert not spilling


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not on PATH")
def test_the_library_exports_its_symbols_and_brings_its_runtime(compiled):
    library = compiled[0]
    symbols = subprocess.run(["readelf", "--dyn-syms", "--wide", library], capture_output=True, text=True, check=True).stdout
    rows = [fields for fields in map(str.split, symbols.splitlines()) if len(fields) == 8]
    defined = {name for *_, binding, _, section, name in rows if binding == "GLOBAL" and section != "UND"}
    assert defined >= SYMBOLS
    dynamic = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" in dynamic
    assert "libcuda" not in dynamic  # neither libcudart nor the driver, which the runtime looks up when it is first used
