"""ParameterLayout: where each parameter of a module lies in one flat vector, and which rows of it the distance sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastdc.errors import UsageError, unknown_name

# The choices of rows that a distance may look at: the fewest dimensions of a parameter whose rows are seen.
ROWS: dict[str, int] = {"all": 2, "convolutions": 3}


@dataclass(frozen=True)
class Parameter:
    """One parameter in the flat vector: elements `offset` to `offset + size`, in the order of `shape`."""

    name: str
    offset: int
    shape: tuple[int, ...]
    frozen: bool = False
    """It does not require a gradient: it is neither trained nor matched."""

    @property
    def size(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        """How many rows the distance may see: one per output unit; none for a bias or the scale and shift of a norm."""
        return self.shape[0] if len(self.shape) >= ROWS["all"] else 0

    @property
    def row_length(self) -> int:
        """Elements of a row; 0 where there are none."""
        return self.size // self.rows if self.rows else 0


@dataclass(frozen=True)
class ParameterLayout:
    """The order, shapes and rows of a network's parameters in one flat contiguous vector [P].

    Example:
        >>> layout = ParameterLayout.of(nn.Linear(3, 2))
        >>> layout.size, [(p.name, p.offset, p.rows) for p in layout.parameters]
        (8, [('weight', 0, 2), ('bias', 6, 0)])
    """

    parameters: tuple[Parameter, ...]

    @classmethod
    def of(cls, module: nn.Module) -> ParameterLayout:
        """The layout of a module's parameters, in the order of `module.named_parameters()`.

        Raises:
            UsageError: the module has no weights, uninitialised ones, or parameters that differ in dtype or device.
        """
        parameters, offset = [], 0
        for name, value in module.named_parameters():
            if isinstance(value, nn.UninitializedParameter):
                raise UsageError(f"{name} of {type(module).__name__} has no shape yet; run the lazy module once on a batch of images.")
            parameters.append(Parameter(name, offset, tuple(value.shape), frozen=not value.requires_grad))
            offset += value.numel()
        if not offset:
            raise UsageError(f"{type(module).__name__} has no parameters; expected a network that can be trained.")
        if not any(parameter.rows and not parameter.frozen for parameter in parameters):
            raise UsageError(
                f"{type(module).__name__} has no parameter of two dimensions or more that requires a gradient; expected a layer with a "
                "weight to match."
            )
        kinds = {(value.dtype, value.device) for value in module.parameters()}
        if len(kinds) > 1:
            found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise UsageError(f"the parameters of {type(module).__name__} are {found}; bring them to one dtype and device.")
        return cls(tuple(parameters))

    @property
    def size(self) -> int:
        """P, the number of elements of the flat vector."""
        return self.parameters[-1].offset + self.parameters[-1].size if self.parameters else 0

    def seen(self, rows: str = "all") -> tuple[Parameter, ...]:
        """The parameters that a distance looks at: of those that are trained, "all" with two dimensions or more, or "convolutions", with
        three or more.

        Raises:
            UsageError: no parameter is of that choice, where it is not "all".
        """
        least = fewest_dimensions(rows)
        found = tuple(p for p in self.parameters if p.rows and len(p.shape) >= least and not p.frozen)
        if not found and rows != "all":
            raise UsageError(
                f"the network has no parameter of {least} dimensions or more, and a distance with rows={rows} looks at no others; "
                "leave out rows, or choose a network with convolutions."
            )
        return found

    @property
    def matrices(self) -> tuple[Parameter, ...]:
        """`seen()`, as version 0.1 calls it."""
        return self.seen()

    def segments(self, rows: str = "all") -> tuple[int, ...]:
        """The offset, rows and row_length of each parameter that a distance looks at, one after another: what a backend is told."""
        return tuple(value for p in self.seen(rows) for value in (p.offset, p.rows, p.row_length))

    def flatten(self, module: nn.Module) -> Tensor:
        """A copy of the module's parameters as one vector [P]."""
        return torch.cat([value.detach().reshape(-1) for value in module.parameters()])

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of `flat` [..., P] by name, each of shape [..., *parameter.shape]; writing to one writes to `flat`."""
        self._check(flat)
        return {p.name: flat[..., p.offset : p.offset + p.size].view((*flat.shape[:-1], *p.shape)) for p in self.parameters}

    def clear_frozen_(self, flat: Tensor) -> Tensor:
        """`flat` [..., P], in place with zeros where parameters are frozen."""
        self._check(flat)
        for p in self.parameters:
            if p.frozen:
                flat[..., p.offset : p.offset + p.size] = 0
        return flat

    def trained_part(self, flat: Tensor) -> Tensor:
        """`flat` [..., P] with zeros where parameters are frozen; a copy where there are any."""
        return self.clear_frozen_(flat.clone()) if any(p.frozen for p in self.parameters) else flat

    def rows_of(self, flat: Tensor, parameter: Parameter) -> Tensor:
        """The rows of one parameter in `flat` [..., P], as a view [..., rows, row_length]."""
        part = flat[..., parameter.offset : parameter.offset + parameter.size]
        return part.unflatten(-1, (parameter.rows, parameter.row_length))

    def assign(self, module: nn.Module, theta: Tensor) -> None:
        """Copy the vector `theta` [P] into the module's parameters."""
        with torch.no_grad():
            for value, view in zip(module.parameters(), self.views(theta).values(), strict=True):
                value.copy_(view)

    def _check(self, flat: Tensor) -> None:
        if flat.shape[-1] != self.size:
            raise UsageError(f"a flat vector has {flat.shape[-1]} elements; this layout has {self.size}.")


def layout_of(shapes: Sequence[tuple[int, ...]]) -> ParameterLayout:
    """The layout of parameters of these shapes, one after another."""
    parameters, offset = [], 0
    for i, shape in enumerate(shapes):
        parameters.append(Parameter(str(i), offset, shape))
        offset += parameters[-1].size
    return ParameterLayout(tuple(parameters))


def fewest_dimensions(rows: str) -> int:
    """How many dimensions a parameter has at least whose rows a distance sees by that choice.

    Raises:
        UsageError: an unknown choice.
    """
    if rows not in ROWS:
        raise unknown_name("choice of rows", rows, ROWS)
    return ROWS[rows]
