"""A step of training that several processes share: the gradients of parts of a batch, and the step by their sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from processes import together

from fastdc.engines import Sgd, make_engine
from fastdc.engines.native import NativeEngine
from fastdc.models.network import NetworkFamily
from fastdc.parallel.world import world
from fastdc.runtime import compiled

pytestmark = [
    pytest.mark.skipif(compiled.extension is None, reason=f"fastdc._C is not there ({compiled.state('cpp')})"),
    pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="torch has no gloo"),
]
SHAPE = (3, 8, 8)
MODELS = (
    "convnet:width=8,depth=2",
    "convnet:width=12,depth=2,norm=instance,activation=swish",
    "mlp:width=8",
    "convnet:width=8,depth=2,norm=batch",
)


def noise(count: int) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))


def trained(model: str, count: int, shared: bool) -> tuple[torch.Tensor, int]:
    """The weights after three epochs in batches of 40, and how many sums were made together."""
    torch.set_num_threads(1)
    family = NetworkFamily(model, SHAPE[0], 3, SHAPE[1:], torch.device("cpu"))
    engine, theta = make_engine("native", family.fresh(0)), family.fresh_weights(1)
    images, labels, here = noise(count), torch.arange(count) % 3, world()
    sums, summed = [], here.summed
    here.summed = lambda rows: sums.append(rows) or summed(rows)  # type: ignore[method-assign, func-returns-value]
    sgd = Sgd(3, 0.05, momentum=0.9, weight_decay=1e-3, batch=40)
    engine.train(theta, images, labels, sgd, torch.Generator().manual_seed(0), **({"world": here} if shared else {}))
    del here.summed
    return theta, len(sums)


def all_trained(cases: list[tuple[str, int]]) -> list[tuple[torch.Tensor, int]]:
    return [trained(*case, shared=True) for case in cases]


@pytest.mark.parametrize("size", [2, 3])
def test_processes_that_share_steps_reach_the_same_bits(size: int) -> None:
    cases = [(model, count) for model in MODELS for count in (100, 9)]  # batches of 40 are cut into 5 parts, 20 into 2, 9 into one
    expected = [trained(*case, shared=False)[0] for case in cases]
    for found in together(size, all_trained, cases):
        for (model, count), (theta, sums), one in zip(cases, found, expected, strict=True):
            assert torch.equal(theta, one), model
            steps = 0 if "batch" in model or count == 9 else 9 if size == 2 else 6
            assert sums == steps, (model, count)


def engine_and_network() -> tuple[NativeEngine, Any, dict[str, Any]]:
    family = NetworkFamily(MODELS[0], SHAPE[0], 3, SHAPE[1:], torch.device("cpu"))
    engine, theta = make_engine("native", family.fresh(0)), family.fresh_weights(1)
    assert isinstance(engine, NativeEngine)
    images = noise(40)
    given = {"theta": theta, "images": images, "labels": torch.arange(40) % 3, "gradients": torch.empty(5, len(theta))}
    return engine, engine._network(images, {}), {name: tensor.numpy() for name, tensor in given.items()}


def test_parts_add_up_to_the_gradient_of_the_batch() -> None:
    engine, network, given = engine_and_network()
    network.part_gradients(**given, first=0, threads=2)
    expected = engine.class_gradients(torch.from_numpy(given["theta"]), torch.from_numpy(given["images"])[None], torch.tensor([0]))
    given["labels"] = np.zeros(40, np.int64)
    network.part_gradients(**given, first=0, threads=1)
    found = given["gradients"].sum(0)
    assert np.abs(found - expected.numpy()[0]).max() <= 1e-5 * np.abs(found).max()
    alone = np.empty_like(given["gradients"][:2])
    network.part_gradients(**given | {"gradients": alone}, first=3, threads=2)
    np.testing.assert_array_equal(alone, given["gradients"][3:])


def test_what_does_not_fit_is_refused_by_name() -> None:
    _, network, given = engine_and_network()
    size, f = given["theta"].shape[0], np.float32
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"first": 1}, "first"),
        ({"first": -1}, "first"),
        ({"gradients": np.empty((6, size), f)}, "gradients"),
        ({"gradients": np.empty((5, size - 1), f)}, "gradients"),
        ({"gradients": np.empty((5, size))}, "gradients"),
        ({"labels": np.full(40, 3)}, "labels"),
        ({"images": given["images"][:0], "labels": given["labels"][:0]}, "images"),
        ({"threads": 0}, "threads"),
    ]
    for change, name in wrong:
        with pytest.raises((ValueError, TypeError), match=name):
            network.part_gradients(**given | {"first": 0, "threads": 1} | change)
    sgd = compiled.extension.Sgd(batch=1, lr=0.1, momentum=0.0, weight_decay=0.0)  # type: ignore[union-attr]
    for rows, name in ((np.empty((1, size + 1), f), "gradients"), (np.empty(size, f), "gradients")):
        with pytest.raises((ValueError, TypeError), match=name):
            network.move(given["theta"], np.zeros(size, f), rows, sgd=sgd, threads=1)
