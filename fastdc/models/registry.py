"""Models by name: `convnet`, `convnet:width=64,depth=4,norm=batch,activation=leaky_relu,pooling=max`, `vgg11:norm=batch`, `lenet`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from fastdc.errors import UsageError, unknown_name
from fastdc.models.alexcifarnet import AlexCifarNet
from fastdc.models.alexnet import AlexNet
from fastdc.models.convnet import ConvNet, ConvNetOptions
from fastdc.models.lenet import LeNet
from fastdc.models.mlp import MLP, MLPOptions
from fastdc.models.resnet import ResNet18, ResNet18Options
from fastdc.models.vgg import VGG11, VGG11Options
from fastdc.options.specs import parse_options, split_spec
from fastdc.parallel.devices import check_fits

# (channels, num_classes, (height, width)) -> a network with fresh random weights from torch's global generator
ModelFactory = Callable[[int, int, tuple[int, int]], nn.Module]

# A network and the dataclass of its options; None where it has none.
_MODELS: dict[str, tuple[Callable[..., nn.Module], type | None]] = {
    "convnet": (ConvNet, ConvNetOptions),
    "mlp": (MLP, MLPOptions),
    "lenet": (LeNet, None),
    "alexnet": (AlexNet, None),
    "alexcifarnet": (AlexCifarNet, None),
    "vgg11": (VGG11, VGG11Options),
    "resnet18": (ResNet18, ResNet18Options),
}


def as_factory(model: str | ModelFactory) -> ModelFactory:
    """The factory behind a model's name; a user's own function is returned as it is.

    Raises:
        UsageError: an unknown name or option; or neither a name nor a function.
    """
    if not isinstance(model, str):
        if isinstance(model, nn.Module) or not callable(model):
            raise UsageError(
                f"model is a {type(model).__name__}; expected a name such as 'convnet', or a function "
                "(channels, num_classes, image_size) -> nn.Module that returns a fresh network at each call."
            )
        return model
    name, options = split_spec(model)
    if name not in _MODELS:
        raise unknown_name("model", name, _MODELS)
    network, cls = _MODELS[name]
    if cls is None:
        if options:
            raise UsageError(f"model {name!r} takes no options; {model!r} gives {', '.join(options)}.")
        return network
    parsed: Any = parse_options(cls, model, options)
    return partial(_construct, network, parsed)


def build(model: str | ModelFactory, channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """A network with fresh random weights, drawn from torch's global generator.

    Example:
        >>> sum(p.numel() for p in build("convnet", 1, 10, (28, 28)).parameters())
        317706
    """
    factory = as_factory(model)
    check_callable_with(factory, channels, num_classes, image_size)
    module = factory(channels, num_classes, image_size)
    if not isinstance(module, nn.Module):
        raise UsageError(f"the model function returned a {type(module).__name__}; expected an nn.Module.")
    return module


def check_weights_fit(model: str | ModelFactory, channels: int, num_classes: int, image_size: tuple[int, int]) -> None:
    """Raise a UsageError where a network that has a name here is larger than the free memory, before it is made."""
    if isinstance(model, str):
        with torch.device("meta"):  # which makes no weights and draws no random numbers
            try:
                size = sum(weight.nbytes for weight in as_factory(model)(channels, num_classes, image_size).parameters())
            except RuntimeError:  # a weight of more bytes than numbers go
                size = 1 << 63
        check_fits(f"model {model!r}", size, torch.device("cpu"), "choose a smaller one")


def check_callable_with(factory: ModelFactory, *shape: Any) -> None:
    """Raise a UsageError where a function does not take (channels, num_classes, image_size)."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return  # it does not say; the call will
    try:
        signature.bind(*shape)
    except TypeError as error:
        name = getattr(factory, "__name__", type(factory).__name__)
        raise UsageError(
            f"model {name}{signature} cannot be called with (channels, num_classes, image_size) ({error}); write "
            f"model=lambda channels, num_classes, image_size: {name}(...)."
        ) from None


def describe(model: str | ModelFactory) -> str:
    """How a run's configuration names a model: its spec, or the place where a user's function is defined."""
    if isinstance(model, str):
        return model
    return f"{getattr(model, '__module__', '?')}.{getattr(model, '__qualname__', type(model).__qualname__)}"


def model_names() -> tuple[str, ...]:
    """The names that can begin a model's spec."""
    return tuple(_MODELS)


def _construct(network: Callable[..., nn.Module], options: Any, channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    return network(channels, num_classes, image_size, options)
