"""NetworkFamily: networks of one structure with fresh random weights, for one kind of images, on one device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdc.errors import FastdcError, UsageError
from fastdc.metrics.layout import ParameterLayout
from fastdc.models.registry import ModelFactory, build, check_weights_fit
from fastdc.parallel.devices import to_device
from fastdc.runtime.seeding import global_seed

_TRIED = 2  # images, on which a network is tried
_ROUNDING = 1e-3  # relative to the largest logit: more than float32 rounds in sums of another order


class NetworkFamily:
    """Draws networks of one model, for images of one shape.

    Args:
        model: a name, or a function (channels, num_classes, (height, width)) -> nn.Module.
        channels: of the images.
        num_classes: how many logits are expected.
        image_size: height and width.
        device: where the networks go.

    Raises:
        UsageError: an unknown model, one that is the same network each time, or one that does not map these images to num_classes logits.
    """

    def __init__(
        self, model: str | ModelFactory, channels: int, num_classes: int, image_size: tuple[int, int], device: torch.device
    ) -> None:
        self.model, self.channels, self.num_classes, self.image_size, self.device = model, channels, num_classes, image_size, device
        check_weights_fit(model, channels, num_classes, image_size)
        network, generator = self.fresh(0), torch.Generator().manual_seed(0)
        if not isinstance(model, str) and self.fresh(1) is network:
            raise UsageError(
                f"the model function returns the same {type(network).__name__} at each call; expected a fresh network with weights of its "
                "own: make it inside of the function."
            )
        images = torch.randn(_TRIED, channels, *image_size, generator=generator).to(device)
        with torch.no_grad(), global_seed(0):
            before = self._random_state()
            whole = not any(isinstance(weights, nn.UninitializedParameter) for weights in network.parameters())  # a lazy one draws them now
            check_logits(network.eval(), images, num_classes, type(network).__name__, exact=True)
            if whole and not torch.equal(before, self._random_state()):
                raise UsageError(
                    f"{type(network).__name__} draws random numbers in evaluation mode; expected the same logits each time: write "
                    "F.dropout(x, p, self.training), or nn.Dropout(p)."
                )
            if device.type != "meta":  # where there are shapes and no numbers
                _check_each_alone(network, images)
            before = self._random_state()
            check_logits(network.train(), images, num_classes, type(network).__name__, exact=True)
            self.draws_while_trained = not torch.equal(before, self._random_state())  # as dropout does

    def fresh(self, seed: int) -> nn.Module:
        """A network whose weights `seed` decides; torch's global generator is left as it was."""
        with global_seed(seed):
            return build(self.model, self.channels, self.num_classes, self.image_size).to(self.device)

    def fresh_weights(self, seed: int) -> Tensor:
        """The weights [P] of `fresh(seed)`, in one copy to the device."""
        with global_seed(seed):
            module = build(self.model, self.channels, self.num_classes, self.image_size)
        return to_device(ParameterLayout.of(module).flatten(module), self.device)

    def _random_state(self) -> Tensor:
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.get_rng_state()

    def seeded_training(self, seed: int) -> AbstractContextManager[None]:
        """What training must happen in: where networks draw from torch's global generator, `seed` decides what they draw."""
        return global_seed(seed) if self.draws_while_trained else nullcontext()


def check_learnable(network: nn.Module, images: Tensor, *, twice: bool) -> None:
    """Raise a UsageError where images [N, channels, H, W] cannot be learned through a network.

    Args:
        network: maps them to logits.
        images: any.
        twice: the gradient by the weights is to be differentiated by the images, and not the logits alone.
    """
    name, images = type(network).__name__, images.detach().requires_grad_()
    weights = {key: weight.detach().requires_grad_(weight.requires_grad) for key, weight in network.named_parameters()}
    trained = [weight for weight in weights.values() if weight.requires_grad]
    with torch.enable_grad():
        logits = torch.func.functional_call(network.eval(), weights, (images,))
        target = logits.sum()
        try:
            if twice:
                loss = F.cross_entropy(logits, torch.zeros(len(images), dtype=torch.int64, device=images.device))
                gradients = torch.autograd.grad(loss, trained, create_graph=True, allow_unused=True)
                target = sum((gradient.square().sum() for gradient in gradients if gradient is not None), target)
            if target.requires_grad:
                target.backward()  # through all of it: what can be differentiated once alone is not on the way to the images
        except RuntimeError as error:
            times = " twice, as matching gradients asks for; a match of features asks for less" if twice else ""
            raise UsageError(f"{name} cannot be differentiated{times} ({' '.join(str(error).split())[:200]}).") from None
    if images.grad is None:
        raise UsageError(
            f"the logits of {name} do not depend on its images by operations that torch differentiates, so that no image can be learned; "
            "leave numpy, .detach(), .item(), .long() and torch.no_grad() out of its forward."
        )


def _check_each_alone(network: nn.Module, images: Tensor) -> None:
    """Raise a UsageError where the logits of an image depend on the others of a batch: engines compute batches in parts."""
    together, alone = network(images), torch.cat([network(image) for image in images.split(1)])
    finite = together.isfinite() & alone.isfinite()
    apart = (together - alone).abs()[finite]
    if apart.numel() and apart.max() > _ROUNDING * max(1.0, together[finite].abs().max().item()):
        raise UsageError(
            f"{type(network).__name__} gives an image other logits when other images stand beside it, in evaluation mode; expected each "
            "by itself: use nn.BatchNorm2d with its running statistics, or a norm of each image, such as nn.GroupNorm."
        )


def check_logits(forward: Callable[[Tensor], Tensor], images: Tensor, classes: int, name: str, *, exact: bool = False) -> None:
    """Raise unless `forward` maps images [N, channels, H, W] to logits [N, at least `classes`], or just as many.

    Raises:
        UsageError: it fails on these images, or gives something else.
    """
    try:
        logits = forward(images)
    except FastdcError:
        raise
    except Exception as error:
        size = "x".join(map(str, images.shape[1:]))
        raise UsageError(f"{name} cannot take {size} images (channels, height, width): {' '.join(str(error).split())}") from error
    fits = isinstance(logits, Tensor) and logits.dim() == 2 and len(logits) == len(images) and logits.shape[1] >= classes
    if not fits or (exact and logits.shape[1] != classes):
        found = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise UsageError(f"{name} maps {len(images)} images to {found}; expected logits of shape [{len(images)}, {classes}].")
