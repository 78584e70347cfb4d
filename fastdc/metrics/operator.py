"""The distance between two gradients, and its cotangent: what gradient matching makes small.

`fastdc.metrics.definitions` has the formulas. Rows are the output units of parameters with two dimensions or more; biases and the scale
and shift of norms count zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from fastdc.errors import UsageError
from fastdc.metrics.backends import DTYPES, compute, compute_lists
from fastdc.metrics.definitions import Metric, definition_of
from fastdc.metrics.layout import ParameterLayout, fewest_dimensions, layout_of

_LISTS = (list, tuple)  # no union of types, into which older compilers of torch do not see
_EXPECTED_LIST = "expected a list of tensors, one for each parameter, as torch.autograd.grad returns it"


def layerwise_distance(
    synthetic: Tensor, real: Tensor, layout: ParameterLayout, metric: str = "layerwise_cosine", backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The distance of every class's synthetic gradient from its real one, and the derivative by the synthetic one.

    The cotangent is in closed form, so that no graph is needed; for `layerwise_cosine`, row by row,

        d = 1 - <a, b> / (|a| |b| + e)
        dd/da = -b / (|a| |b| + e) + <a, b> |b| a / (|a| (|a| |b| + e)^2)      (second term 0 where |a| = 0)

    The distance can be differentiated once, by both gradients; the cotangent cannot. Works under `torch.compile` and
    `torch.func.vmap`. Differentiating a second time or in forward mode raises; only inside `torch.compile` the cotangent is a
    constant instead.

    Args:
        synthetic: gradients of the synthetic images, [C, P]; float32, float64, float16 or bfloat16.
        real: gradients of the real images, [C, P], of the same dtype and device.
        layout: says which elements are the rows.
        metric: a name in `fastdc.metrics.METRICS`; "l1:rows=convolutions" looks at parameters of three dimensions or more alone.
        backend: a name in `fastdc.metrics.backends.BACKENDS`, or "auto": the environment variable FASTDC_BACKEND where it is set,
            else the fastest that can serve and has the metric.

    Returns:
        The distance [C], float64 for float64 and else float32; and the cotangent d distance / d synthetic [C, P], of the
        gradients' dtype, zero where no row lies.

    Raises:
        UsageError: an unknown metric or backend, a backend that cannot serve, a choice of rows of which there are none, or shapes,
            dtypes or devices that do not fit.
        RunError: a backend that was named, or has served before, fails.

    Example:
        >>> layout = ParameterLayout.of(torch.nn.Linear(3, 2))
        >>> distance, cotangent = layerwise_distance(torch.ones(5, 8), torch.ones(5, 8), layout)
        >>> distance.shape, cotangent.shape
        (torch.Size([5]), torch.Size([5, 8]))
    """
    chosen = Metric.of(metric)
    _check_pair(synthetic, real, layout)
    if not torch.compiler.is_compiling():
        _refuse_forward_mode(synthetic, real)
    distance, cotangent = _distance_op(synthetic, real, list(layout.segments(chosen.rows)), chosen.name, backend)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        cotangent = _FirstOrderOnly.apply(cotangent, distance)
    return distance, cotangent


