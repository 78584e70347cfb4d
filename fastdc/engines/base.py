"""The engine protocol: what condensation and evaluation ask of a network, on one flat vector of weights."""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdc.engines.augmentation import Augmentation
from fastdc.engines.features import features_of
from fastdc.errors import UsageError
from fastdc.metrics.layout import ParameterLayout
from fastdc.metrics.operator import layerwise_distance
from fastdc.options.checks import check_count
from fastdc.options.registry import NoOptions
from fastdc.parallel.devices import to_device
from fastdc.parallel.world import ALONE, World
from fastdc.runtime.stopping import stop_point

ONE_NUMBER = "a batch norm in training needs more than one number of each channel; give batches of more than one image."


@dataclass(frozen=True)
class Sgd:
    """One phase of SGD at a constant learning rate, its momentum starting at zero."""

    epochs: int
    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch: int = 256

    def __post_init__(self) -> None:
        check_count("epochs", self.epochs, least=0)
        check_count("batch", self.batch)


@dataclass(frozen=True, eq=False)
class Distillation:
    """The logits of an older network, which a newer one keeps while it learns; adds to the loss of each image

        - sum over groups of the old classes of < softmax(old logits / T), log softmax(new logits / T) >,

    the softmax within the group (Castro et al., "End-to-End Incremental Learning", ECCV 2018).
    """

    logits: Tensor
    """Of the older network, [N, K]: for the first K classes of the newer one."""
    groups: tuple[int, ...]
    """How many classes each group has, K in all."""
    temperature: float = 2.0

    def at(self, index: Tensor | slice) -> Distillation:
        """That of the images at `index` alone."""
        return dataclasses.replace(self, logits=self.logits[index])

    def shares(self) -> Tensor:
        """The softmax within each group of the older network's logits / T, [N, K]."""
        return torch.cat([old.softmax(1) for old in (self.logits / self.temperature).split(self.groups, 1)], 1)

    def loss(self, logits: Tensor) -> Tensor:
        """Summed over the images, which have these logits [N, K or more]."""
        found = (logits[:, : sum(self.groups)] / self.temperature).split(self.groups, 1)
        kept = self.shares().split(self.groups, 1)
        return torch.stack([F.cross_entropy(new, old, reduction="sum") for new, old in zip(found, kept, strict=True)]).sum()


class Batch(NamedTuple):
    """What one step of SGD learns from."""

    images: Tensor  # [b, channels, H, W], normalised
    labels: Tensor  # [b], or soft [b, k]
    distillation: Distillation | None = None


@dataclass(frozen=True, eq=False)
class Fetch:
    """Makes the batches of a training from the positions of their images."""

    batch: Callable[[Tensor], Batch]
    """Of positions [b] on `device`."""
    device: torch.device
    """Where positions go. If that is where the network is, a batch takes nothing from the host and is made in one place."""
    image_size: tuple[int, int]
    """Height and width of the images."""
    classes: int
    """How many there are."""

    def __call__(self, index: Tensor) -> Batch:
        """The batch at positions [b]."""
        return self.batch(to_device(index, self.device))


