"""Triton kernels, imported as `fastdc.kernels`.

This package itself imports nothing, so that it can be imported where Triton is not installed; each module in it needs Triton.
"""

from __future__ import annotations

if __name__ != "fastdc.kernels":
    raise ImportError(f"the kernels were imported as {__name__!r}; expected 'fastdc.kernels'. Install fastdc and import them from it.")
