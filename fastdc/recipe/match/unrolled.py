"""SGD on the synthetic images, and the way back through all of its steps without a graph.

With S the images, L the mean cross-entropy over all of them, g its gradient by the weights and H its Hessian, the way there is

    theta_{k+1}  =  theta_k - a_k g(theta_k, S),        k = 0 .. K-1

and the way back, from lambda_K = d loss / d theta_K for any loss of theta_K,

    d loss / d S    =  sum over k of  -a_k d/dS < lambda_{k+1}, g(theta_k, S) >
    d loss / d a_k  =  -< lambda_{k+1}, g(theta_k, S) >
    lambda_k        =  lambda_{k+1} - a_k H(theta_k, S) lambda_{k+1}

Only the weights of each step are kept, [K + 1, P]; what else is in memory is an engine's, whatever K is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastdc.engines import Engine
from fastdc.parallel.devices import check_fits, free_memory
from fastdc.recipe.groups import ClassGroup
from fastdc.recipe.match.base import Match
from fastdc.recipe.problem import Problem


def mean_gradient(engine: Engine, theta: Tensor, batches: Iterable[tuple[Tensor, ClassGroup]]) -> Tensor:
    """The gradient [P] of the mean over classes of their mean cross-entropies, of images [G, n, channels, H, W] a group at a time."""
    total, count = torch.zeros_like(theta), 0
    for images, group in batches:
        total += engine.class_gradients(theta, images, group.classes).sum(0)
        count += len(group)
    return total / count


class UnrolledMatch(Match):
    """A match that goes back through `unroll` steps of SGD, of which it keeps all weights."""

    needs_all_classes = True
    differentiates = 2

    def __init__(self, problem: Problem, options: Any) -> None:
        super().__init__(problem, options)
        each, device = problem.engine.layout.size * torch.float32.itemsize, problem.family.device
        most = max(1, int(min(free_memory(device) / each, options.unroll + 1)) - 1)
        cure = f"give an unroll of {most:,} or less, or a smaller network"
        check_fits(f"the way of {options.unroll:,} steps", (options.unroll + 1) * each, device, cure)


def unrolled_steps(engine: Engine, theta: Tensor, images: Tensor, rates: Tensor, groups: Sequence[ClassGroup]) -> Tensor:
    """The weights before, between and after K steps of SGD, each on all images.

    Args:
        engine: computes the gradients.
        theta: weights to start from [P].
        images: normalised images [C, n, channels, H, W].
        rates: the learning rate of each step [K].
        groups: all classes, as many at once as memory allows.

    Returns:
        Weights [K + 1, P].
    """
    thetas = theta.new_empty(len(rates) + 1, len(theta))
    thetas[0] = theta
    for k, rate in enumerate(rates.tolist()):
        gradient = mean_gradient(engine, thetas[k], ((group.select(images), group) for group in groups))  # [P]
        torch.sub(thetas[k], gradient, alpha=rate, out=thetas[k + 1])
    return thetas


def gradient_through_steps(
    engine: Engine, thetas: Tensor, images: Tensor, rates: Tensor, cotangent: Tensor, groups: Sequence[ClassGroup]
) -> tuple[Tensor, Tensor]:
    """The gradient of a loss of the last weights by the images and the learning rates.

    Args:
        engine: computes the gradients.
        thetas: weights [K + 1, P], as `unrolled_steps` gives them for the same images and rates.
        images: normalised images [C, n, channels, H, W].
        rates: the learning rate of each step [K].
        cotangent: d loss / d thetas[K], [P].
        groups: all classes, as many at once as memory allows.

    Returns:
        The gradient by the images [C, n, channels, H, W], and by the rates [K].
    """
    by_rates = torch.empty_like(rates)
    gradient = torch.zeros_like(images)
    for k in reversed(range(len(rates))):
        rate, before = rates[k].item(), cotangent
        by_rates[k] = torch.dot(before, thetas[k + 1] - thetas[k]) / rate
        for group in groups:
            some, share = group.select(images), len(group) / len(images)  # the loss is the mean over classes
            if k == 0:  # the Hessian is not asked for
                weighted = (before / len(images)).expand(len(group), -1)  # [G, P]
                by_images = engine.image_gradients(thetas[0], some, weighted, group.classes)
            else:
                by_weights, by_images = engine.hessian_products(thetas[k], some, before * share, group.classes)
                cotangent = torch.sub(cotangent, by_weights, alpha=rate)
            gradient.index_add_(0, group.classes, by_images, alpha=-rate)
    return gradient, by_rates
