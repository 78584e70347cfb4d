"""The cuda engine: chains of layers on a GPU, all classes of a chunk in one pass, every derivative in closed form.

The gradient of <v, g> by the images, g the gradient of a class by the weights, is that of the image gradient along v:

    d/ds < v, grad_theta L(theta, s) >  =  d/de grad_s L(theta + e v, s)  at e = 0,

so that two passes forward and two back give it (`engines.chain.base`), and `match` keeps the first two for the second. Only gradients by
the weights, and products with a direction among them, are one for each class (`engines.chain.products`). It runs on the CPU as well, for
tests, where `auto` does not choose it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from fastdc.engines.augmentation import Augmentation, DrawnAugmentation
from fastdc.engines.base import Distillation, Engine, Sgd, Training, class_numbers, cross_entropy
from fastdc.engines.capture import Graphs
from fastdc.engines.chain.base import ByClass, Network
from fastdc.engines.chain.cross_entropy import CrossEntropy
from fastdc.engines.chain.mirrored import MirroredWeights
from fastdc.engines.chain.norm_act_pool import kernels_can_serve
from fastdc.engines.chain.norms import without_idle_biases
from fastdc.engines.chain.passes import Link, Passes, by_kernels, check_known, output
from fastdc.engines.chain.precision import PRECISIONS
from fastdc.engines.chain.side_by_side import joined, layout_of, parted, side_by_side
from fastdc.engines.chain_training import ChainTraining
from fastdc.engines.chunks import class_chunks, even_slices, split, together
from fastdc.engines.plan import Linear, Norm, NotAChain, chain_of
from fastdc.metrics import Metric, Parameter
from fastdc.metrics.operator import layerwise_distance
from fastdc.parallel.devices import memory_share

_MEMORY = {"cpu": 64, "cuda": 512}  # MiB of what a chunk keeps, at the most; what one layer takes for a while comes on top
_SIDE_BY_SIDE = 64  # MiB that networks trained as one keep, at the most: an H200 trains five of the paper's in turn in half the time

# What a chunk keeps for each image, in units of what its layers put out: on the way forward; forward and back; there and back twice.
_FORWARD, _FIRST_ORDER, _SECOND_ORDER = 1, 2, 4

Method = TypeVar("Method", bound=Callable[..., Any])


def _rounding(method: Method) -> Method:
    """A method of an engine and its weights, whose products are rounded as the engine's precision says."""

    @functools.wraps(method)
    def rounding(engine: CudaEngine, theta: Tensor, *arguments: Any, **options: Any) -> Any:
        with torch.no_grad(), engine.precision.computing(theta):
            return method(engine, theta, *arguments, **options)

    return cast(Method, rounding)


