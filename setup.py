"""The compiled extensions, nothing else: all metadata is in pyproject.toml.

Two shared objects go into the package: `_C`, the CPU code, and `_cuda.so`, where nvcc is found. Without a C++ compiler the
package installs all the same and `fastdc info` says what is missing. Environment variables decide:

    FASTDC_BUILD=auto|require   require: a compiler that is missing or fails is an error
    FASTDC_CUDA=auto|0|1        0: no CUDA; 1: nvcc that is missing or fails is an error
    FASTDC_CUDA_ARCHITECTURES   compute capabilities to compile for, such as "80 90"; not set: all those below that nvcc knows

A script has `_cuda.so` alone compiled into a folder by `runpy.run_path("setup.py")["build_cuda"](folder)`, called beside setup.py.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")
LEVEL_GIVEN = "-O" in os.environ.get("CFLAGS", "")  # as for a build with sanitizers: it stands
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"]
INSTRUCTION_SETS = {
    # For old processors: not worth the time that -O3 takes to compile.
    "baseline": ["-msse4.2", "-mpopcnt", *([] if LEVEL_GIVEN else ["-O2"])],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": AVX512,
    "avx512_bfloat16": [*AVX512, "-mavx512bf16", "-DFASTDC_BFLOAT16"],  # products are rounded: csrc/cpu/operands.h
}
ROUNDED = {"avx512_bfloat16": "convnet_kernel"}  # which has products
FLAGS = [
    "-std=c++17",
    *([] if LEVEL_GIVEN else ["-O3"]),
    "-g0",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Werror=switch",  # a norm, activation, pooling or metric that some part has no code for
    "-pthread",
    "-Wno-psabi",
]
# Volta, Turing, Ampere (and Ada), Hopper, Blackwell. Newer cards compile the PTX of the newest one for themselves.
CUDA_ARCHITECTURES = ("70", "75", "80", "90", "100", "120")


class BuildKernels(build_ext):
    """Compiles kernel files once per instruction set, then CUDA, and writes what came of it into fastdc/_build_info.py."""

    def run(self) -> None:
        self.report = {"compiler": "", "flags": "", "instruction sets": "", "cpp": "built", "cuda": ""}
        self.package_folder = Path(self.get_ext_fullpath("fastdc._C")).parent
        try:
            super().run()
        except Exception as error:  # whatever a compiler or its absence brings about
            if _choice("FASTDC_BUILD", ("auto", "require")) == "require":
                raise
            self.report["cpp"] = f"not built: {_in_one_line(error)}"
            print(f"fastdc: installed without compiled CPU code ({self.report['cpp']})", file=sys.stderr)
        self.report["cuda"] = build_cuda(self.package_folder)
        self.package_folder.mkdir(parents=True, exist_ok=True)
        lines = ["# Written by setup.py: how the compiled code of this installation was built.", f"BUILD = {self.report!r}"]
        (self.package_folder / "_build_info.py").write_text("\n".join(lines) + "\n")

    def build_extension(self, extension: Extension) -> None:
        command = getattr(self.compiler, "compiler_so_cxx", None) or self.compiler.compiler_so
        self.report["compiler"] = _first_line([command[0], "--version"])
        native = machine() in ("x86_64", "AMD64")
        targets = list(INSTRUCTION_SETS) if native else ["baseline"]
        self.report.update(flags=" ".join(FLAGS), **{"instruction sets": " ".join(targets)})
        options = {"include_dirs": extension.include_dirs, "depends": extension.depends}

        def compile_one(job: tuple[str, list[str], str]) -> list[str]:
            folder, flags, source = job
            return self.compiler.compile([source], output_dir=str(Path(self.build_temp) / folder), extra_postargs=flags, **options)

        plain = [*FLAGS, *(INSTRUCTION_SETS["baseline"] if native else [])]
        kernels = sorted((CSRC / "cpu").glob("*_kernel.cpp"), key=lambda path: -path.stat().st_size)  # the longest first
        jobs = []
        for source in kernels:
            for target in reversed([each for each in targets if ROUNDED.get(each, source.stem) == source.stem]):
                flags = [*FLAGS, *(INSTRUCTION_SETS[target] if native else []), f"-DFASTDC_INSTRUCTION_SET={target}"]
                jobs.append((target, flags, str(source)))
        jobs += [("plain", plain, source) for source in extension.sources[1:]]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            extension.extra_objects += [built for objects in pool.map(compile_one, jobs) for built in objects]
        extension.sources = extension.sources[:1]
        extension.extra_compile_args = plain
        super().build_extension(extension)

    def get_outputs(self) -> list[str]:
        written = [self.package_folder / name for name in ("_cuda.so", "_build_info.py")]
        return [*(path for path in super().get_outputs() if Path(path).exists()), *(str(path) for path in written if path.exists())]


def machine() -> str:
    """The processor to compile for: the one that ARCHFLAGS names, as builds for macOS have it, or this one."""
    named = set(re.findall(r"-arch\s+(\S+)", os.environ.get("ARCHFLAGS", "")))
    if len(named) > 1:
        raise SystemExit(f"ARCHFLAGS names {', '.join(sorted(named))}; expected one processor, since each has flags of its own.")
    return named.pop() if named else platform.machine()


def build_cuda(folder: Path) -> str:
    """Compiles _cuda.so into the folder where nvcc is found and FASTDC_CUDA does not say otherwise; returns what came of it."""
    choice = _choice("FASTDC_CUDA", ("auto", "0", "1"))
    if choice == "0":
        return "not built: FASTDC_CUDA=0"
    try:
        return f"built: {_compile_cuda(folder)}"
    except _NoCudaError as error:
        if choice == "1":
            raise SystemExit(f"FASTDC_CUDA=1, but {error}") from None
        return f"not built: {_in_one_line(error)}"


class _NoCudaError(Exception):
    """Why no CUDA code can be had here."""


def _compile_cuda(folder: Path) -> str:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise _NoCudaError("nvcc is not on the PATH; install the CUDA toolkit, or set FASTDC_CUDA=0.")
    architectures = cuda_architectures(nvcc)
    if not architectures:
        raise _NoCudaError(f"{nvcc} knows none of {', '.join(CUDA_ARCHITECTURES)}; name others with FASTDC_CUDA_ARCHITECTURES.")
    newest = architectures[-1]
    codes = [f"-gencode=arch=compute_{each},code=sm_{each}" for each in architectures]
    codes.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    folder.mkdir(parents=True, exist_ok=True)
    command = [nvcc, "-std=c++17", "-O3", "-shared", "-cudart", "static", "--threads", "0", "-Xcompiler", "-fPIC", *codes, "-I", str(CSRC)]
    sources = [str(path) for path in sorted((CSRC / "cuda").glob("*.cu"))]
    done = subprocess.run([*command, *sources, "-o", str(folder / "_cuda.so")], capture_output=True, text=True, check=False)
    if done.returncode:
        raise _NoCudaError(f"nvcc failed:\n{done.stderr}")
    return f"{_first_line([nvcc, '--version'], last=True)}, {' '.join(f'sm_{each}' for each in architectures)} and PTX for {newest}"


def cuda_architectures(nvcc: str) -> list[str]:
    """What to compile for, the newest last: what FASTDC_CUDA_ARCHITECTURES names, or what this nvcc knows of CUDA_ARCHITECTURES."""
    asked = re.findall(r"[^\s,;]+", os.environ.get("FASTDC_CUDA_ARCHITECTURES", ""))
    wanted = asked or CUDA_ARCHITECTURES
    listed = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=False)
    known = re.findall(r"\bsm_(\w+)", listed.stdout)
    if listed.returncode:  # nvcc before 11.1 has no list: it is asked for each
        known = [each for each in wanted if _succeeds([nvcc, f"-arch=sm_{each}", "-dryrun", "-c", "-x", "cu", os.devnull])]
    unknown = [each for each in asked if each not in known]
    if unknown:
        raise SystemExit(f"FASTDC_CUDA_ARCHITECTURES names {', '.join(unknown)}; {nvcc} knows {', '.join(known) or 'none of those named'}.")
    return sorted(set(wanted) & set(known), key=lambda each: (int(re.sub(r"\D", "", each)), each))


def _choice(name: str, known: tuple[str, ...]) -> str:
    value = os.environ.get(name, "auto")
    if value not in known:
        raise SystemExit(f"{name}={value!r}; expected one of {', '.join(known)}.")
    return value


def _in_one_line(error: object) -> str:
    return " ".join(str(error).split())[:300]


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _first_line(command: list[str], last: bool = False) -> str:
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip().splitlines() or ["unknown"]
    return output[-1 if last else 0]


def extensions() -> list[Extension]:
    """The pybind11 module, without the files that are compiled once per instruction set."""
    import pybind11

    sources = [path for path in [*CSRC.glob("*.cpp"), *(CSRC / "cpu").glob("*.cpp")] if not path.stem.endswith("_kernel")]
    return [
        Extension(
            "fastdc._C",
            sources=sorted(str(path) for path in sources),
            include_dirs=[str(CSRC), pybind11.get_include()],
            depends=[str(path) for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp")],
            extra_link_args=["-pthread"],
            language="c++",
        )
    ]


if __name__ == "__main__":
    if sys.platform == "darwin":  # Python from python.org would compile for two kinds of processors at once
        os.environ["ARCHFLAGS"] = f"-arch {machine()}"
    packages = [*find_packages(include=["fastdc", "fastdc.*"]), "fastdc.kernels"]  # kernels/, which lies beside
    setup(packages=packages, ext_modules=extensions(), cmdclass={"build_ext": BuildKernels})
