"""GradientMatcher: the matching loss and its image gradient for one network, for a user's own loop."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from fastdc.engines import make_engine
from fastdc.engines.plan import HOOKS
from fastdc.errors import UsageError
from fastdc.metrics import Metric
from fastdc.models.modes import modes_kept
from fastdc.models.network import check_learnable, check_logits
from fastdc.runtime.isolation import isolated


class GradientMatcher:
    """Computes how far the gradients of synthetic images are from those of real ones, and which way to move the images.

    Args:
        module: a network from images [N, channels, H, W] to logits; its weights are used as they stand at each call, and so are its
            layers and what of it requires a gradient. Batch norm and dropout work as in evaluation mode, and the module's own mode is left
            as it was.
        distance: a name in `fastdc.metrics.METRICS`; "l1:rows=convolutions" looks at the convolutions alone.
        engine: "auto", "native", "cuda", "torch" or "reference".

    Raises:
        UsageError: an unknown distance or engine, or one that cannot serve this module.

    Example:
        >>> matcher = GradientMatcher(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))
        >>> loss, gradient = matcher(torch.randn(2, 1, 1, 8, 8), torch.randn(2, 5, 1, 8, 8))
        >>> loss.shape, gradient.shape
        (torch.Size([]), torch.Size([2, 1, 1, 8, 8]))
    """

    @isolated()
    def __init__(self, module: nn.Module, *, distance: str = "layerwise_cosine", engine: str = "auto") -> None:
        rows = Metric.of(distance).rows
        if not isinstance(module, nn.Module):
            raise UsageError(f"module is a {type(module).__name__}; expected an nn.Module with its weights.")
        self.module, self.distance, self._learnable, self._wanted = module, distance, False, engine
        with modes_kept(module):
            self._engine, self._made_of = make_engine(engine, module), _parts(module)
        self._engine.layout.seen(rows)  # refuses a choice of which there are none

    @isolated()
    def __call__(self, synthetic: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its gradient by the synthetic images.

        Args:
            synthetic: normalised images [C, n, channels, H, W]; the class is the position.
            real: normalised images [C, B, channels, H, W].

        Returns:
            The distance summed over classes, a scalar; and d loss / d synthetic [C, n, channels, H, W].

        Raises:
            UsageError: images of another shape, dtype or device than the module's.
        """
        if (parts := _parts(self.module)) != self._made_of:  # it was moved or changed, and may need another engine
            with modes_kept(self.module):
                self._engine, self._made_of, self._learnable = make_engine(self._wanted, self.module), parts, False
        theta = self._engine.layout.flatten(self.module)
        for name, images in (("synthetic", synthetic), ("real", real)):
            if not isinstance(images, Tensor):
                raise UsageError(f"{name} is a {type(images).__name__}; expected a tensor [C, images per class, channels, H, W].")
            if images.dim() != 5 or not images.numel():
                raise UsageError(f"{name} has shape {list(images.shape)}; expected [C, images per class, channels, H, W].")
            if (images.dtype, images.device) != (theta.dtype, theta.device):
                raise UsageError(
                    f"{name} is {images.dtype} on {images.device}, the module {theta.dtype} on {theta.device}; bring them together."
                )
        if len(synthetic) != len(real) or synthetic.shape[2:] != real.shape[2:]:
            raise UsageError(
                f"synthetic has shape {list(synthetic.shape)} and real {list(real.shape)}; expected the same classes and image size."
            )
        with modes_kept(self.module):
            self.module.eval()
            with torch.no_grad():
                check_logits(self.module, synthetic[0, :1], len(synthetic), type(self.module).__name__)
            if not self._learnable:
                check_learnable(self.module, _plain(synthetic)[0, :1], twice=True)
                self._learnable = True
            gradients = self._engine.seen_gradients(theta, _plain(real), self.distance)  # [C, P]
            distance, gradient = self._engine.match(theta, _plain(synthetic), gradients, self.distance)
        return distance.sum(), gradient


def _parts(module: nn.Module) -> tuple[object, ...]:
    """What an engine is made for: the layers of a module and how they are set, its hooks, and its weights but for their values."""
    layers = [
        (name, type(part), tuple((key, value) for key, value in vars(part).items() if key != "training" and _is_plain(value)))
        for name, part in module.named_modules()
    ]
    hooks = [tuple(getattr(part, hooks)) for part in module.modules() for hooks in HOOKS]
    weights = [(name, weight.shape, weight.dtype, weight.device, weight.requires_grad) for name, weight in module.named_parameters()]
    return *layers, *hooks, *weights


def _is_plain(value: object) -> bool:
    """Whether an attribute is a setting: a number, a text, a function, or some of these."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str) or inspect.isroutine(value)


def _plain(images: Tensor) -> Tensor:
    """The images without their history; those of inference mode, which autograd refuses, as a copy."""
    return images.clone() if images.is_inference() else images.detach()
