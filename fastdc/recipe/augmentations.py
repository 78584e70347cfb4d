"""What is done to the images of both sides before they are compared: the same draw for the real and the synthetic ones of a class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from fastdc.errors import unknown_name
from fastdc.options.registry import NoOptions, Registry
from fastdc.parallel.devices import to_device
from fastdc.recipe.groups import ClassGroup
from fastdc.runtime.seeding import make_generator
from fastdc.training.operations import OPERATIONS

_MODES = ("one", "all")


class Change(Protocol):
    """One draw: what is done to the images of some classes."""

    def apply(self, images: Tensor) -> Tensor:
        """Images [G, n, channels, H, W], changed."""

    def adjoint(self, gradient: Tensor) -> Tensor:
        """From the gradient by the changed images to that by the images."""


class Augmentation(ABC):
    """Draws differentiable changes of images.

    Args:
        seed: decides all draws.
        options: of the entry.
    """

    Options: ClassVar[type] = NoOptions

    def __init__(self, seed: int, options: Any = None) -> None:
        self.seed, self.options = seed, options

    @property
    def operations(self) -> tuple[str, ...] | None:
        """Those of `OPERATIONS` that it draws from, from which the training of networks may draw as well; None: it has others."""
        return None

    @abstractmethod
    def draw(self, group: ClassGroup, *when: int) -> Change:
        """What is done to the images of these classes; always the same for one moment of a run, so that both sides get the same."""


class NoAugmentation(Augmentation):
    """`none`: images as they are."""

    @property
    def operations(self) -> tuple[str, ...]:
        """None of them."""
        return ()

    def draw(self, group: ClassGroup, *when: int) -> Change:
        """Nothing is drawn."""
        return _NoChange()


class _NoChange:
    """Leaves images as they are."""

    def apply(self, images: Tensor) -> Tensor:
        return images

    def adjoint(self, gradient: Tensor) -> Tensor:
        return gradient


@dataclass(frozen=True)
class SiameseOptions:
    """Options of `siamese`: operations, their names joined by "+" (of digits by default without flip: `chosen_operations`), and mode (one:
    one of them, drawn for each class and step; all: one after another)."""

    operations: str = "+".join(OPERATIONS)
    mode: str = "one"

    def __post_init__(self) -> None:
        for name in self.operations.split("+"):
            if name not in OPERATIONS:
                raise unknown_name("operation", name, OPERATIONS)
        if self.mode not in _MODES:
            raise unknown_name("mode", self.mode, _MODES)


class Siamese(Augmentation):
    """`siamese`: the same draw for all images of a class, the real and the synthetic ones (Zhao & Bilen, ICML 2021)."""

    Options = SiameseOptions

    @property
    def operations(self) -> tuple[str, ...]:
        """As the options say."""
        return tuple(self.options.operations.split("+"))

    def draw(self, group: ClassGroup, *when: int) -> Change:
        """A draw for each class."""
        return _PerClass([self._operations(number, when, group.classes.device) for number in group.numbers])

    def _operations(self, number: int, when: tuple[int, ...], device: torch.device) -> Callable[[Tensor], Tensor]:
        generator = make_generator(self.seed, "augmentation", *when, number)
        names = list(self.operations)
        if self.options.mode == "one":
            names = [names[int(torch.randint(len(names), (), generator=generator))]]
        seeds = torch.randint(1 << 31, (len(names),), generator=generator).tolist()

        def apply(images: Tensor) -> Tensor:
            height, width = images.shape[-2:]
            for name, seed in zip(names, seeds, strict=True):
                operation = OPERATIONS[name]
                numbers = operation.draw(1, height, width, torch.Generator().manual_seed(seed))
                images = operation.apply(images, to_device(numbers, device))
            return images

        return apply


class _PerClass:
    """A change of each class, affine in the images."""

    def __init__(self, changes: Sequence[Callable[[Tensor], Tensor]]) -> None:
        self.changes = changes

    def apply(self, images: Tensor) -> Tensor:
        return torch.stack([change(some) for change, some in zip(self.changes, images, strict=True)])

    def adjoint(self, gradient: Tensor) -> Tensor:
        images = torch.zeros_like(gradient, requires_grad=True)  # an affine map has the same derivative everywhere
        with torch.enable_grad():
            changed = self.apply(images)
        return torch.autograd.grad(changed, images, gradient)[0]


AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation", {"none": NoAugmentation, "siamese": Siamese})
