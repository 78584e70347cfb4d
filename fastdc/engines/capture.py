"""Work on a GPU that is captured once as a CUDA graph and then launched whole, so that nobody waits for thousands of launches.

What is captured reads and writes the same memory each time. So the tensors that it is about are copied to a fixed place first, and from
there afterwards; between two launches they stay where they are. The first time the work is done as it is, which compiles and loads what
it needs. The second time it is captured. The same kernels run in the same order either way, and give the same bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fastdc.errors import FastdcError
from fastdc.parallel.devices import memory_share

Work: TypeAlias = Callable[..., tuple[Tensor, ...]]
Captured: TypeAlias = tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]

_MOST_PLACES = 16  # that are kept with their graphs; the oldest goes
_MOST_MEMORY = 1024  # MiB of one of them


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
        self._stream: Any = None

    def captures(self, tensors: Sequence[Tensor]) -> bool:
        """Whether work on these tensors is captured: on a GPU, where a copy of them takes no more than a share of its free memory."""
        device = tensors[0].device
        return (
            self.wanted and device.type == "cuda" and sum(tensor.nbytes for tensor in tensors) <= memory_share(device, _MOST_MEMORY) << 20
        )

    def place(self, name: Hashable, tensors: Sequence[Tensor]) -> Place:
        """Where work of this name on tensors of these shapes is done, the tensors being there."""
        key = (name, *((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors))
        if (known := self._places.get(key)) is not None:
            known.load(tensors)
            return known
        if not self.captures(tensors):
            return Place(tensors, fixed=False)
        if len(self._places) == _MOST_PLACES:
            del self._places[next(iter(self._places))]
            if not any(any(place.graphs.values()) for place in self._places.values()):
                self._pool = None  # which lives as long as a graph does
        place = self._places[key] = Place([tensor.detach().clone() for tensor in tensors], fixed=True)
        return place

    def done(self, name: Hashable, work: Work, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What `work(*tensors)` gives, which changes none of them; work of one name and of tensors of the same shapes is the same work."""
        place = self.place(name, tensors)
        found = self.do(place, name, work)
        return tuple(tensor.clone() for tensor in found) if place.graphs.get(name) is not None else found

    def do(self, place: Place, name: Hashable, work: Work) -> tuple[Tensor, ...]:
        """What `work` gives for the tensors of a place, some of which it may change; it reads none of their numbers on the host, copies
        nothing from there, and changes nothing that is elsewhere but at the same place each time."""
        if not place.fixed or not self.wanted:
            return work(*place.tensors)
        if name not in place.graphs:
            found = work(*place.tensors)
            place.graphs[name] = None  # behind it: what was interrupted is done as it is once more
            return found
        if (known := place.graphs[name]) is None:
            try:
                known = place.graphs[name] = self.captured(work, place.tensors)
            except FastdcError:
                raise
            except RuntimeError as why:  # whatever torch or a driver has against it
                place.fixed = False
                if not isinstance(why, torch.OutOfMemoryError):
                    self.wanted = False
                reason = str(why).split("\n", 1)[0]
                warnings.warn(f"a step cannot be captured as a CUDA graph ({reason}); its kernels are launched one by one.", stacklevel=2)
                return work(*place.tensors)
        graph, found = known
        graph.replay()
        self.launches += 1
        return found

    def captured(self, work: Work, tensors: Sequence[Tensor]) -> Captured:
        """A graph of `work(*tensors)`, which is not done yet, and where it will write what it gives. All graphs share the memory in
        between, as one runs after another."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(tensors[0].device):
            if self._pool is None:
                self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
            # torch's own stream for captures is on the device of the first one in a process: work on another would be done, not captured.
            # What other threads do, such as one that pins memory for a user's loop, may go on.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                return graph, work(*tensors)


class Place:
    """Tensors, and the graphs of what is done with them: None where it was done once. If it is not fixed, the caller's own tensors."""

    def __init__(self, tensors: Sequence[Tensor], fixed: bool) -> None:
        self.tensors, self.fixed = tuple(tensors), fixed
        self.graphs: dict[Hashable, Captured | None] = {}

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
