"""The command `info`: what this installation is made of and what it can use here."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import ClassVar

import torch

from fastdc.cli.arguments import Common
from fastdc.engines import ENGINES
from fastdc.metrics.backends import BACKENDS, unsupported_reasons
from fastdc.models import build
from fastdc.parallel.world import world
from fastdc.runtime.compiled import BUILD
from fastdc.runtime.versions import version_of


def report() -> str:
    """Versions, devices, threads, engines and backends, why one cannot be used, and how the build went, as lines of text."""
    packages = ("torchvision", "triton", "numpy", "safetensors", "scikit-learn")
    devices = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    lines = [
        ("fastdc", version_of("fastdc-torch")),
        ("python", platform.python_version()),
        ("torch", torch.__version__),
        *((package, version_of(package)) for package in packages),
        ("devices", ", ".join(["cpu", *devices]) + ("" if devices else " (no CUDA device)")),
        ("processor", torch.backends.cpu.get_cpu_capability()),
        ("threads", str(torch.get_num_threads())),
        *((f"process {rank}", what) for rank, what in enumerate(world().gathered(_this_process())) if world().size > 1),
    ]
    for name in ENGINES:
        reasons = ENGINES.entry(name).unsupported_reasons(build("convnet", 1, 10, (28, 28)))
        lines.append((f"engine {name}", "; ".join(reasons) or "usable"))
    for name, backend in BACKENDS.items():
        against = {kind: unsupported_reasons(name, kind, torch.float32) for kind in ("cpu", "cuda")}
        served = [kind for kind, reasons in against.items() if not reasons]
        lines.append((f"backend {name}", f"usable on {', '.join(served)}" if served else "; ".join(against[backend.MEANT_FOR])))
    lines += [(f"build, {key}", value) for key, value in BUILD.items() if value]
    width = max(len(key) for key, _ in lines)
    return "\n".join(f"{key:<{width}}  {value}" for key, value in lines)


def _this_process() -> str:
    """Where one of several processes runs, and on what."""
    device = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
    return f"{platform.node()}, {device}, {torch.get_num_threads()} threads, fastdc {version_of('fastdc-torch')}, torch {torch.__version__}"


@dataclass(frozen=True, kw_only=True)
class Info(Common):
    """Print versions, devices, threads, engines and backends, and for each that cannot be used the reason."""

    shared: ClassVar[bool] = True

    def run(self) -> None:
        """Print the report."""
        print(report())
