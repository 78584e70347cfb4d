"""The native engine: whole passes through a ConvNet in compiled C++ on the CPU (csrc/cpu/convnet.h)."""

from __future__ import annotations

import dataclasses
import threading
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fastdc.engines.base import Distillation, Engine, Sgd, Training, batch_norms, class_numbers, shares_of_all
from fastdc.engines.torch_func import TorchEngine
from fastdc.errors import UsageError
from fastdc.metrics.operator import layerwise_distance
from fastdc.models.convnet import ConvNet
from fastdc.models.parts import ACTIVATIONS, NORMS, POOLINGS
from fastdc.runtime import compiled

if TYPE_CHECKING:
    from fastdc import _C

_PARTS = 4  # of a block: convolution, norm, activation, pooling
_DTYPES = (torch.float32, torch.float64)
_RECORD = 64 << 20  # bytes that `match` keeps between its two passes, at the most
_thread = threading.local()


class NativeEngine(Engine):
    """ConvNets on the CPU, a few images at a time through the whole network and back while their maps stay in the cache.

    Exact but for rounding, and of the same bits for any number of threads. The training of a batch norm, whose statistics follow each
    batch, is left to the torch engine, and so are products with the Hessian.
    """

    name: ClassVar[str] = "native"

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        assert isinstance(module, ConvNet)
        self._convnet = module
        self._torch = TorchEngine(module)

    @classmethod
    def unsupported_reasons(cls, module: nn.Module) -> list[str]:
        reasons: list[str] = []
        if compiled.extension is None:
            reasons.append(f"fastdc._C is not there ({compiled.state('cpp')})")
        if type(module) is not ConvNet:
            return [*reasons, f"it serves ConvNet, not {type(module).__name__}"]
        unknown = _unknown_parts(module)
        if unknown:
            reasons += unknown
        elif _differs_from_its_options(module):
            reasons.append("the ConvNet was changed after it was made")
        width = module.made_of[3].width
        if width % 8:
            reasons.append(f"the width is {width}; it serves multiples of 8")
        if compiled.extension is not None and len(module.features) // _PARTS > compiled.extension.MOST_BLOCKS:
            reasons.append(f"the network has more than {compiled.extension.MOST_BLOCKS} blocks")
        weight = next(module.parameters())
        if weight.device.type != "cpu":
            reasons.append(f"the weights are on {weight.device}; it works on the CPU")
        if weight.dtype not in _DTYPES:
            reasons.append(f"the weights are {weight.dtype}; it computes in float32 and float64")
        return reasons

    def class_gradients(self, theta: Tensor, images: Tensor, classes: Tensor | None = None) -> Tensor:
        self._check_images(theta, images, 5)
        return self._class_gradients(theta, images, class_numbers(images, classes))

    def image_gradients(self, theta: Tensor, images: Tensor, cotangent: Tensor, classes: Tensor | None = None) -> Tensor:
        self._check_images(theta, images, 5)
        return self._image_gradients(theta, images, cotangent, class_numbers(images, classes))

    def match(self, theta: Tensor, synthetic: Tensor, real: Tensor, metric: str, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As any engine does it, a few classes at a time, so that what both passes need of the images is computed once."""
        self._check_images(theta, synthetic, 5)
        size = partial(self._network(synthetic).record_size, each=synthetic.shape[1], of_double=theta.dtype == torch.float64)
        of_none, of_one = (size(count) * theta.element_size() for count in (0, 1))
        if of_one > _RECORD or not len(synthetic):
            return super().match(theta, synthetic, real, metric, classes)
        together = (_RECORD - of_none) // (of_one - of_none)  # 1 or more
        distances, gradients = [], []
        parts = (values.split(together) for values in (synthetic, real, class_numbers(synthetic, classes)))
        for images, targets, some in zip(*parts, strict=True):
            record = _memory_for(size(len(some)), theta)
            gradient = self._class_gradients(theta, images, some, record)  # [g, P]
            distance, cotangent = layerwise_distance(gradient, targets, self.layout, metric)  # [g], [g, P]
            distances.append(distance)
            gradients.append(self._image_gradients(theta, images, cotangent, some, record))
        return torch.cat(distances), torch.cat(gradients)

    def _class_gradients(self, theta: Tensor, images: Tensor, classes: Tensor, record: np.ndarray | None = None) -> Tensor:
        gradients = torch.empty(len(images), self.layout.size, dtype=theta.dtype)
        arrays = [_array(tensor) for tensor in (theta, images, classes, gradients)]
        self._network(images).class_gradients(*arrays, record=record, threads=torch.get_num_threads())
        return gradients

    def _image_gradients(
        self, theta: Tensor, images: Tensor, cotangent: Tensor, classes: Tensor, record: np.ndarray | None = None
    ) -> Tensor:
        gradients = torch.empty(images.shape, dtype=images.dtype)
        arrays = [_array(tensor) for tensor in (theta, images, cotangent, classes, gradients)]
        self._network(images).image_gradients(*arrays, record=record, threads=torch.get_num_threads())
        return gradients

    def hessian_products(self, theta: Tensor, images: Tensor, vector: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._torch.hessian_products(theta, images, vector, classes)

    def training(self, theta: Tensor, sgd: Sgd) -> Training:
        return self._torch.training(theta, sgd) if batch_norms(self.module) else _NativeTraining(self, theta, sgd)

    def train_in_order(
        self,
        theta: Tensor,
        velocity: Tensor,
        images: Tensor,
        labels: Tensor,
        sgd: Sgd,
        order: Tensor,
        distillation: Distillation | None,
    ) -> None:
        """Move theta [P] and the velocity of its momentum [P] on, by batches of images in an order [epochs, N]."""
        self._check_images(theta, images, 4)
        if labels.dim() == 2:
            labels = shares_of_all(labels, self._convnet.classifier.out_features, theta.dtype)
        weights = theta.contiguous()
        assert compiled.extension is not None
        self._network(images).train(
            *(_array(tensor) for tensor in (weights, velocity, images, labels, order)),
            sgd=compiled.extension.Sgd(batch=sgd.batch, lr=sgd.lr, momentum=sgd.momentum, weight_decay=sgd.weight_decay),
            distillation=None if distillation is None else _as_kept(distillation, theta),
            threads=torch.get_num_threads(),
        )
        if weights is not theta:
            theta.copy_(weights)

    def logits(self, theta: Tensor, images: Tensor) -> Tensor:
        self._check_images(theta, images, 4)
        result = torch.empty(len(images), self._convnet.classifier.out_features, dtype=theta.dtype)
        self._network(images).logits(_array(theta), _array(images), _array(result), threads=torch.get_num_threads())
        return result

    def features(self, theta: Tensor, images: Tensor) -> Tensor:
        self._check_images(theta, images, 4)
        result = torch.empty(len(images), self._convnet.classifier.in_features, dtype=theta.dtype)
        self._network(images).features(_array(theta), _array(images), _array(result), threads=torch.get_num_threads())
        return result

    def logit_gradients(self, theta: Tensor, images: Tensor, cotangent: Tensor) -> Tensor:
        return self._pulled_back("logit_gradients", theta, images, cotangent)

    def feature_gradients(self, theta: Tensor, images: Tensor, cotangent: Tensor) -> Tensor:
        return self._pulled_back("feature_gradients", theta, images, cotangent)

    def _pulled_back(self, job: str, theta: Tensor, images: Tensor, cotangent: Tensor) -> Tensor:
        """From the gradient by an output of the network to that by the images, by the C++ of this name."""
        self._check_images(theta, images, 4)
        gradients = torch.empty(images.shape, dtype=images.dtype)
        arrays = [_array(tensor) for tensor in (theta, images, cotangent, gradients)]
        getattr(self._network(images), job)(*arrays, threads=torch.get_num_threads())
        return gradients

    def _check_images(self, theta: Tensor, images: Tensor, dimensions: int) -> None:
        if images.dim() != dimensions or (images.dtype, images.device) != (theta.dtype, theta.device):
            given = f"{list(images.shape)} {images.dtype} on {images.device}"
            raise UsageError(
                f"images are {given}; expected {dimensions} dimensions and {theta.dtype} on {theta.device}, as the weights are."
            )
        channels, _, image_size, _ = self._convnet.made_of
        if tuple(images.shape[-3:]) != (channels, *image_size):
            expected = [channels, *image_size]
            raise UsageError(f"images are {list(images.shape)}; expected {expected} at the end, for which the network was made.")

    def _network(self, images: Tensor) -> _C.ConvNet:
        """The plan of the network for images [..., channels, H, W]; statistics of a batch norm are taken as they stand."""
        features = self._convnet.features
        places = {parameter.name: parameter.offset for parameter in self.layout.parameters}
        assert compiled.extension is not None
        blocks = []
        for first in range(0, len(features), _PARTS):
            norm, of_conv, of_norm = features[first + 1], f"features.{first}", f"features.{first + 1}"
            mean, variance = (norm.running_mean, norm.running_var) if isinstance(norm, nn.BatchNorm2d) else (None, None)
            blocks.append(
                compiled.extension.Block(
                    weight=places[f"{of_conv}.weight"],
                    bias=places.get(f"{of_conv}.bias"),
                    gamma=places.get(f"{of_norm}.weight"),
                    beta=places.get(f"{of_norm}.bias"),
                    mean=None if mean is None else _array(mean),
                    variance=None if variance is None else _array(variance),
                )
            )
        convolution, options = _convolution(self._convnet), self._convnet.made_of[3]
        return compiled.extension.ConvNet(
            image=(images.shape[-3], images.shape[-2], images.shape[-1]),
            padding=int(convolution.padding[0]),
            features=convolution.out_channels,
            classes=self._convnet.classifier.out_features,
            layers=compiled.extension.Layers(
                norm=options.norm,
                groups=getattr(features[1], "num_groups", 1),
                activation=options.activation,
                pooling=options.pooling,
            ),
            blocks=blocks,
            classifier=(places["classifier.weight"], places["classifier.bias"]),
            parameters=self.layout.size,
        )


class _NativeTraining(Training):
    """Steps in C++."""

    def __init__(self, engine: NativeEngine, theta: Tensor, sgd: Sgd) -> None:
        super().__init__(engine.module, theta, sgd)
        self._engine = engine

    def _step(self, images: Tensor, labels: Tensor, distillation: Distillation | None) -> None:
        one, order = dataclasses.replace(self.sgd, batch=len(images)), torch.arange(len(images))[None]
        self._engine.train_in_order(self.theta, self.velocity, images, labels, one, order, distillation)


def _memory_for(size: int, like: Tensor) -> np.ndarray:
    """Elements of any content, of the dtype of `like`; each thread keeps its own from call to call, so that it is mapped once."""
    dtype = _array(like).dtype
    kept: np.ndarray | None = getattr(_thread, "memory", None)
    if kept is None or kept.dtype != dtype or len(kept) < size:
        kept = _thread.memory = np.empty(size, dtype)
    return kept[:size]


def _as_kept(distillation: Distillation, like: Tensor) -> _C.Distillation:
    assert compiled.extension is not None
    shares = _array(distillation.shares().to(like.dtype))
    return compiled.extension.Distillation(shares=shares, groups=distillation.groups, temperature=distillation.temperature)


def _unknown_parts(module: ConvNet) -> list[str]:
    """The norm, activation or pooling that the C++ does not compute: a table does not say so of it, or the extension lacks it."""
    options, extension = module.made_of[3], compiled.extension
    reasons = []
    for kind, name, table in (
        ("norm", options.norm, NORMS),
        ("activation", options.activation, ACTIVATIONS),
        ("pooling", options.pooling, POOLINGS),
    ):
        served = [known for known, part in table.items() if part.native]
        if extension is not None:
            served = [known for known in served if known in getattr(extension, f"{kind.upper()}S")]
        if name not in served:
            reasons.append(f"it has no {kind} {name!r}; it has {', '.join(served)}")
    return reasons


def _differs_from_its_options(module: ConvNet) -> bool:
    """Whether a module is something else by now than the ConvNet that its options make."""
    with torch.device("meta"):  # which makes no weights and draws no random numbers
        made = ConvNet(*module.made_of)
    hooks = any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    parts, others = list(made.named_modules()), list(module.named_modules())
    return hooks or len(parts) != len(others) or not all(map(_alike, parts, others))


def _alike(one: tuple[str, nn.Module], other: tuple[str, nn.Module]) -> bool:
    """Whether two layers with their names have one place, one type, and the same numbers, of which a repr leaves some out."""
    (name, part), (other_name, other_part) = one, other
    numbers = [key for key in vars(part) if not key.startswith("_") and key != "training"]
    same = all(repr(getattr(part, key)) == repr(getattr(other_part, key, None)) for key in numbers)
    return same and (name, type(part)) == (other_name, type(other_part))


def _convolution(module: ConvNet) -> nn.Conv2d:
    first = module.features[0]
    assert isinstance(first, nn.Conv2d)
    return first


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()
