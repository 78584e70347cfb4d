"""The networks among which to search."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from fastdc.data import ImageData
from fastdc.engines import resolve_engine
from fastdc.errors import UsageError, unknown_name
from fastdc.models.network import NetworkFamily
from fastdc.models.parts import ACTIVATIONS, NORMS, POOLINGS, in_paper
from fastdc.models.registry import as_factory
from fastdc.options.checks import check_count
from fastdc.options.specs import split_spec
from fastdc.runtime.seeding import make_generator


@dataclass(frozen=True, kw_only=True)
class ConvNetSpace:
    """All ConvNets of some widths, depths, norms, activations and poolings; by default the paper's 720.

    Example:
        >>> len(list(ConvNetSpace())), next(iter(ConvNetSpace(widths=(8,))))
        (720, 'convnet:width=8,depth=1,norm=none,activation=sigmoid,pooling=none')
    """

    widths: tuple[int, ...] = (32, 64, 128, 256)
    depths: tuple[int, ...] = (1, 2, 3, 4)
    norms: tuple[str, ...] = in_paper(NORMS)
    activations: tuple[str, ...] = in_paper(ACTIVATIONS)
    poolings: tuple[str, ...] = in_paper(POOLINGS)

    def __iter__(self) -> Iterator[str]:
        """The specs of the networks, pooling changing fastest.

        Raises:
            UsageError: a part that is not known, or a width or depth below 1.
        """
        for what, names, known in (
            ("norm", self.norms, NORMS),
            ("activation", self.activations, ACTIVATIONS),
            ("pooling", self.poolings, POOLINGS),
        ):
            for name in names:
                if name not in known:
                    raise unknown_name(what, name, known)
        for what, counts in (("width", self.widths), ("depth", self.depths)):
            for count in counts:
                check_count(what, count)
        for width, depth, norm, activation, pooling in itertools.product(
            self.widths, self.depths, self.norms, self.activations, self.poolings
        ):
            yield f"convnet:width={width},depth={depth},norm={norm},activation={activation},pooling={pooling}"


PAPER_SPACE = ConvNetSpace()


def models_of(space: Iterable[str], networks: int | None, seed: int) -> tuple[str, ...]:
    """The members of a space, or a random `networks` of them, in their order.

    Raises:
        UsageError: an unknown model, one that is there twice, fewer than two, or more asked for than there are.
    """
    if isinstance(space, str) or not isinstance(space, Iterable):
        raise UsageError(f"space is {space!r}; expected a ConvNetSpace, or a list of names of models.")
    members = tuple(space)
    for member in members:
        if not isinstance(member, str):
            raise UsageError(
                f"a member of the space is a {type(member).__name__}; expected the name of a model, such as 'convnet:width=32'."
            )
        as_factory(member)
    twice = next((member for index, member in enumerate(members) if member in members[:index]), None)
    if twice is not None:
        raise UsageError(f"{twice!r} is in the space twice; expected each network once.")
    if len(members) < 2:
        raise UsageError(f"the space has {len(members)} network(s); expected two or more, to be ranked.")
    check_count("networks", networks, optional=True)
    if networks is None:
        return members
    if not 2 <= networks <= len(members):
        raise UsageError(f"networks is {networks}; expected 2 to {len(members)}, the size of the space, or None for all.")
    taken = torch.randperm(len(members), generator=make_generator(seed, "search space"))[:networks].sort().values
    return tuple(members[index] for index in taken)


def unsupported_reason(model: str, data: ImageData, engine: str) -> str | None:
    """Why a network cannot take these images, or this engine cannot serve it; None where they fit."""
    try:
        with torch.device("meta"):  # which draws no weights: hundreds are looked at in a second
            NetworkFamily(model, data.channels, data.num_classes, data.image_size, torch.device("meta"))
        if split_spec(engine)[0] != "auto":  # which always finds one
            family = NetworkFamily(model, data.channels, data.num_classes, data.image_size, torch.device("cpu"))
            resolve_engine(engine, family.fresh(0))
    except UsageError as error:
        return str(error)
    return None
