"""A network read as a chain of layers, by what its forward does and whoever wrote its class: what engines with passes of their own go by.

Forward is called once in each mode with a stand-in for images, which computes nothing and notes what torch is asked to do with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdc.models.modes import modes_kept

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_COUNT = 1_000_003  # images that a stand-in says it is: a number that forward has from nowhere else

Pair: TypeAlias = tuple[int, int]


class Convolution(NamedTuple):
    """Of maps [N, channels, H, W] to `features` channels; weight and bias by the names of the parameters."""

    weight: str
    bias: str | None
    channels: int
    features: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


class Norm(NamedTuple):
    """By mean and variance of each map ("instance"), of groups of channels ("group"), of an image or its groups ("layer"), or of a channel
    over images ("batch"), frozen in buffers of these names, which training moves on by `momentum`; None: to the mean over all batches."""

    kind: str
    weight: str | None
    bias: str | None
    eps: float
    groups: int = 1
    shape: tuple[int, ...] = ()
    mean: str | None = None
    variance: str | None = None
    momentum: float | None = None


class Activation(NamedTuple):
    """Of each number; `slope` of what lies below zero, of a leaky one alone."""

    name: str
    slope: float | None = None


class Pooling(NamedTuple):
    """The mean ("avg") or the largest ("max") of windows, all of which lie within the map; "adaptive": of so many as `kernel` says."""

    kind: str
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)


class Flatten(NamedTuple):
    """Maps [N, channels, H, W] to rows [N, features]; None: of whatever length."""

    features: int | None


class Linear(NamedTuple):
    """Rows [N, inputs] to rows [N, outputs]; in groups, as a convolution is."""

    weight: str
    bias: str | None
    inputs: int
    outputs: int
    groups: int = 1


Step: TypeAlias = Convolution | Norm | Activation | Pooling | Flatten | Linear


class NotAChain(Exception):  # noqa: N818  what it says of a network is no error
    """Why a network is no chain of these layers."""


def chain_of(module: nn.Module) -> tuple[Step, ...]:
    """The layers that a network's forward puts one after another.

    Raises:
        NotAChain: forward does anything else, or something else in training mode; a layer is used twice or not at all, or has hooks.
    """
    for name, part in module.named_modules():
        if "forward" in vars(part) or any(getattr(part, hooks) for hooks in HOOKS):
            raise NotAChain(f"{name or type(module).__name__} has a hook, or a forward of its own")
    chain = _read(module, training=False)
    if _read(module, training=True) != chain:
        raise NotAChain("its forward does something else in training mode")
    used = [name for step in chain for name in (getattr(step, "weight", None), getattr(step, "bias", None)) if name is not None]
    names = {name for name, _ in module.named_parameters()}
    if left_out := sorted(names - set(used)):
        raise NotAChain(f"its forward leaves out {left_out[0]}")
    if twice := sorted(name for name in set(used) if used.count(name) > 1):
        raise NotAChain(f"its forward uses {twice[0]} twice")
    return chain


def _read(module: nn.Module, training: bool) -> tuple[Step, ...]:
    """The chain in one of the two modes; the network stays as it is."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}  # which forward may change
    names = {id(value): name for name, value in (*module.named_parameters(), *buffers.items())}
    averages = {
        f"{name}.running_mean".lstrip(".")
        for name, part in module.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.momentum is None
    }
    record = _Record([], names, averages, training)
    try:
        with modes_kept(module), torch.enable_grad(), torch.autocast("cpu", enabled=False):
            module.train(training)
            last = torch.func.functional_call(module, buffers, (_Maps(record, 4),))
    except NotAChain:
        raise
    except Exception as error:  # whatever a forward raises that expected images
        raise NotAChain(f"its forward cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:120]})") from None
    if last is not record.last:
        raise NotAChain(f"its forward returns a {type(last).__name__}, or not what it computed last")
    return tuple(record.steps)


