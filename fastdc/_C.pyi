"""Compiled CPU code of fastdc (csrc/bindings*.cpp). Arrays are read and written where they lie: contiguous, aligned, of one dtype."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32] | NDArray[np.float64]
_Elements = _Floats | NDArray[np.float16] | NDArray[np.uint16]  # uint16 stands for bfloat16
_Integers = NDArray[np.int64]

METRICS: tuple[str, ...]
NORMS: tuple[str, ...]
ACTIVATIONS: tuple[str, ...]
POOLINGS: tuple[str, ...]
WINDOW_KINDS: tuple[str, ...]
MOST_BLOCKS: int
LARGEST_SIZE: int
BFLOAT16: bool  # whether products can be rounded to bfloat16 on this processor

def layerwise_distance(
    synthetic: Sequence[_Elements],
    real: Sequence[_Elements],
    tiles: _Integers,
    metric: str,
    distance: _Floats,
    cotangent: Sequence[_Elements],
    *,
    threads: int,
) -> None:
    """Writes distance [C] and cotangent of the gradients synthetic and real [C, P], each in a list of parts, cut into tiles [T, 3]."""

def layerwise_distance_at(
    dtype: str,
    sizes: Sequence[int],
    synthetic: Sequence[int],
    real: Sequence[int],
    tiles: _Integers,
    metric: str,
    cotangent: Sequence[int],
    *,
    threads: int,
) -> float:
    """The distance of two gradients of one class, whose parts, each of so many contiguous elements, lie at these addresses.

    Writes the cotangent to its own. That the memory is there is the caller's to see to: arrays would be checked, and cost as much time
    as the distance of a small network.
    """

def batch_parts(batch: int) -> int:
    """How many parts a batch of so many images is cut into."""

def usable_instruction_sets() -> list[str]:
    """Instruction sets that this processor runs, the widest first."""

def select_instruction_set(name: str) -> None:
    """Use this instruction set from now on, for tests and comparisons."""

class Layers:
    """What a block is made of, by the names in NORMS, ACTIVATIONS and POOLINGS."""

    def __init__(self, *, norm: str, activation: str, pooling: str, groups: int = 1, epsilon: float = 1e-5, slope: float = 0.01) -> None:
        """Groups are those of a group norm, epsilon what a norm adds to variances, slope that of a leaky activation below zero."""

class Convolution:
    """How the convolution of a block moves over its map."""

    def __init__(self, *, kernel: tuple[int, int], stride: int = 1, padding: int = 0) -> None:
        """The kernel is (height, width)."""

class Windows:
    """Pooling by windows of any size, of a kind in WINDOW_KINDS."""

    def __init__(self, *, kind: str, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1), padding: tuple[int, int] = (0, 0)) -> None:
        """Height and width each; the kernel of adaptive ones is how many there are."""

class Block:
    """A block's channels and parts, where its parameters begin in theta, and the statistics of a batch norm."""

    def __init__(
        self,
        *,
        features: int,
        convolution: Convolution,
        layers: Layers,
        weight: int,
        windows: Windows | None = None,
        bias: int | None = None,
        gamma: int | None = None,
        beta: int | None = None,
        mean: _Floats | None = None,
        variance: _Floats | None = None,
        momentum: float = 0.0,
    ) -> None:
        """Statistics [features] are kept alive, not copied; training moves them on by the momentum."""

class Sgd:
    """Options of stochastic gradient descent."""

    def __init__(self, *, batch: int, lr: float, momentum: float, weight_decay: float) -> None:
        """The last batch of an epoch may be smaller."""

class Distillation:
    """Shares [N, K] that training is to keep, and how many of the K classes each group has."""

    def __init__(self, *, shares: _Floats, groups: Sequence[int], temperature: float) -> None:
        """The shares of an image sum to 1 within each group."""

class ConvNet:
    """The structure of a ConvNet, and where its parameters lie in theta [parameters]."""

    def __init__(
        self,
        *,
        image: tuple[int, int, int],
        classes: int,
        blocks: Sequence[Block],
        classifier: tuple[int, int | None],
        parameters: int,
        bfloat16: bool = False,
    ) -> None:
        """The image is (channels, height, width), the classifier's (weight, bias) begin there; products of float32 may be rounded."""

    def class_gradients(
        self, theta: _Floats, images: _Floats, labels: _Integers, gradients: _Floats, *, record: _Floats | None = None, threads: int
    ) -> None:
        """Writes the gradients [C, P] of images [C, n, ...], class c being labels[c]; and the record, where one is given."""

    def image_gradients(
        self,
        theta: _Floats,
        images: _Floats,
        cotangent: _Floats,
        labels: _Integers,
        gradients: _Floats,
        *,
        record: _Floats | None = None,
        threads: int,
    ) -> None:
        """Writes d/d images of <cotangent [C, P], class gradients>, class c being labels[c], from the record where one is given."""

    def hessian_products(
        self,
        theta: _Floats,
        images: _Floats,
        direction: _Floats,
        labels: _Integers,
        by_weights: _Floats,
        by_images: _Floats,
        *,
        threads: int,
    ) -> None:
        """Writes the gradients by theta [P] and by images [C, n, ...] of <direction [P], d/d theta of their mean loss>."""

    def record_size(self, classes: int, each: int, *, of_double: bool) -> int:
        """Elements of the record of images [classes, each, ...] in float32 or float64."""

    def train(
        self,
        theta: _Floats,
        velocity: _Floats,
        images: _Floats,
        labels: _Integers | _Floats,
        order: _Integers,
        *,
        sgd: Sgd,
        distillation: Distillation | None = None,
        threads: int,
    ) -> None:
        """Trains theta [P] in place, and moves the velocity [P] of its momentum on, by batches of images [N, ...] in the order [epochs, N];
        and the statistics of batch norms.

        Labels are classes [N], or shares of the K classes [N, K].
        """

    def part_gradients(
        self, theta: _Floats, images: _Floats, labels: _Integers | _Floats, gradients: _Floats, *, first: int, threads: int
    ) -> None:
        """Writes the gradients [n, P] of n parts of a batch of images [N, ...], from part `first` on; they add up to that of the batch.

        Args:
            theta: [P].
            images: normalised images.
            labels: classes [N], or shares of the K classes [N, K].
            gradients: written.
            first: of `batch_parts(N)`.
            threads: of this call.
        """

    def move(self, theta: _Floats, velocity: _Floats, gradients: _Floats, *, sgd: Sgd, threads: int) -> None:
        """Moves theta [P], and the velocity [P] of its momentum, by gradients [n, P], added up one by one."""

    def logits(self, theta: _Floats, images: _Floats, logits: _Floats, *, threads: int) -> None:
        """Writes the logits [N, K] of images [N, ...]."""

    def features(self, theta: _Floats, images: _Floats, features: _Floats, *, threads: int) -> None:
        """Writes what the linear layer reads [N, F] of images [N, ...], in torch's order."""

    def logit_gradients(self, theta: _Floats, images: _Floats, cotangent: _Floats, gradients: _Floats, *, threads: int) -> None:
        """Writes d/d images [N, ...] of <cotangent [N, K], logits>."""

    def feature_gradients(self, theta: _Floats, images: _Floats, cotangent: _Floats, gradients: _Floats, *, threads: int) -> None:
        """Writes d/d images [N, ...] of <cotangent [N, F], features>."""
