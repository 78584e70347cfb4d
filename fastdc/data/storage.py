"""Where the pixels of a set lie: in memory, or where they do not fit, in a file of which the system reads what is drawn."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from fastdc.errors import RunError
from fastdc.parallel.devices import free_memory

_SHARE = 0.5  # of the free memory may a set take
FOLDER = Path("~/.cache/fastdc/pixels")


def empty_pixels(shape: tuple[int, ...]) -> Tensor:
    """Room for uint8 images of this shape; beyond half of the free memory it is a file without a name, gone with the tensor.

    Raises:
        RunError: the file cannot be made.
    """
    size = math.prod(shape)
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of a launcher, which load at the same time
    if size <= _SHARE / neighbours * free_memory(torch.device("cpu")):
        return torch.empty(shape, dtype=torch.uint8, device="cpu")
    folder = FOLDER.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder)
        try:
            with open(descriptor, "wb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)  # a disk too full is found here, and not when a page is written
                else:
                    file.truncate(size)
            return torch.from_file(name, shared=True, size=size, dtype=torch.uint8).view(shape)
        finally:
            os.unlink(name)
    except OSError as error:
        raise RunError(
            f"images of {size / 1e9:.1f} GB do not fit into memory, and {folder} cannot take them ({error.strerror or error}); "
            "give a smaller image_size, or free some space."
        ) from None
