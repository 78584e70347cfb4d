"""Peak memory, each in a process of its own: of a matching step over images per class, and of a script with either loss."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from processes import peak_mib

STEP = """
import sys, torch
from fastdc.engines import make_engine
from fastdc.models import build
name, ipc = sys.argv[1], int(sys.argv[2])
module = build("convnet", 1, 10, (28, 28))
engine = make_engine(name, module)
theta, images = engine.layout.flatten(module), torch.randn(10, max(ipc, 1), 1, 28, 28)
if ipc:
    engine.match(theta, images, engine.class_gradients(theta, torch.randn(10, 256, 1, 28, 28)), "layerwise_cosine")
"""

# A plain double-backward script, as authors of papers write it: the loss of all classes, then one backward pass.
SCRIPT = """
import sys, torch
import torch.nn.functional as F
import fastdc
from fastdc.engines.reference import plain_distance
from fastdc.models import build
name, ipc = sys.argv[1], int(sys.argv[2])
module = build("convnet", 1, 10, (28, 28))
weights, synthetic, loss = list(module.parameters()), torch.randn(10, ipc, 1, 28, 28, requires_grad=True), torch.zeros(())
for c in range(10):
    real = torch.autograd.grad(F.cross_entropy(module(torch.randn(64, 1, 28, 28)), torch.full((64,), c)), weights)
    gradients = torch.autograd.grad(F.cross_entropy(module(synthetic[c]), torch.full((ipc,), c)), weights, create_graph=True)
    loss = loss + (fastdc.match_loss(gradients, real) if name == "match_loss" else plain_distance(gradients, real, "layerwise_cosine"))
    del gradients, real
loss.backward()
"""


def bench_memory_does_not_grow_with_ipc(record: Callable[..., None]) -> None:
    idle = peak_mib(STEP, "torch", 0)  # the interpreter with its imports
    rows = {
        (name, ipc): peak_mib(STEP, name, ipc)
        for name, ipc in [("reference", 1), ("reference", 50), *((name, ipc) for name in ("torch", "native") for ipc in (1, 50, 500))]
    }
    for (name, ipc), peak in rows.items():
        record("peak memory of one matching step", name=name, ipc=ipc, mib=peak, idle_mib=idle)
    for name in ("torch", "native"):
        assert rows[name, 500] < 1.1 * rows[name, 50]
    assert rows["native", 50] - idle <= (rows["reference", 50] - idle) / 5


def bench_match_loss_lowers_peak_memory(record: Callable[..., None]) -> None:
    peaks = {name: [peak_mib(SCRIPT, name, 50) for _ in range(3)] for name in ("plain", "match_loss")}
    for name, values in peaks.items():
        record("peak memory of a double-backward script, ipc 50", name=name, mib=statistics.median(values), each_mib=values)
    assert statistics.median(peaks["match_loss"]) < statistics.median(peaks["plain"])
