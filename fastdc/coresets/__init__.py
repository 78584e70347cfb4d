"""Ways of choosing real images: one file each."""

from fastdc.coresets.random import random

__all__ = ["random"]
