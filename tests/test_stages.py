"""The compiled CPU code by itself: its headers together, and its stages, each against plain double arithmetic and its own adjoint."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pybind11
import pytest
from helpers import INSTRUCTION_SETS, ROOT, needs_bfloat16

STAGES = ["first_conv", "winograd", "patch_conv", "norm_act_pool", "window_pool", "linear_loss"]
CHECKS_ONLY = {"winograd": "test", "norm_act_pool": "quick"}  # their other modes are longer, or measure
FLAGS = ["-std=c++17", "-O2", "-ffp-contract=fast", "-fno-math-errno", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ here")


@needs_compiler
@pytest.mark.skipif(not Path(sysconfig.get_path("include"), "Python.h").exists(), reason="Python's headers are not there")
@pytest.mark.parametrize("order", [list, reversed], ids=["by name", "backwards"])
def test_headers_stand_together_in_any_order(order: Callable[[Any], Any], tmp_path: Path) -> None:
    headers = sorted(path.relative_to(ROOT / "csrc") for path in (ROOT / "csrc").rglob("*.h"))
    source = tmp_path / "all.cpp"
    source.write_text("".join(f'#include "{header}"\n' for header in order(headers)))
    folders = [ROOT / "csrc", pybind11.get_include(), sysconfig.get_path("include")]
    command = ["g++", *FLAGS, "-fsyntax-only", *(f"-I{folder}" for folder in folders), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_compiler
@pytest.mark.skipif(not INSTRUCTION_SETS, reason="fastdc._C is not built, which says what this processor runs")
@pytest.mark.parametrize("instruction_set", [INSTRUCTION_SETS[0], "avx2"] if "avx512" in INSTRUCTION_SETS else INSTRUCTION_SETS[:1])
@pytest.mark.parametrize("stage", STAGES)
def test_stage(stage: str, instruction_set: str, tmp_path: Path) -> None:
    options = flags_of(instruction_set) if len(INSTRUCTION_SETS) > 1 else []
    run_stage(stage, options, tmp_path)


@needs_compiler
@needs_bfloat16
def test_rounded_products(tmp_path: Path) -> None:
    run_stage("operands", flags_of("avx512_bfloat16"), tmp_path)


def flags_of(instruction_set: str) -> list[str]:
    return runpy.run_path(str(ROOT / "setup.py"), run_name="options")["INSTRUCTION_SETS"][instruction_set]


def run_stage(stage: str, options: list[str], tmp_path: Path) -> None:
    """Compile the test of a stage with these options, and run it."""
    source, program = ROOT / "tests" / "stages" / f"test_{stage}.cpp", tmp_path / stage
    command = ["g++", *FLAGS, *options, "-I", str(ROOT), str(source), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program), *filter(None, [CHECKS_ONLY.get(stage)])], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
