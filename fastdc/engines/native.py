"""The native engine: whole passes through blocks of layers in compiled C++ on the CPU (csrc/cpu/convnet.h)."""

from __future__ import annotations

import math
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fastdc.engines.base import ONE_NUMBER, Distillation, Engine, Sgd, Training, batch_norms, class_numbers, shares_of_all
from fastdc.engines.blocks import Blocks, blocks_of
from fastdc.engines.plan import Convolution, Norm, NotAChain, chain_of
from fastdc.engines.widths import Widths, odd_widths, rounded, widened
from fastdc.errors import UsageError
from fastdc.metrics.operator import layerwise_distance
from fastdc.parallel.threads import compute_threads
from fastdc.parallel.world import ALONE, World
from fastdc.runtime import compiled

if TYPE_CHECKING:
    from fastdc import _C

_DTYPES = (torch.float32, torch.float64)
_RECORD = 64 << 20  # bytes that `match` keeps between its two passes, at the most
_thread = threading.local()


class NativeEngine(Engine):
    """Chains of blocks, as a ConvNet, a VGG or an MLP is, on the CPU: a few images at a time through the whole network and back, while
    their maps stay in the cache.

    Exact but for rounding, and of the same bits for any number of threads. Networks with a batch norm, whose statistics follow each batch,
    are trained block by block, the whole batch at a time (csrc/cpu/batch_norm.h).
    """

    name: ClassVar[str] = "native"
    chosen_on: ClassVar[str | None] = "cpu"
    classes_apart: ClassVar[bool] = True
    precisions: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")

    def __init__(self, module: nn.Module, precision: str = "float32", options: Any = None) -> None:
        super().__init__(module, precision, options)
        self.precision = precision
        self._blocks = blocks_of(chain_of(module))
        self._widths = Widths(self._blocks, self.layout)

    @classmethod
    def missing_for(cls, precision: str) -> list[str]:
        if precision == "float32" or compiled.extension is None or compiled.extension.BFLOAT16:
            return []
        return ["this processor has no AVX-512 BF16"]

    @classmethod
    def unsupported_reasons(cls, module: nn.Module) -> list[str]:
        reasons: list[str] = []
        if compiled.extension is None:
            reasons.append(f"fastdc._C is not there ({compiled.state('cpp')})")
        try:
            reasons += _lacking(blocks_of(chain_of(module)))
        except NotAChain as why:
            reasons.append(str(why))
        if frozen := [name for name, value in module.named_parameters() if not value.requires_grad]:
            reasons.append(f"{frozen[0]} does not require a gradient; it trains all weights")
        weight = next(module.parameters(), torch.empty(0))
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
        gradients = torch.empty(len(images), self._widths.size, dtype=theta.dtype)
        arrays = [_array(tensor) for tensor in (self._widths.weights(theta), images, classes, gradients)]
        self._network(images).class_gradients(*arrays, record=record, threads=compute_threads())
        return self._widths.narrow(gradients)

    def _image_gradients(
        self, theta: Tensor, images: Tensor, cotangent: Tensor, classes: Tensor, record: np.ndarray | None = None
    ) -> Tensor:
        gradients = torch.empty(images.shape, dtype=images.dtype)
        weights, along = self._widths.weights(theta), self._widths.widen(cotangent)
        arrays = [_array(tensor) for tensor in (weights, images, along, classes, gradients)]
        self._network(images).image_gradients(*arrays, record=record, threads=compute_threads())
        return gradients

    def hessian_products(self, theta: Tensor, images: Tensor, vector: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._check_images(theta, images, 5)
        weights, along = self._widths.weights(theta), self._widths.widen(vector)
        by_weights, by_images = torch.empty_like(weights), torch.empty(images.shape, dtype=images.dtype)
        arrays = [_array(tensor) for tensor in (weights, images, along, class_numbers(images, classes), by_weights, by_images)]
        self._network(images).hessian_products(*arrays, threads=compute_threads())
        return self._widths.narrow(by_weights), by_images

    def training(self, theta: Tensor, sgd: Sgd) -> Training:
        return _NativeTraining(self, theta, sgd)

    def train_on(
        self,
        theta: Tensor,
        velocity: Tensor,
        images: Tensor,
        labels: Tensor,
        sgd: Sgd,
        distillation: Distillation | None = None,
        world: World = ALONE,
    ) -> None:
        """Move theta [P], the velocity of its momentum [P] and the statistics of batch norms on by a step on one batch of images.

        A batch is cut into parts, whose gradients are added up in their order, whoever computes them: of several processes each those of
        some parts, where each has one, and no batch norm takes the statistics of all.
        """
        self._check_images(theta, images, 4)
        self._check_batch(images)
        if labels.dim() == 2:
            labels = shares_of_all(labels, self._blocks.linear.outputs, theta.dtype)
        weights, speeds = self._widths.weights(theta).contiguous(), self._widths.widen(velocity)
        statistics = self._statistics(images.dtype)
        assert compiled.extension is not None
        network, threads, parts = self._network(images, statistics), compute_threads(), compiled.extension.batch_parts(len(images))
        step = compiled.extension.Sgd(batch=len(images), lr=sgd.lr, momentum=sgd.momentum, weight_decay=sgd.weight_decay)
        if 1 < world.size <= parts and not statistics and distillation is None:
            mine = world.share(parts)
            gradients = weights.new_empty(len(mine), len(weights))
            arrays = (_array(tensor) for tensor in (weights, images, labels, gradients))
            network.part_gradients(*arrays, first=mine.start, threads=threads)
            total = world.summed(gradients)
            network.move(*(_array(tensor) for tensor in (weights, speeds, total[None])), sgd=step, threads=threads)
        else:
            network.train(
                *(_array(tensor) for tensor in (weights, speeds, images, labels, torch.arange(len(images))[None])),
                sgd=step,
                distillation=None if distillation is None else _as_kept(distillation, theta),
                threads=threads,
            )
        for given, moved in ((theta, weights), (velocity, speeds)):
            if moved is not given:
                given.copy_(self._widths.narrow(moved))
        for name, moved in statistics.items():
            buffer = self.module.get_buffer(name)
            buffer.copy_(moved[: len(buffer)])
        for norm in batch_norms(self.module):
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)

    def logits(self, theta: Tensor, images: Tensor) -> Tensor:
        self._check_images(theta, images, 4)
        result = torch.empty(len(images), self._blocks.linear.outputs, dtype=theta.dtype)
        weights = self._widths.weights(theta)
        self._network(images).logits(_array(weights), _array(images), _array(result), threads=compute_threads())
        return result

    def features(self, theta: Tensor, images: Tensor) -> Tensor:
        self._check_images(theta, images, 4)
        weights, result = self._widths.weights(theta), torch.empty(len(images), self._wide_features(), dtype=theta.dtype)
        self._network(images).features(_array(weights), _array(images), _array(result), threads=compute_threads())
        return result[:, : self._blocks.linear.inputs]  # channels more are the last

    def logit_gradients(self, theta: Tensor, images: Tensor, cotangent: Tensor) -> Tensor:
        return self._pulled_back("logit_gradients", theta, images, cotangent)

    def feature_gradients(self, theta: Tensor, images: Tensor, cotangent: Tensor) -> Tensor:
        return self._pulled_back("feature_gradients", theta, images, widened(cotangent, self._wide_features()))

    def _wide_features(self) -> int:
        """Numbers that the last layer reads in the C++."""
        last, inputs = self._blocks.blocks[-1].features, self._blocks.linear.inputs
        return inputs // last * rounded(last)

    def _pulled_back(self, job: str, theta: Tensor, images: Tensor, cotangent: Tensor) -> Tensor:
        """From the gradient by an output of the network to that by the images, by the C++ of this name."""
        self._check_images(theta, images, 4)
        gradients = torch.empty(images.shape, dtype=images.dtype)
        arrays = [_array(tensor) for tensor in (self._widths.weights(theta), images, cotangent, gradients)]
        getattr(self._network(images), job)(*arrays, threads=compute_threads())
        return gradients

    def _check_images(self, theta: Tensor, images: Tensor, dimensions: int) -> None:
        if images.dim() != dimensions or (images.dtype, images.device) != (theta.dtype, theta.device):
            given = f"{list(images.shape)} {images.dtype} on {images.device}"
            raise UsageError(
                f"images are {given}; expected {dimensions} dimensions and {theta.dtype} on {theta.device}, as the weights are."
            )
        channels, height, width = images.shape[-3:]
        expected = self._blocks.channels
        if expected not in (None, channels):
            raise UsageError(f"images are {list(images.shape)}; expected {expected} channels, for which the network was made.")
        assert compiled.extension is not None
        if not self._blocks.takes(channels, height, width) or max(channels, height, width) > compiled.extension.LARGEST_SIZE:
            raise UsageError(
                f"images are {list(images.shape)}; expected another size, for which the network was made: its linear layer reads "
                f"{self._blocks.linear.inputs} numbers."
            )

    def _check_batch(self, images: Tensor) -> None:
        """Refuse a batch of which a batch norm has no variance."""
        network = self._blocks
        for block, size in zip(network.blocks, network.convolved(*images.shape[1:]), strict=True):
            if block.norm_name == "batch" and len(images) * math.prod(size) == 1:
                raise UsageError(ONE_NUMBER)

    def _statistics(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The running mean and variance of each batch norm, by their names, with all channels of the C++."""
        found: dict[str, Tensor] = {}
        for block in self._blocks.blocks:
            for name, rest in ((block.norm.mean, 0.0), (block.norm.variance, 1.0)) if block.norm is not None else ():
                if name is not None:
                    found[name] = widened(self.module.get_buffer(name).to(dtype), rounded(block.features), rest).contiguous()
        return found

    def _momentum(self, norm: Norm) -> float:
        """By which the next batch moves the statistics of a norm, if it has any."""
        if norm.mean is not None and norm.momentum is None:  # to the mean over all batches
            return 1 / (1 + int(self.module.get_buffer(norm.mean.removesuffix("running_mean") + "num_batches_tracked")))
        return norm.momentum or 0.0

    def _network(self, images: Tensor, statistics: dict[str, Tensor] | None = None) -> _C.ConvNet:
        """The plan of the network for images [..., channels, H, W]; statistics of batch norms are those of its module, or those given."""
        network, places = self._blocks, self._widths.places
        statistics = self._statistics(images.dtype) if statistics is None else statistics
        assert compiled.extension is not None
        blocks = []
        for block, read, affine in zip(network.blocks, network.reads(*images.shape[-3:]), self._widths.affine, strict=False):
            layer, norm, features = block.layer, block.norm, rounded(block.features)
            mean, variance = (None, None) if norm is None else (norm.mean, norm.variance)
            if isinstance(layer, Convolution):
                moves = compiled.extension.Convolution(kernel=layer.kernel, stride=layer.stride[0], padding=layer.padding[0])
            else:
                moves = compiled.extension.Convolution(kernel=(read.height, read.width))
            blocks.append(
                compiled.extension.Block(
                    features=features,
                    convolution=moves,
                    layers=compiled.extension.Layers(
                        norm=block.norm_name,
                        groups=block.groups,
                        activation=block.activation.name,
                        pooling=block.pooling_name,
                        **({} if norm is None else {"epsilon": norm.eps}),
                        **({} if block.activation.slope is None else {"slope": block.activation.slope}),
                    ),
                    windows=None if block.windows is None else compiled.extension.Windows(**block.windows._asdict()),
                    weight=places[layer.weight],
                    bias=places.get(layer.bias),
                    gamma=affine[0],
                    beta=affine[1],
                    mean=None if mean is None else _array(statistics[mean]),
                    variance=None if variance is None else _array(statistics[variance]),
                    momentum=0.0 if norm is None else self._momentum(norm),
                )
            )
        return compiled.extension.ConvNet(
            image=(images.shape[-3], images.shape[-2], images.shape[-1]),
            classes=network.linear.outputs,
            blocks=blocks,
            classifier=(places[network.linear.weight], places.get(network.linear.bias)),
            parameters=self._widths.size,
            bfloat16=self.precision == "bfloat16",
        )


class _NativeTraining(Training):
    """Steps in C++."""

    def __init__(self, engine: NativeEngine, theta: Tensor, sgd: Sgd) -> None:
        super().__init__(engine.module, theta, sgd)
        self._engine = engine

    def _step(self, images: Tensor, labels: Tensor, distillation: Distillation | None) -> None:
        self._engine.train_on(self.theta, self.velocity, images, labels, self.sgd, distillation, self.world)


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


def _lacking(network: Blocks) -> list[str]:
    """What the C++ does not serve of blocks."""
    joined = [block for block in odd_widths(network) if block.norm_name in ("group", "layer")]
    reasons = [f"a {block.norm_name} norm is over {block.features} channels; it serves multiples of 8" for block in joined[:1]]
    if (extension := compiled.extension) is None:
        return reasons
    if len(network.blocks) > extension.MOST_BLOCKS:
        reasons.append(f"the network has more than {extension.MOST_BLOCKS} blocks")
    if (largest := max(network.sizes())) > extension.LARGEST_SIZE:
        reasons.append(f"a layer has a size of {largest}; it serves up to {extension.LARGEST_SIZE}")
    names = [
        ("norm", extension.NORMS, [block.norm_name for block in network.blocks]),
        ("activation", extension.ACTIVATIONS, [block.activation.name for block in network.blocks]),
        ("pooling", extension.POOLINGS, [block.pooling_name for block in network.blocks]),
        ("pooling", extension.WINDOW_KINDS, [block.windows.kind for block in network.blocks if block.windows is not None]),
    ]
    for kind, known, found in names:
        if unknown := [name for name in found if name not in known]:
            reasons.append(f"it has no {kind} {unknown[0]!r}; it has {', '.join(known)}")
    return reasons


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()
