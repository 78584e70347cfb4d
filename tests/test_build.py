"""The build: with and without compilers, as its environment variables ask, and what goes into a source distribution."""

from __future__ import annotations

import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT

pytest.importorskip("pybind11", reason="pybind11 is missing: pip install -e '.[test]' brings it")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the source tree, with nothing built in it."""
    for name in ("csrc", "kernels", "fastdc"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "_build_info.py", "__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run_setup(source: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("FASTDC_", "CFLAGS", "CXXFLAGS"))}
    return subprocess.run(
        [sys.executable, "setup.py", *command], cwd=source, env={**inherited, **environment}, capture_output=True, text=True, check=False
    )


def run_in(library: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with the package of this folder alone: an editable installation would lend it its compiled code."""
    alone = "import sys; sys.meta_path[:] = [finder for finder in sys.meta_path if 'Editable' not in repr(finder)]; "
    environment = {**os.environ, "PYTHONPATH": str(library)}
    command = [sys.executable, "-W", "ignore", "-c", alone + script]
    return subprocess.run(command, cwd=library, env=environment, capture_output=True, text=True, check=False)


def build_info(source: Path) -> dict[str, str]:
    found = next((source / "build").glob("lib*/fastdc/_build_info.py"))
    return runpy.run_path(str(found))["BUILD"]


NO_COMPILER = {"CC": "no-such-compiler", "CXX": "no-such-compiler"}


def test_without_a_compiler_the_package_is_built_and_the_reason_kept(source: Path) -> None:
    done = run_setup(source, "build", FASTDC_CUDA="0", **NO_COMPILER)
    assert done.returncode == 0, done.stderr
    assert "installed without compiled CPU code" in done.stderr
    assert build_info(source)["cpp"].startswith("not built: ")
    assert "no-such-compiler" in build_info(source)["cpp"]
    assert not list((source / "build").glob("lib*/fastdc/_C*.so"))


def test_a_package_without_compiled_code_works_and_says_why_there_is_none(source: Path) -> None:
    run_setup(source, "build", FASTDC_CUDA="0", **NO_COMPILER)
    library = next((source / "build").glob("lib*"))
    done = run_in(library, "import fastdc, torch; fastdc.match_loss([torch.ones(2, 2)], [torch.ones(2, 2)])")
    assert done.returncode == 0, done.stderr
    done = run_in(library, "from fastdc.cli.info import report; print(report())")
    assert done.returncode == 0, done.stderr
    assert "backend cpp" in done.stdout
    assert "fastdc._C is not there (not built: " in done.stdout


def test_a_compiler_that_is_required_and_missing_is_an_error(source: Path) -> None:
    done = run_setup(source, "build", FASTDC_BUILD="require", FASTDC_CUDA="0", **NO_COMPILER)
    assert done.returncode != 0
    assert "no-such-compiler" in done.stderr


def test_cuda_that_is_required_without_nvcc_is_a_clear_error(source: Path) -> None:
    done = run_setup(source, "build", FASTDC_CUDA="1", PATH="", **NO_COMPILER)
    assert done.returncode != 0
    assert "FASTDC_CUDA=1, but nvcc is not on the PATH" in done.stderr


@pytest.mark.parametrize("variable", ["FASTDC_BUILD", "FASTDC_CUDA"])
def test_a_value_that_is_not_known_is_refused(source: Path, variable: str) -> None:
    done = run_setup(source, "build", **{"FASTDC_CUDA": "0", variable: "yes"}, **NO_COMPILER)
    assert done.returncode != 0
    assert f"{variable}='yes'; expected one of" in done.stderr


def test_without_nvcc_the_reason_is_kept(source: Path) -> None:
    done = run_setup(source, "build", PATH="", **NO_COMPILER)
    assert done.returncode == 0, done.stderr
    assert build_info(source)["cuda"].startswith("not built: nvcc is not on the PATH")


NVCC = """#!/bin/sh
echo "$@" >> {calls}
case "$*" in
  *--version*) echo "Build cuda_12.4" ;;
  --list-gpu-code) {list} ;;
  *-dryrun*) case "$1" in -arch=sm_[89]0) ;; *) exit 1 ;; esac ;;
  *) while [ "$1" != -o ]; do shift; done; echo code > "$2" ;;
esac
"""
LISTS = {"12": "for a in 50 80 86 89 90 90a; do echo sm_$a; done", "11.0": "echo \"Unknown option 'list-gpu-code'\" >&2; exit 1"}


