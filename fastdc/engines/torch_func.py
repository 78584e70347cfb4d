"""The torch engine: torch.func transforms over chunks of classes and images, for any module on any device.

Real images need first order only: vmap over classes of grad. For the synthetic images, with v the cotangent and L the loss,

    d/ds < v, grad_theta L(theta, s) >  =  d/de grad_s L(theta + e v, s)  at e = 0:

forward mode over reverse mode, `jvp` of `grad`, which keeps no graph of the first gradient. L is a mean over images, so both
are sums over chunks of them, and memory depends on the chunk alone. Where a class is too large to share a chunk with others, and
its graph fits into the memory budget, `match` keeps that graph and goes back through it: that spares two passes. Products with the
Hessian are of one vector for all classes, so that no vmap is needed, and go back through the graph of a chunk always: 1.5 to 2.5
times as fast on two cores as forward over reverse.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from fastdc.engines.base import (
    Distillation,
    Engine,
    Sgd,
    Training,
    batch_norms,
    class_numbers,
    cross_entropy,
    gradients_of_products,
    stop_on_the_way_back,
    stopping_between_layers,
    weight_gradients,
    weight_leaves,
)
from fastdc.engines.chunks import class_chunks, even_slices, split
from fastdc.errors import FastdcError, UsageError
from fastdc.metrics.operator import layerwise_distance
from fastdc.parallel.devices import memory_share
from fastdc.parallel.out_of_memory import is_out_of_memory
from fastdc.runtime.forking import FreshLock
from fastdc.runtime.stopping import stop_point

with (
    warnings.catch_warnings(),
    contextlib.suppress(ImportError),
):  # what torch loads at the first jvp warns of itself, on the user's terminal
    warnings.simplefilter("ignore", FutureWarning)
    import torch._decomp.decompositions_for_jvp

Weights = dict[str, Tensor]


class _Limits(NamedTuple):
    """What chunks are cut to on one type of device, in MiB at their peak."""

    memory: int  # of any chunk
    first_order: int  # of one in which each image is gone through forward and back
    shared: int  # of second order: where two classes fit into it, classes share a chunk, else the graph of each is kept
    second_order_copies: int  # what such a chunk holds, in units of the maps of one forward pass


# On the CPU maps that stay in the last cache are read from there by the next operator (bench/bench_engines.py, class gradients).
# On a GPU 256 images of the default network fill it, and classes that share a chunk take as long as one after another; what is smaller
# waits for its launches, so that as many classes share as there is memory for (bench/gpu.sh, chunks).
_LIMITS = {"cpu": _Limits(512, 64, 64, 13), "cuda": _Limits(8192, 1280, 8192, 6)}

# The same for the other passes: maps and their gradients; the graph of a class's gradient while it is gone back through.
_FIRST_ORDER_COPIES = 2
_GRAPH_COPIES = 4

_COMPILERS = tuple(filter(None, (os.environ.get("CXX"), "g++", "clang++")))  # that torch.compile can use
_forward_mode = FreshLock()  # torch numbers the levels of forward mode for the whole process, not for each thread


@dataclass(frozen=True)
class TorchEngineOptions:
    """Options of `torch`: memory (MiB that the maps of a chunk may take; None: 512 on the CPU, on GPUs an eighth of what is free, a
    power of two and 8192 at the most) and compile (through torch.compile, which takes minutes before the first step)."""

    memory: int | None = None
    compile: bool = False


class TorchEngine(Engine):
    """Batched per-class gradients through torch.func, chunked to a memory budget; a chunk's size changes rounding only."""

    name: ClassVar[str] = "torch"
    Options: ClassVar[type] = TorchEngineOptions

    def __init__(self, module: nn.Module, precision: str = "float32", options: TorchEngineOptions | None = None) -> None:
        super().__init__(module, precision, options)
        options = options if options is not None else TorchEngineOptions()
        device = next(module.parameters()).device
        limits = _LIMITS.get(device.type, _LIMITS["cpu"])
        memory = options.memory if options.memory is not None else memory_share(device, limits.memory)
        if memory < 1:
            raise UsageError(f"engine torch with memory={memory}; expected 1 MiB or more.")
        self._memory, self._first_order, self._shared = (min(memory, most) << 20 for most in (memory, limits.first_order, limits.shared))
        self._second_order_copies = limits.second_order_copies
        self._alone: set[str] = set()  # jobs that go class by class
        self._map_bytes: dict[tuple[int, ...], int] = {}
        self._compiled = options.compile
        if self._compiled and not any(shutil.which(name) for name in _COMPILERS):
            raise UsageError(
                f"engine torch with compile=true needs a C++ compiler, and none of {', '.join(_COMPILERS)} is there; leave it out."
            )
        wrap: Callable[[Callable[..., Any]], Callable[..., Any]] = torch.compile if self._compiled else lambda function: function
        self._weight_gradients = wrap(self._batched_weight_gradients)
        self._image_gradients = wrap(self._batched_image_gradients)

    def class_gradients(self, theta: Tensor, images: Tensor, classes: Tensor | None = None) -> Tensor:
        labels = class_numbers(images, classes)
        return self._batched("class gradients", lambda alone: self._class_gradients(theta, images, labels, alone))

    def _class_gradients(self, theta: Tensor, images: Tensor, classes: Tensor, alone: bool) -> Tensor:
        weights, leaves = self.layout.views(theta), weight_leaves(self.layout, theta)
        result = theta.new_zeros(len(images), self.layout.size)  # [G, P]
        share = 1 / images.shape[1]
        most = self._images_per_chunk(theta, images[0], self._first_order // _FIRST_ORDER_COPIES)
        for group, part in class_chunks(images, most, alone):
            if alone or (group.stop - group.start == 1 and not self._compiled):
                # `torch.func.grad` always keeps a graph of the backward pass, which costs the norms their fused kernels.
                loss = self._loss(leaves, images[group.start, part], classes[group.start])
                gradients = weight_gradients(loss, leaves)
            else:
                gradients = self._weight_gradients(weights, images[group, part], classes[group])
            for view, gradient in zip(self.layout.views(result[group]).values(), gradients, strict=True):
                view.add_(gradient, alpha=share)
        return self.layout.clear_frozen_(result)

    def image_gradients(self, theta: Tensor, images: Tensor, cotangent: Tensor, classes: Tensor | None = None) -> Tensor:
        labels, vectors = class_numbers(images, classes), self.layout.views(self.layout.trained_part(cotangent))
        return self._batched("image gradients", lambda alone: self._gradients_by_images(theta, images, vectors, labels, alone))

    def _gradients_by_images(self, theta: Tensor, images: Tensor, vectors: Weights, classes: Tensor, alone: bool) -> Tensor:
        weights, leaves = self.layout.views(theta), weight_leaves(self.layout, theta)
        result = torch.empty_like(images)
        share, copies = 1 / images.shape[1], _GRAPH_COPIES if alone else self._second_order_copies
        for group, part in class_chunks(images, self._images_per_chunk(theta, images[0], self._memory // copies), alone):
            tangent = {name: view[group] for name, view in vectors.items()}
            if alone:
                some = images[group.start, part].detach().requires_grad_()
                gradients = weight_gradients(self._loss(leaves, some, classes[group.start]), leaves, create_graph=True)
                found = gradients_of_products(gradients, [some], [vector[0] for vector in tangent.values()])[0]
            else:
                found = self._image_gradients(weights, tangent, images[group, part], classes[group])
            result[group, part] = found * share
        return result

    def _batched(self, job: str, compute: Callable[[bool], Tensor]) -> Tensor:
        """What `compute(alone)` gives. From the first time on that torch's vmap or forward mode lack an operation of the module, which no
        one knows before, each class is computed alone, by graphs as autograd keeps them."""
        if job not in self._alone:
            try:
                return compute(False)
            except FastdcError:
                raise
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                self._alone.add(job)  # if there is another cause, it shows again
        return compute(True)

    def hessian_products(self, theta: Tensor, images: Tensor, vector: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        weights, vectors = weight_leaves(self.layout, theta), list(self.layout.views(self.layout.trained_part(vector)).values())
        labels, flat = class_numbers(images, classes).repeat_interleave(images.shape[1]), images.detach().flatten(0, 1)  # [N], [N, ...]
        by_weights, by_images = torch.zeros_like(theta), torch.empty_like(flat)
        for part in even_slices(len(flat), self._images_per_chunk(theta, flat, self._memory // _GRAPH_COPIES)):
            some = flat[part].requires_grad_()
            loss = self._loss(weights, some, labels[part]) / len(flat)
            gradients = weight_gradients(loss, weights, create_graph=True)
            products = gradients_of_products(gradients, [*weights.values(), some], vectors)
            by_weights += torch.cat([product.flatten() for product in products[:-1]])
            by_images[part] = products[-1]
        return self.layout.clear_frozen_(by_weights), by_images.view(images.shape)

    def match(self, theta: Tensor, synthetic: Tensor, real: Tensor, metric: str, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        each = synthetic.shape[1]
        fits = each <= self._images_per_chunk(theta, synthetic[0], self._memory // _GRAPH_COPIES)
        batched = 2 * each <= self._images_per_chunk(theta, synthetic[0], self._shared // self._second_order_copies)
        if self._compiled or batched or not fits:
            return super().match(theta, synthetic, real, metric, classes)
        weights, share = weight_leaves(self.layout, theta), 1 / each
        distances, result = [], torch.empty_like(synthetic)
        for c, label in enumerate(class_numbers(synthetic, classes)):
            stop_point()
            images = synthetic[c].detach().requires_grad_()
            gradients = weight_gradients(self._loss(weights, images, label) * share, weights, create_graph=True)
            flat = torch.cat([gradient.detach().flatten() for gradient in gradients])[None]  # [1, P]
            distance, cotangent = layerwise_distance(flat, real[c : c + 1], self.layout, metric)
            result[c] = gradients_of_products(gradients, [images], self.layout.views(cotangent[0]).values())[0]
            distances.append(distance)
        return torch.cat(distances), result

    def training(self, theta: Tensor, sgd: Sgd) -> Training:
        return _ChunkedTraining(self, theta, sgd)

    def logits(self, theta: Tensor, images: Tensor) -> Tensor:
        weights = self.layout.views(theta)
        with torch.no_grad():
            parts = split(images, self._images_per_chunk(theta, images, self._first_order))
            return torch.cat([functional_call(self.module, weights, (part,)) for part in parts])

    def features(self, theta: Tensor, images: Tensor) -> Tensor:
        parts = split(images, self._images_per_chunk(theta, images, self._first_order))
        return torch.cat([super(TorchEngine, self).features(theta, part) for part in parts])

    def feature_gradients(self, theta: Tensor, images: Tensor, cotangent: Tensor) -> Tensor:
        return self._pulled_back(super().feature_gradients, theta, images, cotangent)

    def logit_gradients(self, theta: Tensor, images: Tensor, cotangent: Tensor) -> Tensor:
        return self._pulled_back(super().logit_gradients, theta, images, cotangent)

    def _pulled_back(self, pull_back: Callable[..., Tensor], theta: Tensor, images: Tensor, cotangent: Tensor) -> Tensor:
        """What `pull_back(theta, images, cotangent)` gives, a chunk of images after another."""
        most = self._images_per_chunk(theta, images, self._first_order // _FIRST_ORDER_COPIES)
        parts = zip(split(images, most), split(cotangent, most), strict=True)
        return torch.cat([pull_back(theta, *part) for part in parts])

    def _loss(self, weights: Weights, images: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy summed over images [n, channels, H, W] of one class, or with a label each."""
        return F.cross_entropy(functional_call(self.module, weights, (images,)), label.expand(len(images)), reduction="sum")

    def _batched_weight_gradients(self, weights: Weights, images: Tensor, classes: Tensor) -> tuple[Tensor, ...]:
        """Summed over images [G, b, channels, H, W]: one tensor [G, *shape] per parameter."""
        return tuple(vmap(grad(self._loss), in_dims=(None, 0, 0))(weights, images, classes).values())

    def _batched_image_gradients(self, weights: Weights, tangents: Weights, images: Tensor, classes: Tensor) -> Tensor:
        """d/de grad_s L(theta + e v, s) with L summed over images [G, b, channels, H, W], and v of shape [G, ...]."""

        def one_class(tangent: Weights, some: Tensor, label: Tensor) -> Tensor:
            def gradient(moved: Weights) -> Tensor:
                return grad(self._loss, argnums=1)(moved, some, label)

            return jvp(gradient, (weights,), (tangent,))[1]

        with _forward_mode:
            return vmap(one_class)(tangents, images, classes)

    def images_per_training_chunk(self, theta: Tensor, images: Tensor) -> int:
        """How many of images [N, channels, H, W] go through the network at once while it is trained."""
        return self._images_per_chunk(theta, images, self._first_order // _FIRST_ORDER_COPIES)

    def _images_per_chunk(self, theta: Tensor, images: Tensor, budget: int) -> int:
        """How many of images [N, channels, H, W] have maps that fit into a budget of bytes; at least one."""
        shape = tuple(images.shape[1:])
        if shape not in self._map_bytes:
            self._map_bytes[shape] = self._bytes_of_maps(theta, images[:1])
        return max(1, budget // self._map_bytes[shape])

    def _bytes_of_maps(self, theta: Tensor, image: Tensor) -> int:
        """What the layers of the module put out for one image [1, channels, H, W], in bytes."""
        total, training = image.nbytes, self.module.training

        def count(_module: nn.Module, _inputs: object, output: object) -> None:
            nonlocal total
            total += output.nbytes if isinstance(output, Tensor) else 0

        handles = [part.register_forward_hook(count) for part in self.module.modules() if not list(part.children())]
        self.module.eval()  # which draws no random numbers and leaves statistics as they are
        try:
            with torch.no_grad():
                functional_call(self.module, self.layout.views(theta), (image,))
        finally:
            self.module.train(training)
            for handle in handles:
                handle.remove()
        return total


class _ChunkedTraining(Training):
    """SGD whose gradients add up over chunks of a batch; batch norm sees the whole batch while it is trained."""

    def __init__(self, engine: TorchEngine, theta: Tensor, sgd: Sgd) -> None:
        super().__init__(engine.module, theta, sgd)
        self._engine, self._weights, self._gradient = engine, weight_leaves(engine.layout, theta), torch.empty_like(theta)
        self._whole = bool(batch_norms(engine.module))
        if self._whole:
            stop_on_the_way_back(self._weights)

    def _step(self, images: Tensor, labels: Tensor, distillation: Distillation | None) -> None:
        sgd, gradient = self.sgd, self._gradient
        most = len(images) if self._whole else self._engine.images_per_training_chunk(self.theta, images)
        parts = []
        for part in even_slices(len(images), most):
            with stopping_between_layers(self.module) if self._whole else contextlib.nullcontext():
                logits = functional_call(self.module, self._weights, (images[part],))
            loss = cross_entropy(logits, labels[part], reduction="sum")
            if distillation is not None:
                loss = loss + distillation.at(part).loss(logits)
            parts.append(weight_gradients(loss / len(images), self._weights))
        torch.cat([torch.stack(g).sum(0).flatten() if len(g) > 1 else g[0].flatten() for g in zip(*parts, strict=True)], out=gradient)
        with torch.no_grad():
            gradient.add_(self.theta, alpha=sgd.weight_decay)
            self._engine.layout.clear_frozen_(gradient)
            self.velocity.mul_(sgd.momentum).add_(gradient)
            self.theta.add_(self.velocity, alpha=-sgd.lr)
