"""The library where only what it cannot do without is installed: no tyro, scikit-learn, scipy, tensorboard, matplotlib, no compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MISSING = ("tyro", "sklearn", "scipy", "tensorboard", "matplotlib")

# Hides the packages, as if they were not installed: nobody finds them.
HIDE = f"""
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *rest):
        return None if name.partition(".")[0] in {MISSING} else self.finder.find_spec(name, *rest)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""

LIBRARY = """
import numpy as np
import torch
import fastdc

generator = np.random.default_rng(0)
images, labels = generator.integers(0, 256, (40, 8, 8), dtype=np.uint8), np.arange(40) % 4
options = {"model": "convnet:width=4,depth=1", "progress": False, "device": "cpu"}
condensed = fastdc.condense((images, labels), 1, iterations=1, matching_steps=2, batch_real=4, init="real", **options)
train, test = fastdc.load_dataset("npz:data.npz")
evaluation = fastdc.evaluate(condensed, test, networks=1, epochs=1, **options)
assert 0 <= evaluation.mean <= 1
weights = [torch.ones(2, 3, requires_grad=True)]
fastdc.match_loss(weights, [torch.zeros(2, 3)]).backward()
assert not set(sys.modules) & {"tyro", "sklearn", "scipy", "tensorboard", "matplotlib"}
"""


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": str(folder), "HOME": str(folder)}  # no compiler
    return subprocess.run([sys.executable, "-c", HIDE + script], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_library_needs_none_of_them(tmp_path: Path) -> None:
    images, labels = np.arange(512, dtype=np.uint8).reshape(8, 8, 8), np.arange(8) % 4
    np.savez(tmp_path / "data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    done = run(LIBRARY, tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_command_line_says_how_tyro_is_installed(tmp_path: Path) -> None:
    done = run("from fastdc.__main__ import run; run()", tmp_path)
    assert done.returncode == 2
    assert done.stderr == "fastdc: the command line needs tyro, which is not installed; pip install tyro brings it.\n"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("fastdc.load_dataset('digits')", "'digits' comes from scikit-learn, which is not installed; pip install scikit-learn brings it."),
        ("fastdc.callbacks.TensorBoard('here')", "tensorboard is not installed; pip install 'fastdc-torch[tensorboard]' brings it."),
    ],
)
def test_what_needs_one_of_them_says_so(tmp_path: Path, call: str, expected: str) -> None:
    done = run(f"import fastdc\ntry:\n    {call}\nexcept fastdc.UsageError as error:\n    print(error)", tmp_path)
    assert done.stdout.rstrip().endswith(expected), done.stderr