@pytest.fixture(params=LISTS)
def nvcc(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that writes what it is asked to a file and knows sm_80 and sm_90 of those that are wanted; with and without a list."""
    folder = tmp_path_factory.mktemp("cuda")
    program = folder / "nvcc"
    program.write_text(NVCC.format(calls=folder / "calls", list=LISTS[request.param]))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for variable in ("FASTDC_CUDA", "FASTDC_CUDA_ARCHITECTURES"):
        monkeypatch.delenv(variable, raising=False)
    return folder / "calls"


def build_cuda(folder: Path) -> str:
    return runpy.run_path(str(ROOT / "setup.py"))["build_cuda"](folder)


def codes(nvcc: Path) -> list[str]:
    return re.findall(r",code=(\w+)", nvcc.read_text())


def test_cuda_is_compiled_for_what_this_nvcc_knows(nvcc: Path, tmp_path: Path) -> None:
    assert build_cuda(tmp_path / "new") == "built: Build cuda_12.4, sm_80 sm_90 and PTX for 90"
    assert codes(nvcc) == ["sm_80", "sm_90", "compute_90"]
    assert (tmp_path / "new" / "_cuda.so").is_file()


@pytest.mark.parametrize("named", ["90 80", "80,90", "80; 90 90"])
def test_the_architectures_can_be_named(nvcc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("FASTDC_CUDA_ARCHITECTURES", named)
    build_cuda(tmp_path)
    assert codes(nvcc) == ["sm_80", "sm_90", "compute_90"]
    monkeypatch.setenv("FASTDC_CUDA_ARCHITECTURES", "80")
    assert build_cuda(tmp_path) == "built: Build cuda_12.4, sm_80 and PTX for 80"


@pytest.mark.usefixtures("nvcc")
def test_an_architecture_that_nvcc_does_not_know_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDC_CUDA_ARCHITECTURES", "80 100 sm_90")
    with pytest.raises(SystemExit, match=r"FASTDC_CUDA_ARCHITECTURES names 100, sm_90; \S*nvcc knows (50, )?80"):
        build_cuda(tmp_path)
    assert not list(tmp_path.glob("*.so"))


@pytest.mark.usefixtures("nvcc")
def test_an_nvcc_that_knows_none_of_the_architectures_builds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = runpy.run_path(str(ROOT / "setup.py"))
    setup["build_cuda"].__globals__["CUDA_ARCHITECTURES"] = ("140",)
    assert setup["build_cuda"](tmp_path).startswith("not built: ")
    monkeypatch.setenv("FASTDC_CUDA", "1")
    with pytest.raises(SystemExit, match="FASTDC_CUDA=1, but "):
        setup["build_cuda"](tmp_path)


@pytest.mark.parametrize("nvcc", ["12"], indirect=True)
def test_a_build_says_what_cuda_was_compiled_for(source: Path, nvcc: Path) -> None:
    done = run_setup(source, "build", **NO_COMPILER)
    assert done.returncode == 0, done.stderr
    assert build_info(source)["cuda"] == "built: Build cuda_12.4, sm_80 sm_90 and PTX for 90"
    assert len(list((source / "build").glob("lib*/fastdc/_cuda.so"))) == 1
    assert nvcc.is_file()


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ here")
def test_the_build_is_whole_and_records_compiler_flags_and_instruction_sets(source: Path) -> None:
    done = run_setup(source, "build", FASTDC_BUILD="require", FASTDC_CUDA="0")
    assert done.returncode == 0, done.stderr
    assert ": warning: " not in done.stderr  # as compilers write it
    info = build_info(source)
    assert info["cpp"] == "built"
    assert "g++" in info["compiler"]
    assert "-O3" in info["flags"]
    assert "-march=native" not in done.stdout
    assert "baseline" in info["instruction sets"]
    assert len(list((source / "build").glob("lib*/fastdc/_C*.so"))) == 1


@pytest.fixture
def with_leftovers(source: Path) -> Path:
    """The same, with what a build in place has written into the package."""
    for name in ("_build_info.py", "_cuda.so", "_C.cpython-39-x86_64-linux-gnu.so"):
        (source / "fastdc" / name).write_text("# of another build\n")
    return source


def package_files(source: Path) -> set[Path]:
    """Files of the package, where it is installed, without what a build writes."""
    found = [path.relative_to(source) for path in (source / "fastdc").rglob("*") if path.is_file() and path.suffix not in (".so", ".pyc")]
    kernels = [Path("fastdc/kernels", path.name) for path in (source / "kernels").glob("*.py")]
    return {*found, *kernels} - {Path("fastdc/_build_info.py")}


def test_a_source_distribution_holds_what_a_build_needs_and_nothing_that_one_left(with_leftovers: Path) -> None:
    source = with_leftovers
    wanted = [path.relative_to(source) for folder in ("csrc", "kernels") for path in (source / folder).rglob("*") if path.is_file()]
    wanted += [path for path in package_files(source) if path.parts[1] != "kernels"]
    done = run_setup(source, "-q", "sdist")
    assert done.returncode == 0, done.stderr
    with tarfile.open(next((source / "dist").glob("*.tar.gz"))) as archive:
        held = {Path(*Path(name).parts[1:]) for name in archive.getnames()}
    assert {path for path in wanted if "__pycache__" not in path.parts} <= held
    assert [path for path in held if path.suffix == ".so" or path.name == "_build_info.py"] == []


def test_a_wheel_holds_the_package_alone(with_leftovers: Path) -> None:
    source = with_leftovers
    wanted = package_files(source)
    done = run_setup(source, "-q", "bdist_wheel", FASTDC_CUDA="0", **NO_COMPILER)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next((source / "dist").glob("*.whl"))) as wheel:
        held = {Path(name) for name in wheel.namelist()}
        assert b"of another build" not in wheel.read("fastdc/_build_info.py")
    assert {path for path in held if not path.parts[0].endswith(".dist-info")} == {*wanted, Path("fastdc/_build_info.py")}


@pytest.mark.parametrize(
    ("flags", "expected"), [("-arch arm64", "arm64"), ("-arch  x86_64 -arch x86_64", "x86_64"), ("", platform.machine())]
)
def test_code_is_compiled_for_the_processor_that_is_named(monkeypatch: pytest.MonkeyPatch, flags: str, expected: str) -> None:
    monkeypatch.setenv("ARCHFLAGS", flags)
    assert runpy.run_path(str(ROOT / "setup.py"))["machine"]() == expected


def test_two_processors_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHFLAGS", "-arch arm64 -arch x86_64")
    with pytest.raises(SystemExit, match="ARCHFLAGS names arm64, x86_64; expected one"):
        runpy.run_path(str(ROOT / "setup.py"))["machine"]()


def test_the_kernels_cannot_be_imported_by_the_name_of_their_folder(monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delitem(sys.modules, "kernels", raising=False)
    with pytest.raises(ImportError, match=r"expected 'fastdc\.kernels'"):
        __import__("kernels")
