"""PaddedConv2d pads as it says, in itself and within a ghost."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ghostify import GhostConv2d
from ghostify.layers import PaddedConv2d
from ghostify.layers.padded_conv import same_padding


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_padding_is_tensorflows(kernel_size: int, stride: int, dilation: int) -> None:
    for size in range(1, 14):
        # https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2
        needed = (math.ceil(size / stride) - 1) * stride + (kernel_size - 1) * dilation + 1 - size
        before, behind = same_padding(size, kernel_size, stride, dilation)
        assert (before, behind) == (max(needed, 0) // 2, max(needed, 0) - max(needed, 0) // 2)


@pytest.mark.parametrize("padding", ["same", (0, 1, 2, 3), (1, 0, 0, 0)])
@pytest.mark.parametrize("options", [{"stride": 2}, {"stride": (2, 3), "dilation": (1, 2)}, {"groups": 2}])
def test_it_is_a_convolution_of_padded_maps(padding: Any, options: dict[str, Any]) -> None:
    layer = PaddedConv2d(4, 6, (3, 5), padding=padding, **options).double()
    plain = nn.Conv2d(4, 6, (3, 5), **options).double()
    plain.load_state_dict(layer.state_dict())
    for height, width in ((9, 12), (10, 13), (7, 11)):
        x = torch.randn(2, 4, height, width, dtype=torch.float64)
        torch.testing.assert_close(layer(x), plain(F.pad(x, layer.sides(height, width))))
        if padding == "same":
            expected = [math.ceil(n / s) for n, s in zip((height, width), layer.stride, strict=True)]
            assert list(layer(x).shape[2:]) == expected


@pytest.mark.parametrize("padding", ["same", (0, 1, 0, 1)])
@pytest.mark.parametrize("options", [{"cheap": "depthwise"}, {"cheap": "pointwise"}, {"merged": 3, "ordered": True}])
def test_a_ghost_takes_its_padding_and_computes_as_of_padded_maps(padding: Any, options: dict[str, Any]) -> None:
    conv = PaddedConv2d(4, 12, 3, stride=2, padding=padding, bias=False).double()
    ghost = GhostConv2d.like(conv, **{"cheap": "pointwise", **options})
    assert ghost.padding == padding
    assert isinstance(ghost.primary, PaddedConv2d)
    plain = GhostConv2d.like(nn.Conv2d(4, 12, 3, stride=2, bias=False).double(), **{"cheap": "pointwise", **options})
    plain.load_state_dict(ghost.state_dict())
    for size in (8, 9):
        x = torch.randn(2, 4, size, size, dtype=torch.float64)
        for mode in (True, False):
            got, expected = ghost.train(mode)(x), plain.train(mode)(F.pad(x, conv.sides(size, size)))
            torch.testing.assert_close(got, expected)


def test_other_than_zeros_are_refused() -> None:
    with pytest.raises(ValueError, match="padding_mode is 'reflect': expected zeros"):
        PaddedConv2d(3, 8, 3, padding="same", padding_mode="reflect")
