"""What several test files share: the relative error, networks and engines to compare, small data, callbacks, and processes."""

from __future__ import annotations

import hashlib
import os
import platform
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset

from fastdc.callbacks import Event, IterationDone
from fastdc.data import ImageData
from fastdc.engines import ENGINES, Engine, TorchEngine, make_engine, resolve_engine
from fastdc.models import build
from fastdc.models.parts import ACTIVATIONS, NORMS, POOLINGS
from fastdc.runtime import compiled

ROOT = Path(__file__).parent.parent
INSTRUCTION_SETS: list[str] = compiled.extension.usable_instruction_sets() if compiled.extension is not None else []
needs_extension = pytest.mark.skipif(compiled.extension is None, reason=f"fastdc._C is not there ({compiled.state('cpp')})")

needs_bfloat16 = pytest.mark.skipif(
    compiled.extension is None or not compiled.extension.BFLOAT16, reason="this processor has no AVX-512 BF16, or fastdc._C is not there"
)


def relative(found: Tensor, expected: Tensor) -> float:
    """The error in the 2-norm, in double, relative to what is expected; where that is zero, the error itself."""
    assert found.shape == expected.shape
    difference, norm = (found.cpu().double() - expected.cpu().double()).norm().item(), expected.double().norm().item()
    return difference / norm if norm else difference


# Networks and engines

AUTO = ENGINES.entry(resolve_engine("auto", build("mlp:width=8", 1, 10, (8, 8))))
"""The engine that small networks are computed by on the CPU where none is named."""

VARIANTS = [
    "mlp:width=16",
    *(f"convnet:width=8,norm={norm}" for norm in NORMS),
    *(f"convnet:width=8,activation={activation}" for activation in ACTIVATIONS if activation != "relu"),
    *(f"convnet:width=8,pooling={pooling}" for pooling in POOLINGS if pooling != "avg"),
    *(f"convnet:width=4,depth={depth}" for depth in (1, 2, 4)),
    "convnet:width=8,norm=batch,activation=sigmoid,pooling=max",
]
# The paper's other networks, and an image that each of them takes.
NETWORKS = [
    ("lenet", (1, 28, 28)),
    ("alexnet", (3, 16, 16)),
    ("alexcifarnet", (3, 13, 12)),
    ("vgg11", (1, 28, 28)),
    ("vgg11:norm=batch", (3, 8, 8)),
    ("resnet18", (1, 16, 16)),
    ("resnet18:norm=batch", (3, 9, 8)),
    ("resnet18:norm=batch,downsampling=avgpool", (1, 8, 8)),
]


def make_pair(
    spec: str, size: tuple[int, int, int] = (1, 28, 28), dtype: torch.dtype = torch.float64, classes: int = 10
) -> tuple[Engine, nn.Module, Tensor]:
    """The reference engine of a network, with statistics in its batch norms; the network, and its weights [P]."""
    torch.manual_seed(0)
    module = build(spec, size[0], classes, size[1:]).to(dtype)
    reference = make_engine("reference", module)
    theta = reference.layout.flatten(module)
    reference.freeze_statistics(theta, torch.randn(16, *size, dtype=dtype))
    return reference, module, theta


def chunked(module: nn.Module, theta: Tensor, image: Tensor, images: int) -> TorchEngine:
    """A torch engine whose chunks hold `images` images, in passes of first and of second order."""

    class Chunked(TorchEngine):
        def _images_per_chunk(self, theta: Tensor, image: Tensor, budget: int) -> int:
            return images

    return Chunked(module)


class Linear(nn.Module):
    """A network of one linear layer."""

    def __init__(self, channels: int, num_classes: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.linear = nn.Linear(channels * image_size[0] * image_size[1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))


class Dropping(nn.Module):
    """An MLP with dropout as a module."""

    def __init__(self, channels: int, num_classes: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Linear(channels * image_size[0] * image_size[1], 32)
        self.second = nn.Linear(32, num_classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.dropout(self.first(images.flatten(1)).relu()))


class DroppingByFunction(Dropping):
    """The same by a call of a function, which no search through the modules finds."""

    def __init__(self, channels: int, num_classes: int, image_size: tuple[int, int]) -> None:
        super().__init__(channels, num_classes, image_size)
        del self.dropout

    def forward(self, images: Tensor) -> Tensor:
        return self.second(F.dropout(self.first(images.flatten(1)).relu(), 0.5, self.training))


# Data


def noise_data(counts: Sequence[int], channels: int = 1, side: int = 8, seed: int = 0) -> ImageData:
    """Noise images of classes of these sizes, in mixed order."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    images = torch.randint(256, (len(labels), channels, side, side), generator=generator, dtype=torch.uint8)
    return ImageData.of(images, labels, class_names=[f"class {c}" for c in range(len(counts))])


class Items(Dataset[Any]):
    """A map-style dataset of these items, which counts how often one is read; with names of classes where they are given."""

    def __init__(self, items: Sequence[Any], classes: Sequence[str] | None = None) -> None:
        self.items, self.reads = items, 0
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return self.items[index]


IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of bytes as a file of MNIST's format."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


# Callbacks


def stop_at(kind: type = IterationDone, iteration: int | None = None) -> Callable[[Event], None]:
    """A callback that ends a run with InterruptedError at an event of this kind, of this iteration or of any."""

    def stop(event: Event) -> None:
        if isinstance(event, kind) and iteration in (None, getattr(event, "iteration", None)):
            raise InterruptedError

    return stop


# Memory and processes


class LargestResult(TorchDispatchMode):
    """Notes in `bytes` how much the largest result of an operator holds, views of `storage` aside."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        super().__init__()
        self.storage, self.bytes = storage.data_ptr(), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() != self.storage:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


def run_apart(code: str, timeout: int) -> subprocess.CompletedProcess[str]:
    """In a process of its own, for what may crash or hang; with the fastdc that this process has."""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(compiled.__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=timeout, check=False)


needs_signals = pytest.mark.skipif(os.name != "posix", reason="whether a process is alive is asked by a signal, as posix has them")


def leave_unwritten(*folders: Path) -> list[Path]:
    """Leave in each folder what a killed process and this one were writing; returns the files of this one, which is alive."""
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    machine = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
    for folder in folders:
        folder.mkdir(parents=True)
        for process in (killed.pid, os.getpid()):
            (folder / f".{machine}.{process}.0123abcd.fastdc.tmp").touch()
    return [folder / f".{machine}.{os.getpid()}.0123abcd.fastdc.tmp" for folder in folders]
