"""Gradient matching in a loop of one's own: by GradientMatcher, and by match_loss in a plain double-backward script."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastdc
from fastdc.models import build

STEPS, LR = 5, 1.0


def real_images(count: int) -> Tensor:
    """Normalised real digits, the first `count` of each class [10, count, 1, 8, 8]."""
    train, _ = fastdc.load_dataset("digits")
    return torch.stack([train.normalised(members[:count]) for members in train.class_members])


def by_matcher(network: nn.Module, synthetic: Tensor, real: Tensor) -> Tensor:
    """Move the images by the gradient that GradientMatcher computes; returns the losses [STEPS]."""
    matcher = fastdc.GradientMatcher(network)
    losses = []
    for _ in range(STEPS):
        loss, gradient = matcher(synthetic, real)  # [C, n, channels, H, W], [C, B, channels, H, W]
        synthetic -= LR * gradient
        losses.append(loss)
    return torch.stack(losses)


def by_double_backward(network: nn.Module, synthetic: Tensor, real: Tensor) -> Tensor:
    """The same with autograd, class by class; match_loss takes the place of the script's own distance."""
    parameters = list(network.parameters())
    synthetic.requires_grad_()
    losses = []
    for _ in range(STEPS):
        loss = torch.zeros(())
        for label in range(len(real)):
            gradients = []
            for images in (synthetic[label], real[label]):
                own = F.cross_entropy(network(images), torch.full((len(images),), label))
                gradients.append(torch.autograd.grad(own, parameters, create_graph=images.requires_grad))
            loss = loss + fastdc.match_loss(*gradients)
        (gradient,) = torch.autograd.grad(loss, synthetic)
        with torch.no_grad():
            synthetic -= LR * gradient
        losses.append(loss.detach())
    return torch.stack(losses)


def main() -> None:
    """Run both from the same images, and compare."""
    torch.manual_seed(0)
    network = build("convnet:width=8,activation=swish", 1, 10, (8, 8))
    real, start = real_images(32), torch.randn(10, 1, 1, 8, 8)
    first, second = by_matcher(network, start.clone(), real), by_double_backward(network, start.clone(), real)
    print(f"GradientMatcher: {first[0]:.4f} -> {first[-1]:.4f}")
    print(f"match_loss:      {second[0]:.4f} -> {second[-1]:.4f}")
    print(f"largest relative difference {((first - second).abs() / second).max():.1e}")


if __name__ == "__main__":
    main()
