from __future__ import annotations

import pytest
import torch
from torch import nn

from fastdc.models import build
from fastdc.models.convnet import ConvNet, ConvNetOptions, default_depth


@pytest.mark.parametrize(("side", "depth"), [(8, 2), (16, 3), (28, 3), (32, 3), (64, 4), (96, 4), (128, 5), (224, 6), (256, 6)])
def test_default_depth_follows_the_image(side: int, depth: int) -> None:
    assert default_depth((side, side)) == depth


@pytest.mark.parametrize(
    ("spec", "channels", "side", "count"),
    [("convnet", 1, 28, 317706), ("convnet", 3, 32, 320010), ("convnet:width=32,depth=2", 1, 8, 10986), ("mlp", 1, 28, 118282)],
)
def test_parameter_counts(spec: str, channels: int, side: int, count: int) -> None:
    assert sum(p.numel() for p in build(spec, channels, 10, (side, side)).parameters()) == count


def test_grey_28_pixel_images_are_padded_to_32() -> None:
    assert ConvNet(1, 10, (28, 28)).features[0](torch.zeros(1, 1, 28, 28)).shape[2:] == (32, 32)
    assert ConvNet(3, 10, (28, 28)).features[0](torch.zeros(1, 3, 28, 28)).shape[2:] == (28, 28)


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "instance", "group"])
@pytest.mark.parametrize("activation", ["sigmoid", "relu", "leaky_relu", "swish"])
@pytest.mark.parametrize("pooling", ["none", "max", "avg"])
def test_every_variant_maps_images_to_logits(norm: str, activation: str, pooling: str) -> None:
    spec = f"convnet:width=8,depth=2,norm={norm},activation={activation},pooling={pooling}"
    for channels, size in ((1, (8, 8)), (3, (17, 12))):
        assert build(spec, channels, 7, size)(torch.randn(2, channels, *size)).shape == (2, 7)


def test_instance_norm_normalises_each_map() -> None:
    block = ConvNet(1, 10, (16, 16), ConvNetOptions(width=8)).features[:2]
    maps = block(torch.randn(3, 1, 16, 16))
    torch.testing.assert_close(maps.mean((2, 3)), torch.zeros(3, 8), atol=1e-5, rtol=0)
    torch.testing.assert_close(maps.var((2, 3), correction=0), torch.ones(3, 8), atol=1e-2, rtol=0)


def test_leaky_relu_has_the_papers_slope() -> None:
    layer = next(part for part in build("convnet:activation=leaky_relu", 1, 10, (8, 8)).modules() if isinstance(part, nn.LeakyReLU))
    assert layer.negative_slope == 0.01
