"""Peak memory, each measurement in a process of its own."""

from __future__ import annotations

import subprocess
import sys

# Not ru_maxrss: that of a new process begins with what the process that started it holds.
_PEAK = """
import re
with open("/proc/self/status") as status:
    print(int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1]) / 1024)
"""


def measure(script: str, *arguments: object) -> list[float]:
    """Run `script` with sys.argv[1:] as given: the numbers that it prints, one a line, and the peak of its resident memory in MiB."""
    command = [sys.executable, "-W", "ignore", "-c", script + _PEAK, *map(str, arguments)]
    return [float(line) for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()]


def peak_mib(script: str, *arguments: object) -> float:
    """Peak resident memory of a process that runs `script`, which prints nothing."""
    (peak,) = measure(script, *arguments)
    return peak
