"""One seed decides everything: independent streams of random numbers, each named after what draws from it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator

import torch

from fastdc.errors import UsageError
from fastdc.options.checks import given
from fastdc.runtime.forking import FreshLock

_global_generators = FreshLock(threading.RLock)


def derive_seed(seed: int, *stream: str | int) -> int:
    """A 63-bit seed for one named stream: the same on every machine, unrelated to that of any other stream.

    >>> derive_seed(0, "network", 3) == derive_seed(0, "network", 3) != derive_seed(0, "network", 4)
    True
    """
    text = json.dumps([seed, *stream])  # in which no two streams look alike
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def make_generator(seed: int, *stream: str | int) -> torch.Generator:
    """A CPU generator for one named stream."""
    return torch.Generator().manual_seed(derive_seed(seed, *stream))


@contextlib.contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed torch's global generators, for code that draws from nothing else, and put their states back afterwards.

    One thread at a time. Not `torch.manual_seed`: where CUDA is not in use yet, that would decide what it draws once it is.
    """
    devices = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    with _global_generators, torch.random.fork_rng(devices=devices):
        for generator in (torch.default_generator, *(torch.cuda.default_generators[number] for number in devices)):
            generator.manual_seed(seed)
        yield


def check_seed(seed: object) -> None:
    """Raise a UsageError unless `seed` is a whole number of 0 or more, below 2^63."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 63:
        raise UsageError(f"seed is {given(seed)}; expected a whole number of 0 or more, below 2^63.")
