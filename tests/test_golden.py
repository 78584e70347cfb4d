"""What must not change from one version to the next: files that earlier ones wrote, and what each recipe learns.

`python tests/golden/make.py` makes the files anew, after a change that is meant to change them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from golden.make import HERE, RUN, VERSION, run_of
from helpers import needs_extension, relative
from safetensors.torch import load_file
from tolerances import GOLDEN_FILES
from torch import Tensor

import fastdc
from fastdc.condensed import CondensedDataset
from fastdc.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")
ENGINES = ["reference", "torch", "torch:memory=1", pytest.param("native", marks=needs_extension)]


def assert_learned(images: Tensor, recipe: str) -> None:
    golden = load_file(HERE / "runs.safetensors")
    start = golden[f"{recipe} start"]
    assert relative(images - start, golden[recipe] - start) < GOLDEN_FILES


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("recipe", fastdc.RECIPES)
def test_every_engine_learns_the_golden_images(recipe: str, engine: str) -> None:
    assert_learned(fastdc.condense("digits", engine=engine, device="cpu", **run_of(recipe)).images, recipe)


def test_a_run_that_this_version_stopped_goes_on_to_the_golden_images(tmp_path: Path) -> None:
    folder = shutil.copytree(HERE / f"run-{VERSION}", tmp_path / "run")
    assert_learned(fastdc.condense("digits", engine="reference", device="cpu", out=folder, **RUN).images, "dc")
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == RUN["iterations"]


def test_a_run_that_version_0_1_stopped_is_refused_with_a_sentence_and_stays(tmp_path: Path) -> None:
    folder = shutil.copytree(HERE / "run-0.1", tmp_path / "run")
    with pytest.raises(UsageError, match=r"holds a run of fastdc 0\.1\.0.*finish it with that version, or use another folder"):
        fastdc.condense("digits", engine="reference", device="cpu", out=folder, **RUN)
    for file in (HERE / "run-0.1").iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_what_earlier_versions_condensed_is_read(version: str) -> None:
    path = HERE / f"condensed-{version}.safetensors"
    condensed, written = CondensedDataset.load(path), load_file(path)
    train, _ = fastdc.load_dataset("digits")
    assert torch.equal(condensed.images, written["images"])
    assert condensed.labels.tolist() == [c for c in range(10) for _ in range(condensed.ipc)]
    assert (condensed.mean, condensed.std, condensed.class_names) == (train.mean, train.std, train.class_names)
    assert condensed.provenance["versions"]["fastdc"].startswith(f"{version}.")
    assert (condensed.provenance["fingerprint"] == train.fingerprint) == (version == VERSION)  # 0.1 made them in another way
