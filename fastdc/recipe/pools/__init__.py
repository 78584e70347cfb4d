"""Whose networks images are matched with, and what they learn between two steps: a registry, one file each."""

from __future__ import annotations

from fastdc.options.registry import Registry
from fastdc.recipe.pools.base import Pool
from fastdc.recipe.pools.fresh import Fresh
from fastdc.recipe.pools.pretrained import Pretrained

__all__ = ["POOLS", "Pool"]

POOLS: Registry[Pool] = Registry("pool", {"fresh": Fresh, "pretrained": Pretrained})