class Training(ABC):
    """One network while it is trained: its weights, the velocity of its momentum, and what the engine keeps from step to step.

    Args:
        module: the structure, and the statistics of batch norm.
        theta: weights [P], changed in place.
        sgd: epochs, learning rate, momentum, weight decay and batch size.
    """

    def __init__(self, module: nn.Module, theta: Tensor, sgd: Sgd) -> None:
        self.module, self.theta, self.sgd = module, theta, sgd
        self.velocity = torch.zeros_like(theta)  # [P], of the momentum: gradients summed up, each step sgd.momentum times the last
        self.world = ALONE  # the processes that take the same steps, where they may share them

    def step(self, images: Tensor, labels: Tensor, distillation: Distillation | None = None) -> None:
        """One step on the mean cross-entropy of one batch, with the velocity that the steps before have left.

        Args:
            images: normalised images [b, channels, H, W].
            labels: int64 [b]; or soft, shares of the first k classes, float [b, k].
            distillation: the logits of an older network for these images; its term is added to the cross-entropy of each.

        Raises:
            UsageError: shares of more classes than the network knows.
        """
        with _train_mode(self.module):
            self._step(images, labels, distillation)

    def run(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        augment: Augmentation | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        """All epochs in shuffled batches, the velocity zero at their beginning and at their end.

        Args:
            images: normalised images [N, channels, H, W].
            labels: int64 [N]; or soft, shares of the first k classes, float [N, k].
            generator: gives the order of the batches.
            augment: changes the images of each batch, and their labels, before they are learned.
            distillation: the logits of an older network for the N images; its term is added to the cross-entropy of each.

        Raises:
            UsageError: shares of more classes than the network knows.
        """
        self.velocity.zero_()
        with _train_mode(self.module):
            for index in batches(len(images), self.sgd, generator, images.device):
                some, known = images[index], labels[index]
                if augment is not None:
                    some, known = augment(some, known, generator)
                self._step(some, known, distillation.at(index) if distillation is not None else None)
        self.velocity.zero_()

    def steps(
        self, orders: Iterable[Tensor], fetch: Fetch, augment: Augmentation | None = None, generator: torch.Generator | None = None
    ) -> Iterator[None]:
        """All epochs in batches that are made as they are needed, with the velocity that the steps before have left; one item after each
        step. The weights are those of that step at the end of each epoch, and need not be before.

        Args:
            orders: for each epoch the positions [n] of its images; taken one after another, what augmentation draws for an epoch between.
            fetch: makes the batches.
            augment: changes the images of each batch, and their labels, before they are learned.
            generator: from which it draws.
        """
        for order in orders:
            for index in to_device(order, fetch.device).split(self.sgd.batch):
                stop_point()
                images, labels, distillation = fetch(index)
                if augment is not None:
                    assert generator is not None
                    images, labels = augment(images, labels, generator)
                self.step(images, labels, distillation)
                yield

    @abstractmethod
    def _step(self, images: Tensor, labels: Tensor, distillation: Distillation | None) -> None:
        """As `step`, the module being in training mode."""


class Engine(ABC):
    """Gradients, training and logits of one module whose weights are handed over as a flat vector theta [P].

    G classes of the C that there are, n images of each, P parameters. Losses are the mean cross-entropy over the n images of one
    class. The module gives the structure, the statistics of batch norm, which matching keeps frozen, and what of its weights requires no
    gradient: gradients by those are zero, and training leaves them as they are. Its own weights are not touched.

    Args:
        module: any nn.Module from images [N, channels, H, W] to logits [N, num_classes].
        precision: one of `precisions`.
        options: an object of `Options`, or None for all as they are by default.
    """

    name: ClassVar[str]
    Options: ClassVar[type] = NoOptions
    """The dataclass of what a spec may set."""
    chosen_on: ClassVar[str | None] = None
    """The kind of device on which `auto` takes it, where it can serve; None: any."""
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    """How it rounds the products of float32 numbers, names of `engines.chain.precision.PRECISIONS`."""
    classes_apart: ClassVar[bool] = False
    """Whether what it finds for a class has the same bits whatever other classes it is given with it."""

    def __init__(self, module: nn.Module, precision: str = "float32", options: Any = None) -> None:
        self.module = module.eval()
        self.layout = ParameterLayout.of(module)

    @classmethod
    def missing_for(cls, precision: str) -> list[str]:
        """What this machine lacks for one of `precisions`, one sentence each."""
        return []

    @classmethod
    def unsupported_reasons(cls, module: nn.Module) -> list[str]:
        """Why this engine cannot serve `module`, one sentence each; empty when it can."""
        return []

    @abstractmethod
    def class_gradients(self, theta: Tensor, images: Tensor, classes: Tensor | None = None) -> Tensor:
        """The gradient of each class's mean cross-entropy by the weights.

        Args:
            theta: weights [P].
            images: normalised images [G, n, channels, H, W].
            classes: the class of each of the G sets of images, int64 [G]; None: 0 to G - 1.

        Returns:
            Gradients [G, P].
        """

    def seen_gradients(self, theta: Tensor, images: Tensor, metric: str, classes: Tensor | None = None) -> Tensor:
        """`class_gradients` as far as `metric` looks at them: those of other parameters may be zero."""
        return self.class_gradients(theta, images, classes)

    @abstractmethod
    def image_gradients(self, theta: Tensor, images: Tensor, cotangent: Tensor, classes: Tensor | None = None) -> Tensor:
        """The gradient by the images of <cotangent, class_gradients(theta, images, classes)>.

        Args:
            theta: weights [P].
            images: normalised images [G, n, channels, H, W].
            cotangent: d distance / d class gradient [G, P].
            classes: the class of each of the G sets of images, int64 [G]; None: 0 to G - 1.

        Returns:
            Gradients [G, n, channels, H, W].
        """

    @abstractmethod
    def hessian_products(self, theta: Tensor, images: Tensor, vector: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Second derivatives of the loss times a vector: what going back through a step of SGD asks for.

        With L the mean cross-entropy over all these images, and g its gradient by the weights: the gradients of <vector, g>.

        Args:
            theta: weights [P].
            images: normalised images [G, n, channels, H, W].
            vector: a direction among the weights [P].
            classes: the class of each of the G sets of images, int64 [G]; None: 0 to G - 1.

        Returns:
            Its gradient by the weights, the Hessian times the vector [P]; and by the images [G, n, channels, H, W].
        """

    @abstractmethod
    def training(self, theta: Tensor, sgd: Sgd) -> Training:
        """What trains the weights `theta` [P] in place by SGD on the mean cross-entropy of batches."""

    def train(
        self,
        theta: Tensor,
        images: Tensor,
        labels: Tensor,
        sgd: Sgd,
        generator: torch.Generator,
        augment: Augmentation | None = None,
        distillation: Distillation | None = None,
        world: World = ALONE,
    ) -> None:
        """One run of `training`: theta [P] is changed in place. Processes that make the same call together, `world`, may each do a part
        of it."""
        training = self.training(theta, sgd)
        training.world = world
        training.run(images, labels, generator, augment, distillation)

    def most_side_by_side(self, theta: Tensor, images: Tensor, sgd: Sgd) -> int:
        """How many networks with weights as theta [P] it trains on these images faster at once than one after another."""
        return 1

    def train_side_by_side(
        self,
        thetas: Tensor,
        images: Tensor,
        labels: Tensor,
        sgd: Sgd,
        generators: Sequence[torch.Generator],
        augment: Augmentation | None = None,
    ) -> None:
        """`train` of several networks at once, their weights thetas [K, P], each by the draws of its own generator."""
        for theta, generator in zip(thetas, generators, strict=True):
            self.train(theta, images, labels, sgd, generator, augment)

    @abstractmethod
    def logits(self, theta: Tensor, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of normalised images [N, channels, H, W]."""

    def features(self, theta: Tensor, images: Tensor) -> Tensor:
        """What the last linear layer reads [N, F], of normalised images [N, channels, H, W].

        Raises:
            UsageError: a network without such a layer.
        """
        with torch.no_grad():
            return features_of(self.module, self.layout.views(theta), images)

    def feature_gradients(self, theta: Tensor, images: Tensor, cotangent: Tensor) -> Tensor:
        """The gradient by images [N, channels, H, W] of <cotangent, features(theta, images)>, cotangent [N, F]."""
        images = images.detach().requires_grad_()
        return torch.autograd.grad(features_of(self.module, self.layout.views(theta), images), images, cotangent)[0]

    def logit_gradients(self, theta: Tensor, images: Tensor, cotangent: Tensor) -> Tensor:
        """The gradient by images [N, channels, H, W] of <cotangent, logits(theta, images)>, cotangent [N, num_classes]."""
        images = images.detach().requires_grad_()
        return torch.autograd.grad(torch.func.functional_call(self.module, self.layout.views(theta), (images,)), images, cotangent)[0]

    def match(self, theta: Tensor, synthetic: Tensor, real: Tensor, metric: str, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The distance of the synthetic images' gradients from the real ones, and its gradient by the images.

        Args:
            theta: weights [P].
            synthetic: images [G, n, channels, H, W].
            real: the real images' gradients [G, P].
            metric: as `layerwise_distance` takes it.
            classes: the class of each of the G sets of images, int64 [G]; None: 0 to G - 1.

        Returns:
            The distance of each class [G], and d distance / d synthetic [G, n, channels, H, W].
        """
        gradients = self.class_gradients(theta, synthetic, classes)  # [G, P]
        distance, cotangent = layerwise_distance(gradients, real, self.layout, metric)  # [G], [G, P]
        return distance, self.image_gradients(theta, synthetic, cotangent, classes)

    def statistics(self) -> dict[str, Tensor]:
        """What batch norms have seen in training, the buffers themselves by their names."""
        norms = {name for name, part in self.module.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)}
        return {name: buffer for name, buffer in self.module.named_buffers() if name.rpartition(".")[0] in norms}

    def follow_statistics(self, theta: Tensor, images: Tensor) -> None:
        """Move every batch norm's mean and variance on by a pass of `images` [N, channels, H, W], as training does, by its momentum."""
        if norms := batch_norms(self.module):
            for norm in norms:
                norm.train()
            with torch.no_grad(), stopping_between_layers(self.module):
                torch.func.functional_call(self.module, self.layout.views(theta), (images,))
            for norm in norms:
                norm.eval()

    def freeze_statistics(self, theta: Tensor, images: Tensor) -> None:
        """Set every batch norm's mean and variance to those of `images` [N, channels, H, W] alone."""
        momenta = [(norm, norm.momentum) for norm in batch_norms(self.module)]
        for norm, _ in momenta:
            norm.momentum = 1.0
        self.follow_statistics(theta, images)
        for norm, momentum in momenta:
            norm.momentum = momentum


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The batch norms in a module: what makes the gradient of one image depend on the others."""
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


def batches(count: int, sgd: Sgd, generator: torch.Generator, device: torch.device | str = "cpu") -> Iterator[Tensor]:
    """The batches of all epochs as positions [<= batch] on `device`: every engine trains in this order."""
    for _ in range(sgd.epochs if count else 0):
        for batch in to_device(torch.randperm(count, generator=generator), device).split(sgd.batch):
            stop_point()
            yield batch


def shares_of_all(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Soft labels of the first k classes [N, k] as shares of all of them [N, num_classes].

    Raises:
        UsageError: shares of more classes than there are.
    """
    if labels.shape[1] > num_classes:
        raise UsageError(f"labels are shares of {labels.shape[1]} classes; expected at most {num_classes}, which the network knows.")
    return F.pad(labels.to(dtype), (0, num_classes - labels.shape[1]))


def cross_entropy(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Of logits [N, num_classes] with labels int64 [N], or soft [N, k]."""
    if labels.dim() == 2:
        labels = shares_of_all(labels, logits.shape[1], logits.dtype)
    return F.cross_entropy(logits, labels, reduction=reduction)


def class_numbers(images: Tensor, classes: Tensor | None = None) -> Tensor:
    """The classes of images [G, n, ...], on their device: those given, or 0 to G - 1."""
    return torch.arange(len(images), device=images.device) if classes is None else classes


def weight_gradients(loss: Tensor, weights: Mapping[str, Tensor], create_graph: bool = False) -> tuple[Tensor, ...]:
    """The gradient by each weight; zero by one that the loss does not depend on, as of a layer that forward leaves out."""
    return _by_each(loss, list(weights.values()), None, create_graph)


def gradients_of_products(gradients: Sequence[Tensor], by: Sequence[Tensor], vectors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The gradient of the sum of <gradient, vector> by some tensors, zero where it does not depend on them.

    Args:
        gradients: as `weight_gradients` gives them with a graph.
        by: the tensors.
        vectors: one for each gradient, of its shape.
    """
    pairs = [(gradient, vector) for gradient, vector in zip(gradients, vectors, strict=True) if gradient.requires_grad]
    outputs, cotangents = zip(*pairs, strict=True)
    return _by_each(outputs, list(by), cotangents, False)


def _by_each(outputs: Any, by: list[Tensor], cotangents: Any, create_graph: bool) -> tuple[Tensor, ...]:
    found = torch.autograd.grad(outputs, by, cotangents, create_graph=create_graph, allow_unused=True)
    return tuple(torch.zeros_like(tensor) if gradient is None else gradient for tensor, gradient in zip(by, found, strict=True))


def weight_leaves(layout: ParameterLayout, theta: Tensor) -> dict[str, Tensor]:
    """The weights in theta [P] by name, as leaves of autograd's graph that share its memory."""
    return {name: view.detach().requires_grad_() for name, view in layout.views(theta).items()}


@contextlib.contextmanager
def stopping_between_layers(module: nn.Module) -> Iterator[None]:
    """A `stop_point` before each layer that a module calls, for passes of many images at once."""
    layers = [part for part in module.modules() if not list(part.children())]
    handles = [layer.register_forward_pre_hook(lambda *_: stop_point()) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def stop_on_the_way_back(leaves: Mapping[str, Tensor]) -> None:
    """A `stop_point` at the gradient by each of these leaves, wherever one is taken."""
    for leaf in leaves.values():
        leaf.register_hook(lambda _: stop_point())


@contextlib.contextmanager
def _train_mode(module: nn.Module) -> Iterator[None]:
    module.train()
    try:
        yield
    finally:
        module.eval()
