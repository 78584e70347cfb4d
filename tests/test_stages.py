"""The stages of the native engine, each against plain double arithmetic and its own adjoint: C++ programs, compiled here and run."""

from __future__ import annotations

import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import INSTRUCTION_SETS, ROOT

STAGES = ["first_conv", "winograd", "norm_act_pool", "linear_loss"]
CHECKS_ONLY = {"winograd": "test", "norm_act_pool": "quick"}  # their other modes are longer, or measure
FLAGS = ["-std=c++17", "-O2", "-ffp-contract=fast", "-fno-math-errno", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ here")
@pytest.mark.skipif(not INSTRUCTION_SETS, reason="fastdc._C is not built, which says what this processor runs")
@pytest.mark.parametrize("instruction_set", [INSTRUCTION_SETS[0], "avx2"] if "avx512" in INSTRUCTION_SETS else INSTRUCTION_SETS[:1])
@pytest.mark.parametrize("stage", STAGES)
def test_stage(stage: str, instruction_set: str, tmp_path: Path) -> None:
    options = runpy.run_path(str(ROOT / "setup.py"), run_name="options")["INSTRUCTION_SETS"] if len(INSTRUCTION_SETS) > 1 else {}
    source, program = ROOT / "tests" / "stages" / f"test_{stage}.cpp", tmp_path / stage
    command = ["g++", *FLAGS, *options.get(instruction_set, []), "-I", str(ROOT), str(source), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program), *filter(None, [CHECKS_ONLY.get(stage)])], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
