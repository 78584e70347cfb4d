"""The idx format of MNIST and its kin, plain or gzipped: magic number, sizes, then bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from fastdc.errors import DataError, MissingFileError
from fastdc.parallel.devices import free_memory

_UNSIGNED_BYTE = 8


def read_idx(path: Path) -> Tensor:
    """Read one idx file of unsigned bytes into a uint8 tensor of the shape that it declares.

    Raises:
        MissingFileError: no such file.
        DataError: not an idx file, cut short, or damaged.
    """
    if not path.exists():
        raise MissingFileError(f"{path} is missing; put the dataset's idx files there, or let fastdc download it.")
    if not path.is_file():
        raise DataError(f"{path} is no regular file; expected an idx file.")
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            start = file.read(4)
            if len(start) < 4 or start[:3] != bytes((0, 0, _UNSIGNED_BYTE)):
                raise DataError(f"{path} does not begin like an idx file of unsigned bytes; fetch it again.")
            sizes = file.read(4 * start[3])
            shape = struct.unpack(f">{start[3]}I", sizes) if len(sizes) == 4 * start[3] else ()
            declared = math.prod(shape)
            if 0 in shape:
                raise DataError(f"{path} declares shape {list(shape)}: it holds nothing; expected at least one image or label.")
            if declared > free_memory(torch.device("cpu")):
                raise DataError(f"the header declares {declared:.3g} bytes in {path}, more than there is memory for: fetch it again.")
            content = file.read(declared + 1)  # no more, whatever it unpacks to
    except (OSError, EOFError, OverflowError, MemoryError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); it is cut short or damaged: fetch it again.") from None
    if not shape or len(content) != declared:
        held = f"more than {declared}" if len(content) > declared else str(len(content))
        raise DataError(
            f"{path} holds {held} bytes of data where its header declares {declared} (shape {list(shape)}); it is cut short or damaged: "
            "fetch it again."
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(shape)
