"""Which device to use, how much of its memory is free, and how tensors get there."""

from __future__ import annotations

import contextlib
import math

import torch
from torch import Tensor

from fastdc.errors import UsageError
from fastdc.parallel.memory_limits import free_within_limits

_SHARE_OF_FREE = 8  # a piece of work may take one part in eight of a GPU's free memory


def resolve_device(device: str | torch.device) -> torch.device:
    """The device called `device`; "auto" is a CUDA device where there is one, else the CPU.

    Raises:
        UsageError: a device that does not exist here.
    """
    try:
        resolved = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    except (RuntimeError, TypeError):
        raise UsageError(f"unknown device {device!r}; expected auto, cpu, cuda or cuda:N.") from None
    if resolved.type not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r} is not supported; expected auto, cpu, cuda or cuda:N.")
    if resolved.type == "cuda" and (not torch.cuda.is_available() or (resolved.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"device {device!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices. Use 'cpu' or 'auto'.")
    if resolved.type == "cuda":
        torch.cuda.init()  # now, so that the states of its generators can be saved before they are used
    return resolved


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`; the copy to a GPU goes by pinned memory, so that nobody waits for it."""
    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class HostCopy:
    """Numbers [n] on their way from their device; reading them waits for what they depend on, and for nothing that came after."""

    def __init__(self, numbers: Tensor) -> None:
        self._host, self._arrived = numbers, None
        if numbers.is_cuda:
            self._host = torch.empty(numbers.shape, dtype=numbers.dtype, device="cpu", pin_memory=True).copy_(numbers, non_blocking=True)
            self._arrived = torch.cuda.current_stream(numbers.device).record_event()

    def read(self) -> list[float]:
        """The numbers."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host.tolist()


def free_memory(device: torch.device) -> float:
    """Bytes that can be allocated: on a CUDA device those that nobody holds, and those that torch holds and does not use; else those
    that the system has and the limits of a container or a batch system leave, without a limit where none says any."""
    if device.type != "cuda":
        return min(_available(), free_within_limits())
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def _available() -> float:
    """Bytes of the machine's memory that the system can give; infinity where it does not say."""
    try:
        with open("/proc/meminfo") as file:
            return next(1024.0 * int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return math.inf


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` begin anew, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")


def peak_memory(device: torch.device) -> int:
    """The most bytes at once since `reset_peak_memory`: on a CUDA device those that torch held, for graphs as well; else those of this
    process that lay in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        with open("/proc/self/status") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):  # macOS
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def name_of(device: torch.device) -> str:
    """What a device is, for a reader."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({torch.backends.cpu.get_cpu_capability()})"


def check_fits(what: str, size: int, device: torch.device, cure: str) -> None:
    """Raise a UsageError where `what` takes more bytes than are free on `device`."""
    free = free_memory(device)
    if size > free:
        raise UsageError(f"{what} takes {size / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free on {device}; {cure}.")


def memory_share(device: torch.device, most: int) -> int:
    """MiB that a piece of work may take, `most` at the most: of a GPU a part of what is free, a power of two, so that a little more
    or less free memory gives pieces of the same size, and so the same bits."""
    if device.type != "cuda":
        return most
    share = max(1, (int(free_memory(device)) >> 20) // _SHARE_OF_FREE)
    return min(most, 1 << (share.bit_length() - 1))


def is_capturing(device: torch.device) -> bool:
    """Whether what is done on `device` now goes into a CUDA graph, and runs later."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):  # torch asks the stream of the current device
        return torch.cuda.is_current_stream_capturing()
