"""Work on a GPU that is captured once as a CUDA graph and then launched whole, so that nobody waits for thousands of launches.

What is captured reads and writes the same memory each time. So the tensors that it is about are copied to a fixed place first, and from
there afterwards; between two launches they stay where they are. The first time the work is done as it is, which compiles and loads what
it needs. The second time it is captured. The same kernels run in the same order either way, and give the same bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

_MOST_PLACES = 16  # that are kept with their graphs; the oldest goes
Work = Callable[..., tuple[Tensor, ...]]


class Graphs:
    """The graphs of one engine, by what the work is and the shapes of the tensors that it is about.

    Args:
        wanted: whether to capture on a GPU; on the CPU there is nothing to capture.
    """

    def __init__(self, wanted: bool = True) -> None:
        self.wanted = wanted
        self.launches = 0
        """How many times a graph was launched."""
        self._places: dict[Hashable, Place] = {}
        self._pool: Any = None

    def captures(self, tensors: Sequence[Tensor]) -> bool:
        """Whether work on these tensors is captured."""
        return self.wanted and tensors[0].is_cuda

    def place(self, name: Hashable, tensors: Sequence[Tensor]) -> Place:
        """Where work of this name on tensors of these shapes is done, the tensors being there."""
        if not self.captures(tensors):
            return Place(self, tensors)
        key = (name, *((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors))
        if key not in self._places:
            if len(self._places) == _MOST_PLACES:
                del self._places[next(iter(self._places))]
            self._places[key] = Place(self, [tensor.clone() for tensor in tensors])
        else:
            self._places[key].load(tensors)
        return self._places[key]

    def done(self, name: Hashable, work: Work, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What `work(*tensors)` gives, which changes none of them; work of one name and of tensors of the same shapes is the same work."""
        place = self.place(name, tensors)
        found = place.do(name, work)
        return tuple(tensor.clone() for tensor in found) if place.fixed else found

    def captured(self, work: Work, tensors: Sequence[Tensor]) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]:
        """A graph of `work(*tensors)`, which is not done yet, and where it will write what it gives. All graphs share the memory in
        between, as one runs after another."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(tensors[0].device):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            with torch.cuda.graph(graph, pool=self._pool):
                return graph, work(*tensors)


class Place:
    """Tensors, and the graphs of what is done with them; on the CPU the very tensors of the caller, and no graphs."""

    def __init__(self, graphs: Graphs, tensors: Sequence[Tensor]) -> None:
        self._graphs, self.tensors = graphs, tuple(tensors)
        self._known: dict[Hashable, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]] | None] = {}  # None: done once

    @property
    def fixed(self) -> bool:
        """Whether what is found lies where the next launch writes."""
        return any(self._known.values())

    def load(self, tensors: Sequence[Tensor]) -> None:
        """Bring these here; fewer are the first ones."""
        for inside, outside in zip(self.tensors, tensors, strict=False):
            if inside is not outside:
                inside.copy_(outside)

    def unload(self, tensors: Sequence[Tensor]) -> None:
        """Bring what is here to these; fewer are the first ones."""
        for inside, outside in zip(self.tensors, tensors, strict=False):
            if inside is not outside:
                outside.copy_(inside)

    def do(self, name: Hashable, work: Work) -> tuple[Tensor, ...]:
        """What `work` gives for the tensors here, some of which it may change; it reads none of their numbers on the host, copies nothing
        from there, and changes nothing that is elsewhere."""
        if not self._graphs.captures(self.tensors):
            return work(*self.tensors)
        if name not in self._known:
            self._known[name] = None
            return work(*self.tensors)
        if (known := self._known[name]) is None:
            try:
                known = self._known[name] = self._graphs.captured(work, self.tensors)
            except RuntimeError as why:  # whatever torch or a driver has against it
                self._graphs.wanted = False
                reason = str(why).split("\n", 1)[0]
                warnings.warn(f"a step cannot be captured as a CUDA graph ({reason}); its kernels are launched one by one.", stacklevel=2)
                return work(*self.tensors)
        graph, found = known
        graph.replay()
        self._graphs.launches += 1
        return found