@dataclass
class _Record:
    """What was done to a stand-in so far."""

    steps: list[Step]
    names: dict[int, str]  # of parameters and buffers, by identity
    averages: set[str]  # of running means: those over all batches
    training: bool  # the mode that forward is read in
    last: _Maps | None = None

    def name(self, value: Tensor | None) -> str | None:
        if value is None:
            return None
        if id(value) not in self.names:
            raise NotAChain("a layer of its forward has a weight that is no parameter")
        return self.names[id(value)]


class _Maps:
    """The stand-in: maps, or rows of numbers, of which the number of dimensions is known, and after a layer that of channels."""

    def __init__(self, record: _Record, dimensions: int, channels: int | None = None) -> None:
        self._record, self._dimensions, self._channels = record, dimensions, channels
        record.last = self

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        read = _READERS.get(function)
        if read is None or not args or not isinstance(args[0], _Maps):
            raise NotAChain(f"its forward calls {getattr(function, '__name__', function)}")
        return read(*args, **(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotAChain(f"its forward takes {name} of what it computes")

    def _compute(self, *_: Any) -> _Maps:
        raise NotAChain("its forward computes with maps by itself, as a sum or a part of them")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __matmul__ = __getitem__ = _compute

    def then(self, step: Step | None) -> _Maps:
        """What comes out of a layer; None: the same."""
        if not torch.is_grad_enabled() or any(map(torch.is_autocast_enabled, ("cpu", "cuda"))):
            raise NotAChain("its forward computes without gradients, or in another precision")
        if self._record.last is not self:
            raise NotAChain("its forward uses what a layer gives twice")
        if step is None:
            return self
        self._record.steps.append(step)
        if isinstance(step, Flatten):
            return _Maps(self._record, 2, step.features)
        channels = step.features if isinstance(step, Convolution) else step.outputs if isinstance(step, Linear) else self._channels
        return _Maps(self._record, self._dimensions, channels)

    @property
    def training(self) -> bool:
        """The mode that forward is read in."""
        return self._record.training

    def named(self, value: Tensor | None) -> str | None:
        """The name of a parameter or buffer."""
        return self._record.name(value)

    def is_average(self, mean: str | None) -> bool:
        """Whether a running mean is that over all batches."""
        return mean in self._record.averages

    def dim(self) -> int:
        return self._dimensions

    @property
    def ndim(self) -> int:
        return self._dimensions

    @property
    def shape(self) -> _Sizes:
        return _Sizes(self._channels)

    def size(self, dimension: int | None = None) -> Any:
        return self.shape if dimension is None else self.shape[dimension]

    def contiguous(self) -> _Maps:
        return self.then(None)

    def relu(self) -> _Maps:
        return self.then(Activation("relu"))

    relu_ = relu

    def sigmoid(self) -> _Maps:
        return self.then(Activation("sigmoid"))

    def tanh(self) -> _Maps:
        return self.then(Activation("tanh"))

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> _Maps:
        if start_dim != 1 or end_dim not in (-1, self._dimensions - 1):
            raise NotAChain(f"its forward flattens dimensions {start_dim} to {end_dim}")
        return self.then(Flatten(None)) if self._dimensions > 2 else self.then(None)

    def view(self, *shape: Any) -> _Maps:
        sizes = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        if len(sizes) != 2 or sizes[0] not in (_COUNT, -1) or sizes == (-1, -1):
            raise NotAChain("its forward gives what it computes another shape than a row for each image")
        return self.then(Flatten(None if sizes[1] == -1 else int(sizes[1])))

    reshape = view


class _Sizes:
    """The shape of a stand-in, of which the number of images is known, and that of channels after a layer."""

    def __init__(self, channels: int | None) -> None:
        self._known = {0: _COUNT, 1: channels}

    def __getitem__(self, dimension: int) -> int:
        size = self._known.get(dimension)
        if size is None:
            raise NotAChain("its forward asks for the size of a map")
        return size


def _pair(value: Any) -> Pair:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def _conv2d(
    x: _Maps, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> _Maps:
    kernel, dilation = (weight.shape[2], weight.shape[3]), _pair(dilation)
    if padding == "same" and _pair(stride) == (1, 1) and all(side % 2 for side in kernel):
        padding = tuple(by * (side // 2) for by, side in zip(dilation, kernel, strict=True))
    if isinstance(padding, str):
        padding = 0 if padding == "valid" else None
    if padding is None:
        raise NotAChain("a convolution pads one side more than the other")
    name = x.named(weight)
    assert name is not None
    channels, features = weight.shape[1] * groups, weight.shape[0]
    return x.then(Convolution(name, x.named(bias), channels, features, kernel, _pair(stride), _pair(padding), dilation, groups))


def _linear(x: _Maps, weight: Tensor, bias: Tensor | None = None) -> _Maps:
    if x.dim() != 2:
        raise NotAChain("a linear layer of its forward reads maps, not a row for each image")
    name = x.named(weight)
    assert name is not None
    return x.then(Linear(name, x.named(bias), weight.shape[1], weight.shape[0]))


def _group_norm(x: _Maps, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> _Maps:
    each = weight is not None and num_groups == len(weight)
    return x.then(Norm("instance" if each else "group", x.named(weight), x.named(bias), eps, 1 if each else num_groups))


def _instance_norm(
    x: _Maps,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> _Maps:
    if running_mean is not None or not use_input_stats:
        raise NotAChain("an instance norm keeps statistics")
    return x.then(Norm("instance", x.named(weight), x.named(bias), eps))


def _layer_norm(x: _Maps, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5) -> _Maps:
    return x.then(Norm("layer", x.named(weight), x.named(bias), eps, shape=tuple(normalized_shape)))


def _batch_norm(
    x: _Maps,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> _Maps:
    if running_mean is None or running_var is None:
        raise NotAChain("a batch norm keeps no statistics")
    if training != x.training:
        raise NotAChain("a batch norm is in another mode than the network")
    mean, variance = x.named(running_mean), x.named(running_var)
    momentum = None if x.is_average(mean) else momentum  # which torch gives as that of the next batch
    return x.then(Norm("batch", x.named(weight), x.named(bias), eps, mean=mean, variance=variance, momentum=momentum))


def _activation(name: str) -> Callable[..., _Maps]:
    return lambda x, inplace=False: x.then(Activation(name))


def _leaky_relu(x: _Maps, negative_slope: float = 0.01, inplace: bool = False) -> _Maps:
    return x.then(Activation("leaky_relu", float(negative_slope)))


def _avg_pool2d(
    x: _Maps,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> _Maps:
    if ceil_mode or divisor_override or (_pair(padding) != (0, 0) and not count_include_pad):
        raise NotAChain("a pooling goes over the edge, or divides by another number")
    return x.then(Pooling("avg", _pair(kernel_size), _pair(stride or kernel_size), _pair(padding)))


def _max_pool2d(
    x: _Maps,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> _Maps:
    if ceil_mode or return_indices or _pair(dilation) != (1, 1):
        raise NotAChain("a pooling goes over the edge, is dilated, or gives places")
    return x.then(Pooling("max", _pair(kernel_size), _pair(stride or kernel_size), _pair(padding)))


def _adaptive_avg_pool2d(x: _Maps, output_size: Any) -> _Maps:
    return x.then(Pooling("adaptive", _pair(output_size)))


def _dropout(x: _Maps, p: float = 0.5, training: bool = True, inplace: bool = False) -> _Maps:
    if training and p:
        raise NotAChain("its forward drops out while it is trained")
    return x.then(None)


# What is read of what forward asks torch for; whatever is not here makes it no chain.
_READERS: dict[Any, Callable[..., _Maps]] = {
    torch.conv2d: _conv2d,
    F.conv2d: _conv2d,
    F.linear: _linear,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
    F.layer_norm: _layer_norm,
    F.batch_norm: _batch_norm,
    F.relu: _activation("relu"),
    torch.relu: _activation("relu"),
    torch.sigmoid: _activation("sigmoid"),
    torch.tanh: _activation("tanh"),
    F.silu: _activation("swish"),
    F.leaky_relu: _leaky_relu,
    F.avg_pool2d: _avg_pool2d,
    torch.max_pool2d: _max_pool2d,
    F.max_pool2d: _max_pool2d,
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    F.dropout: _dropout,
    torch.flatten: _Maps.flatten,
    torch.reshape: _Maps.view,
}
