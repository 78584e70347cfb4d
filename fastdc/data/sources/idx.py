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

_UNSIGNED_BYTE = 8


def read_idx(path: Path) -> Tensor:
    """Read one idx file of unsigned bytes into a uint8 tensor of the shape that it declares.

    Raises:
        MissingFileError: no such file.
        DataError: not an idx file, cut short, or damaged.
    """
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except FileNotFoundError:
        raise MissingFileError(f"{path} is missing; put the dataset's idx files there, or let fastdc download it.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); it is cut short or damaged: fetch it again.") from None
    if len(content) < 4 or content[:3] != bytes((0, 0, _UNSIGNED_BYTE)):
        raise DataError(f"{path} does not begin like an idx file of unsigned bytes; fetch it again.")
    rank = content[3]
    head = 4 + 4 * rank
    shape = struct.unpack(f">{rank}I", content[4:head]) if len(content) >= head else ()
    if 0 in shape:
        raise DataError(f"{path} declares shape {list(shape)}: it holds nothing; expected at least one image or label.")
    if not shape or len(content) - head != math.prod(shape):
        raise DataError(
            f"{path} holds {max(0, len(content) - head)} bytes of data where its header declares {math.prod(shape)} "
            f"(shape {list(shape)}); it is cut short or damaged: fetch it again."
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=head).view(shape)