def match_loss(
    synthetic_gradients: Sequence[Tensor], real_gradients: Sequence[Tensor], *, metric: str = "layerwise_cosine", backend: str = "auto"
) -> Tensor:
    """The distance between two lists of gradients as a differentiable scalar: the loss of a double-backward script.

    Args:
        synthetic_gradients: as `torch.autograd.grad(..., create_graph=True)` returns them, one tensor per parameter.
        real_gradients: the real images' gradients, of the same shapes, dtype and device.
        metric: as `layerwise_distance` takes it.
        backend: as `layerwise_distance` takes it.

    Returns:
        A scalar; its `backward()` goes through `synthetic_gradients` to the images.

    Raises:
        UsageError: an unknown metric or backend, or lists that do not agree in length, shapes, dtype or device.

    Example:
        >>> a, b = [torch.ones(2, 3), torch.ones(2)], [torch.ones(2, 3), torch.zeros(2)]
        >>> round(match_loss(a, b).item(), 4)
        0.0
    """
    chosen = Metric.of(metric)
    least = fewest_dimensions(chosen.rows)
    _check_lists(synthetic_gradients, real_gradients, least, metric)
    synthetic, real = ([g for g in gradients if g.dim() >= least] for gradients in (synthetic_gradients, real_gradients))
    if definition_of(chosen.name).joined or _within_transforms():
        a, b = (torch.cat([g.reshape(-1) for g in gradients])[None] for gradients in (synthetic, real))  # [1, P] each
        return layerwise_distance(a, b, layout_of(_shapes_of(synthetic)), metric, backend)[0].sum()
    if not torch.compiler.is_compiling():
        _refuse_forward_mode(*synthetic, *real)
        if _are_plain(*synthetic, *real):
            return _match_plain(synthetic, real, chosen.name, backend)
    distance: Tensor = _match_op(synthetic, real, chosen.name, backend)[0]
    return distance


def _check_lists(synthetic: Sequence[Tensor], real: Sequence[Tensor], least: int, metric: str) -> None:
    for name, gradients in (("synthetic", synthetic), ("real", real)):
        if not isinstance(gradients, _LISTS):
            raise UsageError(f"{name}_gradients is a {type(gradients).__name__}; {_EXPECTED_LIST}.")
        others = [gradient for gradient in gradients if gradient is not None and not isinstance(gradient, Tensor)]
        if others:
            raise UsageError(f"{name}_gradients holds a {type(others[0]).__name__}; {_EXPECTED_LIST}.")
    if any(gradient is None for gradient in (*synthetic, *real)):
        raise UsageError("a gradient is None: the loss does not depend on that parameter; leave it out of both lists.")
    if [a.shape for a in synthetic] != [b.shape for b in real]:
        raise UsageError(f"the lists of gradients have shapes {_shapes_of(synthetic)} and {_shapes_of(real)}; expected the same ones.")
    if all(gradient.dim() < least for gradient in synthetic):
        raise UsageError(
            f"the gradients have shapes {_shapes_of(synthetic)}; expected at least one of {least} dimensions or more, such as a weight's, "
            f"for {metric!r} to look at."
        )
    kinds = {(gradient.dtype, gradient.device) for gradient in (*synthetic, *real)}
    if len(kinds) > 1:
        found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise UsageError(f"the gradients are {found}; bring them to one dtype and device.")
    _check_dtype("synthetic", synthetic[0])


