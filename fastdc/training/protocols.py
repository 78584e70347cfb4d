"""Protocols of evaluation: how long, by which SGD and with which augmentation networks are trained to be tested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fastdc.engines import Augmentation, Sgd
from fastdc.options.registry import NoOptions, Registry
from fastdc.training.augment import crop_scale_or_rotate, training_augmentation
from fastdc.training.operations import OPERATIONS
from fastdc.training.schedule import idc_training, paper_training

_AUGMENTED = ("mnist",)  # the sets that Zhao et al. (ICLR 2021) evaluate with augmentation, and for longer


class Protocol:
    """How networks are trained on a few images, before they are tested on a dataset.

    Args:
        dataset: its name.
        options: of the entry.
    """

    Options: ClassVar[type] = NoOptions
    epochs: int = 1000
    """Of training, unless others are asked for."""
    augmentation: Augmentation | None = None
    """What is done to each batch."""

    def __init__(self, dataset: str, options: Any = None) -> None:
        self.dataset, self.options = dataset, options

    def phases(self, epochs: int) -> list[Sgd]:
        """The SGD of so many epochs."""
        return paper_training(epochs)


class DcProtocol(Protocol):
    """`dc`: 300 epochs without augmentation; on mnist 1000, each image cropped, scaled or rotated (Zhao et al., ICLR 2021)."""

    def __init__(self, dataset: str, options: Any = None) -> None:
        super().__init__(dataset, options)
        self.epochs, self.augmentation = (1000, crop_scale_or_rotate) if dataset in _AUGMENTED else (300, None)


@dataclass(frozen=True)
class DsaOptions:
    """Options of `dsa`: operations, joined by "+" (of digits by default without flip: `chosen_operations`)."""

    operations: str = "+".join(OPERATIONS)

    def __post_init__(self) -> None:
        self.augmentation()

    def augmentation(self) -> Augmentation | None:
        """One of them for each batch."""
        return training_augmentation(self.operations.split("+"), "batch")


class DsaProtocol(Protocol):
    """`dsa`: 1000 epochs, each batch changed by one of some operations (Zhao & Bilen, ICML 2021)."""

    Options = DsaOptions

    def __init__(self, dataset: str, options: DsaOptions) -> None:
        super().__init__(dataset, options)
        self.augmentation = options.augmentation()


@dataclass(frozen=True)
class IdcOptions:
    """Options of `idc`: operations, joined by "+", with "/" between those of which one is drawn for each batch (of digits by default
    without flip: `chosen_operations`); and cutmix, its probability."""

    operations: str = "flip+color+crop/scale/rotate"
    cutmix: float = 0.5

    def __post_init__(self) -> None:
        self.augmentation()

    def augmentation(self) -> Augmentation | None:
        """All of them, one after another, then CutMix."""
        return training_augmentation(self.operations.split("+"), "image", self.cutmix)


class IdcProtocol(Protocol):
    """`idc`: 1000 epochs in batches of 64, changed by several operations and CutMix (Kim et al., ICML 2022)."""

    Options = IdcOptions

    def __init__(self, dataset: str, options: IdcOptions) -> None:
        super().__init__(dataset, options)
        self.augmentation = options.augmentation()

    def phases(self, epochs: int) -> list[Sgd]:
        """In three steps of the learning rate."""
        return idc_training(epochs)


PROTOCOLS: Registry[Protocol] = Registry("protocol", {"dc": DcProtocol, "dsa": DsaProtocol, "idc": IdcProtocol})