class CudaEngine(Engine):
    """Passes in closed form over chunks of images; a chunk's size changes rounding only."""

    name: ClassVar[str] = "cuda"
    chosen_on: ClassVar[str | None] = "cuda"
    precisions: ClassVar[tuple[str, ...]] = tuple(PRECISIONS)

    def __init__(
        self,
        module: nn.Module,
        precision: str = "float32",
        options: Any = None,
        *,
        kernels: bool | None = None,
        graphs: bool = True,
        networks: int = 1,
    ) -> None:
        """`kernels`: whether Triton kernels compute what they can; None: on a GPU where they can be used. `graphs`: whether steps are
        captured on a GPU. `networks`: how many of the module's structure are trained as one, as `chain.side_by_side` has them."""
        super().__init__(module, precision, options)
        chain = without_idle_biases(side_by_side(chain_of(module), networks))
        self._chain: tuple[Link, ...] = chain
        self.layout, self.networks = layout_of(self.layout, networks), networks
        self.precision, self.graphs = PRECISIONS[precision], Graphs(graphs)
        weight = next(module.parameters())
        device = weight.device
        served = kernels or (kernels is None and weight.is_cuda and kernels_can_serve(device, weight.dtype))
        if served:
            self._chain = by_kernels(chain, self.precision)
        self._loss = functools.partial(CrossEntropy, kernels=served)
        self._mirrored_weights = MirroredWeights(self.layout, device)
        self._ends_linear = isinstance(chain[-1], Linear)
        self._wider = functools.cache(lambda count: CudaEngine(module, precision, options, kernels=kernels, graphs=graphs, networks=count))
        self._memory = memory_share(device, _MEMORY.get(device.type, _MEMORY["cpu"])) << 20
        self._whole_batches = any(isinstance(step, Norm) and step.kind == "batch" for step in chain)
        self._bytes: dict[tuple[int, ...], int] = {}  # that the layers put out, by the shape of an image

    @classmethod
    def unsupported_reasons(cls, module: nn.Module) -> list[str]:
        try:
            check_known(chain_of(module))
        except NotAChain as why:
            return [str(why)]
        return []

    @_rounding
    def class_gradients(self, theta: Tensor, images: Tensor, classes: Tensor | None = None) -> Tensor:
        given = (theta, images, class_numbers(images, classes))
        return self.graphs.done("class gradients", functools.partial(self._class_gradients, self.layout.parameters), given)[0]

    @_rounding
    def seen_gradients(self, theta: Tensor, images: Tensor, metric: str, classes: Tensor | None = None) -> Tensor:
        given, seen = (theta, images, class_numbers(images, classes)), self.layout.seen(Metric.of(metric).rows)
        return self.graphs.done(("class gradients", seen), functools.partial(self._class_gradients, seen), given)[0]

    def _class_gradients(self, wanted: Sequence[Parameter], theta: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor]:
        network, names = self._network(theta), {parameter.name for parameter in wanted}
        result = theta.new_zeros(len(images), self.layout.size)  # [G, P]
        for group, part in class_chunks(images, self._images_per_chunk(theta, images[0], _FIRST_ORDER)):
            some = images[group, part]
            passes = Passes(self._chain, network, some.flatten(0, 1))
            cotangent = self._loss(passes.y, labels[group], images.shape[1]).cotangent
            passes.back_alone(cotangent, self._views_of(result[group], names), through=False)
        return (self.layout.clear_frozen_(result),)

    @_rounding
    def image_gradients(self, theta: Tensor, images: Tensor, cotangent: Tensor, classes: Tensor | None = None) -> Tensor:
        given = (theta, images, self.layout.trained_part(cotangent).contiguous(), class_numbers(images, classes))
        return self.graphs.done("image gradients", self._image_gradients, given)[0]

    def _image_gradients(self, theta: Tensor, images: Tensor, cotangent: Tensor, labels: Tensor) -> tuple[Tensor]:
        network, vectors, result = self._network(theta), self.layout.views(cotangent), torch.empty_like(images)
        for group, part in class_chunks(images, self._images_per_chunk(theta, images[0], _SECOND_ORDER)):
            some = images[group, part]
            passes = Passes(self._chain, network, some.flatten(0, 1))
            loss = self._loss(passes.y, labels[group], images.shape[1])
            passes.back(loss.cotangent, through=False)
            tangent = passes.along(None, {name: view[group] for name, view in vectors.items()})
            result[group, part] = passes.back_along(loss.along(tangent)).view(some.shape)
        return (result,)

    @_rounding
    def match(self, theta: Tensor, synthetic: Tensor, real: Tensor, metric: str, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As any engine does it, some classes at a time, so that the first two passes serve both gradients; what the metric does not
        look at is not computed."""
        if synthetic.shape[1] > self._images_per_chunk(theta, synthetic[0], _SECOND_ORDER):
            return super().match(theta, synthetic, real, metric, classes)
        given = (theta, synthetic, real, class_numbers(synthetic, classes))
        distance, gradient = self.graphs.done(("match", metric), functools.partial(self._match, metric), given)
        return distance, gradient

    def _match(self, metric: str, theta: Tensor, synthetic: Tensor, real: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        each, network = synthetic.shape[1], self._network(theta)
        most = self._images_per_chunk(theta, synthetic[0], _SECOND_ORDER)
        seen = {parameter.name for parameter in self.layout.seen(Metric.of(metric).rows)}
        distances, found = [], []
        for group in even_slices(len(synthetic), most // each):
            some = synthetic[group]
            passes = Passes(self._chain, network, some.flatten(0, 1))
            loss = self._loss(passes.y, labels[group], each)
            gradients = theta.new_zeros(len(some), self.layout.size)  # [g, P]
            passes.back(loss.cotangent, self._views_of(gradients, seen), through=False)
            distance, cotangent = layerwise_distance(gradients, real[group], self.layout, metric)  # [g], [g, P]
            tangent = passes.along(None, self._views_of(cotangent, seen))
            found.append(passes.back_along(loss.along(tangent)).view(some.shape))
            distances.append(distance)
        return together(distances), together(found)

    @_rounding
    def hessian_products(self, theta: Tensor, images: Tensor, vector: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        labels, network = class_numbers(images, classes).repeat_interleave(images.shape[1]), self._network(theta)
        flat = images.flatten(0, 1)  # [N, channels, H, W]
        direction = self.layout.views(self.layout.trained_part(vector).contiguous()[None])  # [1, *shape] each
        by_weights, by_images = theta.new_zeros(1, self.layout.size), torch.empty_like(flat)
        for part in even_slices(len(flat), self._images_per_chunk(theta, flat, _SECOND_ORDER)):
            passes = Passes(self._chain, network, flat[part])
            loss = self._loss(passes.y, labels[part], len(flat))
            passes.back(loss.cotangent, through=False)
            tangent = loss.along(passes.along(None, direction))
            by_images[part] = passes.back_along(tangent, self.layout.views(by_weights))
        return self.layout.clear_frozen_(by_weights)[0], by_images.view(images.shape)

    def training(self, theta: Tensor, sgd: Sgd) -> Training:
        return ChainTraining(self, theta, sgd)

    def most_side_by_side(self, theta: Tensor, images: Tensor, sgd: Sgd) -> int:
        """As many as keep little, and leave a GPU idle alone; one where a norm follows the batch, whose statistics each network keeps for
        itself."""
        if self._whole_batches:
            return 1
        memory = min(self._memory, _SIDE_BY_SIDE << 20)
        return max(1, memory // (_FIRST_ORDER * self._bytes_of(theta, images)) // min(len(images), sgd.batch))

    def train_side_by_side(
        self,
        thetas: Tensor,
        images: Tensor,
        labels: Tensor,
        sgd: Sgd,
        generators: Sequence[torch.Generator],
        augment: Augmentation | None = None,
    ) -> None:
        """As one network of as many times as many channels."""
        if not (augment is None or isinstance(augment, DrawnAugmentation)):
            super().train_side_by_side(thetas, images, labels, sgd, generators, augment)
            return
        theta = joined(thetas, self.layout)
        training = ChainTraining(self._wider(len(thetas)), theta, sgd)
        if augment is None:
            training.run_side_by_side(images, labels, generators)
        else:
            training.run_augmented_side_by_side(images, labels, generators, augment)
        thetas.copy_(parted(theta, self.layout, len(thetas)))

    @_rounding
    def add_loss_gradient(
        self, theta: Tensor, gradient: Tensor, images: Tensor, labels: Tensor, distillation: Distillation | None = None
    ) -> None:
        """Add to `gradient` [P] that of the mean loss of a batch by the weights theta [P], norms being in training; of networks side by
        side with labels [b, networks, ...]."""
        network, views = self._network(theta, training=True), self.layout.views(gradient[None])  # [1, *shape] each
        most = len(images) if self._whole_batches else self._images_per_chunk(theta, images, _FIRST_ORDER)
        for part in even_slices(len(images), most):
            passes = Passes(self._chain, network, images[part])
            of_each = labels[part] if self.networks == 1 else labels[part].flatten(0, 1)
            some = None if distillation is None else distillation.at(part)
            cotangent = self._loss_cotangent(passes.y.view(len(of_each), -1), of_each, len(images), some)
            passes.back_alone(cotangent.view(passes.y.shape), views, through=False)

    @_rounding
    def logits(self, theta: Tensor, images: Tensor) -> Tensor:
        network = self._network(theta)
        return torch.cat([output(self._chain, network, part) for part in split(images, self._images_per_chunk(theta, images, _FORWARD))])

    @_rounding
    def features(self, theta: Tensor, images: Tensor) -> Tensor:
        if not self._ends_linear:
            return super().features(theta, images)  # which refuses it, or finds a linear layer before the last
        network = self._network(theta)
        parts = split(images, self._images_per_chunk(theta, images, _FORWARD))
        return torch.cat([output(self._chain[:-1], network, part) for part in parts])

    def feature_gradients(self, theta: Tensor, images: Tensor, cotangent: Tensor) -> Tensor:
        if not self._ends_linear:
            return super().feature_gradients(theta, images, cotangent)
        return self._pulled_back(theta, self._chain[:-1], images, cotangent)

    def logit_gradients(self, theta: Tensor, images: Tensor, cotangent: Tensor) -> Tensor:
        return self._pulled_back(theta, self._chain, images, cotangent)

    @_rounding
    def _pulled_back(self, theta: Tensor, chain: Sequence[Link], images: Tensor, cotangent: Tensor) -> Tensor:
        """The gradient by images [N, ...] of <cotangent, what the chain gives>."""
        network, most = self._network(theta), self._images_per_chunk(theta, images, _FIRST_ORDER)
        parts = zip(split(images, most), split(cotangent, most), strict=True)
        return torch.cat([Passes(chain, network, some).back_alone(given) for some, given in parts])

    def _network(self, theta: Tensor, training: bool = False) -> Network:
        theta = theta.contiguous()
        mirror = functools.partial(self._mirrored_weights.of, theta)
        return Network(self.layout.views(theta), dict(self.module.named_buffers()), self.precision, training, mirror)

    def trained_views(self, flat: Tensor) -> list[Tensor]:
        """Those of the parameters in `flat` [P] that are trained."""
        frozen = {parameter.name for parameter in self.layout.parameters if parameter.frozen}
        return [view for name, view in self.layout.views(flat).items() if name not in frozen]

    def _views_of(self, flat: Tensor, names: set[str]) -> ByClass:
        return {name: view for name, view in self.layout.views(flat).items() if name in names}

    def _images_per_chunk(self, theta: Tensor, images: Tensor, copies: int) -> int:
        """How many of images [N, channels, H, W] fit into the memory of a chunk that keeps so many copies; at least one."""
        return max(1, self._memory // (copies * self._bytes_of(theta, images)))

    def _bytes_of(self, theta: Tensor, images: Tensor) -> int:
        """That an image and what the layers make of it take."""
        shape = tuple(images.shape[1:])
        if shape not in self._bytes:
            passes = Passes(self._chain, self._network(theta), images[:1])
            self._bytes[shape] = images[:1].nbytes + sum(layer.y.nbytes for layer in passes.layers)
        return self._bytes[shape]

    def _loss_cotangent(self, logits: Tensor, labels: Tensor, count: int, distillation: Distillation | None) -> Tensor:
        """The gradient by logits [N, num_classes] of the loss of a batch, of which these are N of `count` images."""
        if labels.dim() == 1 and distillation is None:
            return self._loss(logits, labels, count).cotangent
        with torch.enable_grad():
            logits = logits.detach().requires_grad_()
            loss = cross_entropy(logits, labels, reduction="sum")
            if distillation is not None:
                loss = loss + distillation.loss(logits)
            return torch.autograd.grad(loss / count, logits)[0]