def _shapes_of(gradients: Sequence[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(gradient.shape) for gradient in gradients]


def _are_plain(*gradients: Tensor) -> bool:
    """Whether they are tensors and nothing else, and no mode looks at what is computed from them."""
    return torch._C._len_torch_dispatch_stack() == 0 and {*map(type, gradients)} <= {Tensor, nn.Parameter}


def _within_transforms() -> bool:
    """Within torch.func's transforms, which do not take operators on lists."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


# Defined by its schema: torch.library.custom_op would import torch._dynamo, 150 MiB of it, at the first call.
torch.library.define(
    "fastdc::layerwise_distance",
    "(Tensor synthetic, Tensor real, int[] segments, str metric, str backend) -> (Tensor distance, Tensor cotangent)",
    tags=torch.Tag.pt2_compliant_tag,
)
_distance_op = torch.ops.fastdc.layerwise_distance.default


def _compute(synthetic: Tensor, real: Tensor, segments: Sequence[int], metric: str, backend: str) -> tuple[Tensor, Tensor]:
    return compute(backend, _side_by_side(synthetic.detach()), _side_by_side(real.detach()), tuple(segments), metric)


def _shapes(synthetic: Tensor, real: Tensor, segments: Sequence[int], metric: str, backend: str) -> tuple[Tensor, Tensor]:
    distance = synthetic.new_empty(synthetic.shape[:1], dtype=torch.promote_types(synthetic.dtype, torch.float32))
    return distance, synthetic.new_empty(synthetic.shape)


def _save_cotangents(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    synthetic, real, *rest = inputs
    distance, cotangent = output
    ctx.mark_non_differentiable(cotangent)
    _, metric, _ = rest
    if ctx.needs_input_grad[1] and not definition_of(metric).symmetric:
        raise UsageError(f"the derivative of {metric!r} by the real gradient was asked for, and the metric is not symmetric; detach it.")
    # The derivative by the second gradient is that by the first one with the two exchanged.
    by_real = _distance_op(real, synthetic, *rest)[1] if ctx.needs_input_grad[1] else None
    ctx.save_for_backward(distance, cotangent, by_real)


def _backward(ctx: Any, grad_distance: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    distance, *cotangents = ctx.saved_tensors
    by_input = [
        (grad_distance.unsqueeze(-1) * _FirstOrderOnly.apply(cotangent, distance)).to(cotangent.dtype) if needed else None
        for cotangent, needed in zip(cotangents, ctx.needs_input_grad, strict=False)
    ]
    return *by_input, None, None, None


def _batched(
    info: Any, in_dims: tuple[int | None, ...], synthetic: Tensor, real: Tensor, *rest: Any
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    """Batches become classes: [N, C, P] -> [N * C, P]."""
    stacked = [
        value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
        for value, dim in zip((synthetic, real), in_dims, strict=False)
    ]
    outputs = _distance_op(stacked[0].flatten(0, 1), stacked[1].flatten(0, 1), *rest)
    return tuple(output.unflatten(0, stacked[0].shape[:2]) for output in outputs), (0, 0)


def _compute_match(synthetic: Sequence[Tensor], real: Sequence[Tensor], metric: str, backend: str) -> tuple[Tensor, list[Tensor]]:
    a, b = ([gradient.resolve_neg() for gradient in gradients] for gradients in (synthetic, real))
    return compute_lists(backend, a, b, metric)


def _match_shapes(synthetic: Sequence[Tensor], real: Sequence[Tensor], metric: str, backend: str) -> tuple[Tensor, list[Tensor]]:
    distance = synthetic[0].new_empty((), dtype=torch.promote_types(synthetic[0].dtype, torch.float32))
    return distance, [gradient.new_empty(gradient.shape) for gradient in synthetic]


def _save_matched(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]) -> None:
    ctx.mark_non_differentiable(*output[1])
    _save_for_both(ctx, _match_op, inputs, output)


def _save_for_both(ctx: Any, match: Callable[..., Any], inputs: tuple[Any, ...], output: tuple[Tensor, Sequence[Tensor]]) -> None:
    synthetic, real, metric, backend = inputs
    distance, cotangents = output
    by_real = any(gradient.requires_grad for gradient in real)
    if by_real and not definition_of(metric).symmetric:
        raise UsageError(f"the derivative of {metric!r} by the real gradient was asked for, and the metric is not symmetric; detach it.")
    # The derivative by the second gradient is that by the first one with the two exchanged.
    ctx.save_for_backward(distance, *cotangents, *(match(real, synthetic, metric, backend)[1] if by_real else []))


def _match_backward(ctx: Any, grad_distance: Tensor, _: Any) -> tuple[Any, ...]:
    scaled, count = _scaled_cotangents(ctx, grad_distance), len(ctx.needs_input_grad[0])
    return scaled[:count], scaled[count:] or [None] * count, None, None


def _scaled_cotangents(ctx: Any, grad: Tensor) -> list[Tensor]:
    """The cotangents times the gradient by the distance; where that is one, which the host of a CPU sees, the cotangents themselves."""
    distance, *cotangents = ctx.saved_tensors
    if torch.is_grad_enabled():
        cotangents = [_FirstOrderOnly.apply(cotangent, distance) for cotangent in cotangents]
    elif _is_one(grad):
        return cotangents
    return [(grad * cotangent).to(cotangent.dtype) for cotangent in cotangents]


def _is_one(grad: Tensor) -> bool:
    plain = type(grad) is Tensor and grad.device.type == "cpu" and not torch.compiler.is_compiling()
    return plain and not _within_transforms() and grad.item() == 1


torch.library.define(
    "fastdc::match_gradients",
    "(Tensor[] synthetic, Tensor[] real, str metric, str backend) -> (Tensor distance, Tensor[] cotangents)",
    tags=torch.Tag.pt2_compliant_tag,
)
_match_op = torch.ops.fastdc.match_gradients.default
torch.library.impl("fastdc::match_gradients", "CompositeExplicitAutograd", _compute_match)
torch.library.register_fake("fastdc::match_gradients", _match_shapes)
torch.library.register_autograd("fastdc::match_gradients", _match_backward, setup_context=_save_matched)


def _match_plain(synthetic: Sequence[Tensor], real: Sequence[Tensor], metric: str, backend: str) -> Tensor:
    """The operator's distance without the operator: what leads to it in eager mode takes as long as its work for a small network."""
    if not torch.is_grad_enabled():
        return _compute_match(synthetic, real, metric, backend)[0]
    distance: Tensor = _MatchPlain.apply(metric, backend, *synthetic, *real)
    return distance


class _MatchPlain(torch.autograd.Function):
    """Metric, backend, the synthetic gradients, the real ones -> the distance."""

    @staticmethod
    def forward(ctx: Any, metric: str, backend: str, *gradients: Tensor) -> Tensor:
        sides = gradients[: len(gradients) // 2], gradients[len(gradients) // 2 :]
        output = _compute_match(*sides, metric, backend)
        _save_for_both(ctx, _compute_match, (*sides, metric, backend), output)
        return output[0]

    @staticmethod
    def backward(ctx: Any, grad_distance: Tensor) -> tuple[Any, ...]:
        scaled = _scaled_cotangents(ctx, grad_distance)
        return None, None, *scaled, *[None] * (len(ctx.needs_input_grad) - 2 - len(scaled))


torch.library.impl("fastdc::layerwise_distance", "CompositeExplicitAutograd", _compute)
torch.library.register_fake("fastdc::layerwise_distance", _shapes)
torch.library.register_autograd("fastdc::layerwise_distance", _backward, setup_context=_save_cotangents)
torch.library.register_vmap("fastdc::layerwise_distance", _batched)


class _FirstOrderOnly(torch.autograd.Function):
    """The cotangent as a function of the distance's graph, so that a derivative of it raises instead of being taken for zero."""

    generate_vmap_rule = True

    @staticmethod
    def forward(cotangent: Tensor, distance: Tensor) -> Tensor:
        return cotangent.view_as(cotangent)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Nothing is saved."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        raise UsageError(
            "layerwise_distance supports first derivatives of the distance, and a second one was asked for; "
            "detach the cotangent, or differentiate a plain implementation of the distance twice."
        )


def _side_by_side(gradient: Tensor) -> Tensor:
    """The gradient [C, P] with the elements of a class side by side in memory; a copy only where they are not."""
    gradient = gradient.resolve_neg()
    return gradient if gradient.shape[1] <= 1 or gradient.stride(1) == 1 else gradient.contiguous()


def _refuse_forward_mode(*gradients: Tensor) -> None:
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(gradient).tangent is not None for gradient in gradients):
        raise UsageError("layerwise_distance has no forward-mode derivative; use its cotangent, or backward mode.")


def _check_pair(synthetic: Tensor, real: Tensor, layout: ParameterLayout) -> None:
    for name, value in (("synthetic", synthetic), ("real", real)):
        if value.dim() != 2 or value.shape[-1] != layout.size:
            raise UsageError(f"{name} has shape {list(value.shape)}; expected [C, {layout.size}], one gradient per class.")
        _check_dtype(name, value)
    for kind, given, expected in (
        ("shape", list(real.shape), list(synthetic.shape)),
        ("dtype", real.dtype, synthetic.dtype),
        ("device", real.device, synthetic.device),
    ):
        if given != expected:
            raise UsageError(f"real has {kind} {given}; expected that of synthetic, {expected}.")


def _check_dtype(name: str, value: Tensor) -> None:
    if value.dtype not in DTYPES:
        raise UsageError(f"{name} is {value.dtype}; expected one of {', '.join(str(dtype) for dtype in DTYPES)}.")
