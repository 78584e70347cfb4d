"""The native engine: whole passes through a ConvNet in compiled C++ on the CPU (csrc/cpu/convnet.h)."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fastdc.engines.base import Augmentation, Distillation, Engine, Sgd, batch_norms, class_numbers
from fastdc.engines.torch_func import TorchEngine
from fastdc.errors import UsageError
from fastdc.metrics.operator import layerwise_distance
from fastdc.models.convnet import ConvNet
from fastdc.runtime import compiled

if TYPE_CHECKING:
    from fastdc import _C

# By the order of the enums in csrc/cpu/norm_act_pool.h.
_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.Sigmoid, nn.SiLU)
_POOLINGS = (nn.AvgPool2d, nn.MaxPool2d, nn.Identity)
_INSTANCE, _GROUP, _LAYER, _BATCH, _NO_NORM = range(5)
_PARTS = 4  # of a block: convolution, norm, activation, pooling
_MOST_BLOCKS = 16  # kMostBlocks in csrc/cpu/convnet.h
_DTYPES = (torch.float32, torch.float64)
_RECORD = 64 << 20  # bytes that `match` keeps between its two passes, at the most
_thread = threading.local()


class NativeEngine(Engine):
    """ConvNets on the CPU, a few images at a time through the whole network and back while their maps stay in the cache.

    Exact but for rounding, and of the same bits for any number of threads. Training with augmentation, or of a batch norm, whose
    statistics then follow each batch, is left to the torch engine, and so are products with the Hessian.
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
        if _changed(module):
            reasons.append("the ConvNet was changed after it was made")
        width = module.made_of[3].width
        if width % 8:
            reasons.append(f"the width is {width}; it serves multiples of 8")
        if len(module.features) // _PARTS > _MOST_BLOCKS:
            reasons.append(f"the network has more than {_MOST_BLOCKS} blocks")
        weight = next(module.parameters())
        if weight.device.type != "cpu":
            reasons.append(f"the weights are on {weight.device}; it works on the CPU")
        if weight.dtype not in _DTYPES:
            reasons.append(f"the weights are {weight.dtype}; it computes in float32 and float64")
        return reasons

    def class_gradients(self, theta: Tensor, images: Tensor, classes: Tensor | None = None) -> Tensor:
        self._check_images(theta, images, 5)
        return self._class_gradients(theta, images, class_numbers(images) if classes is None else classes)

    def image_gradients(self, theta: Tensor, images: Tensor, cotangent: Tensor) -> Tensor:
        self._check_images(theta, images, 5)
        return self._image_gradients(theta, images, cotangent)

    def match(self, theta: Tensor, synthetic: Tensor, real: Tensor, metric: str) -> tuple[Tensor, Tensor]:
        """As any engine does it, a few classes at a time, so that what both passes need of the images is computed once."""
        self._check_images(theta, synthetic, 5)
        size = partial(self._network(synthetic).record_size, each=synthetic.shape[1], of_double=theta.dtype == torch.float64)
        of_none, of_one = (size(count) * theta.element_size() for count in (0, 1))
        if of_one > _RECORD or not len(synthetic):
            return super().match(theta, synthetic, real, metric)
        together = (_RECORD - of_none) // (of_one - of_none)  # 1 or more
        distances, gradients = [], []
        for classes in class_numbers(synthetic).split(together):
            some = slice(int(classes[0]), int(classes[-1]) + 1)
            record = _memory_for(size(len(classes)), theta)
            gradient = self._class_gradients(theta, synthetic[some], classes, record)  # [G, P]
            distance, cotangent = layerwise_distance(gradient, real[some], self.layout, metric)  # [G], [G, P]
            distances.append(distance)
            gradients.append(self._image_gradients(theta, synthetic[some], cotangent, record))
        return torch.cat(distances), torch.cat(gradients)

    def _class_gradients(self, theta: Tensor, images: Tensor, classes: Tensor, record: np.ndarray | None = None) -> Tensor:
        gradients = torch.empty(len(images), self.layout.size, dtype=theta.dtype)
        arrays = [_array(tensor) for tensor in (theta, images, classes, gradients)]
        self._network(images).class_gradients(*arrays, record=record, threads=torch.get_num_threads())
        return gradients

    def _image_gradients(self, theta: Tensor, images: Tensor, cotangent: Tensor, record: np.ndarray | None = None) -> Tensor:
        gradients = torch.empty(images.shape, dtype=images.dtype)
        arrays = [_array(tensor) for tensor in (theta, images, cotangent, gradients)]
        self._network(images).image_gradients(*arrays, record=record, threads=torch.get_num_threads())
        return gradients

    def hessian_products(self, theta: Tensor, images: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        return self._torch.hessian_products(theta, images, vector)

    def train(
        self,
        theta: Tensor,
        images: Tensor,
        labels: Tensor,
        sgd: Sgd,
        generator: torch.Generator,
        augment: Augmentation | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        if augment is not None or batch_norms(self.module):
            self._torch.train(theta, images, labels, sgd, generator, augment, distillation)
            return
        self._check_images(theta, images, 4)
        order = [torch.randperm(len(images), generator=generator) for _ in range(sgd.epochs)]  # as `batches` draws it
        if not order:
            return
        weights = theta.contiguous()
        assert compiled.extension is not None
        self._network(images).train(
            *(_array(tensor) for tensor in (weights, images, labels, torch.stack(order))),
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
        _, norm, activation, pooling = features[:_PARTS]
        convolution = _convolution(self._convnet)
        return compiled.extension.ConvNet(
            image=(images.shape[-3], images.shape[-2], images.shape[-1]),
            padding=int(convolution.padding[0]),
            features=convolution.out_channels,
            classes=self._convnet.classifier.out_features,
            layers=compiled.extension.Layers(
                norm=_norm_number(norm),
                groups=norm.num_groups if isinstance(norm, nn.GroupNorm) else 1,
                activation=_ACTIVATIONS.index(type(activation)),
                pooling=_POOLINGS.index(type(pooling)),
            ),
            blocks=blocks,
            classifier=(places["classifier.weight"], places["classifier.bias"]),
            parameters=self.layout.size,
        )


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


def _changed(module: ConvNet) -> bool:
    """Whether a module is something else by now than the ConvNet that its options make."""
    with torch.device("meta"):  # which makes no weights and draws no random numbers
        made = ConvNet(*module.made_of)
    hooks = any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    return hooks or repr(made) != repr(module)


def _convolution(module: ConvNet) -> nn.Conv2d:
    first = module.features[0]
    assert isinstance(first, nn.Conv2d)
    return first


def _norm_number(norm: nn.Module) -> int:
    if isinstance(norm, nn.GroupNorm):
        return _INSTANCE if norm.num_groups == norm.num_channels else _GROUP
    if isinstance(norm, nn.LayerNorm):
        return _LAYER
    return _BATCH if isinstance(norm, nn.BatchNorm2d) else _NO_NORM


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()
