"""What a layer computes is found by watching it run: one convolution, or the reason why it is none."""

import pytest
import timm.layers
import torch
from subclasses import NOT_PLAIN, PLAIN, Same
from torch import nn
from torch.nn import functional as F

from ghostify import convert
from ghostify.layers import PaddedConv2d
from ghostify.structure.plain_convolution import NotPlainError, computes_its_weight, plain_convolution

COMPUTED = {"standardised", "adapted", "spectral", "normed", "masked"}


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("stride", [1, 2])
def test_a_plain_layer_gives_the_same_for_maps_of_any_size(kind: str, stride: int) -> None:
    conv = PLAIN[kind](6, 8, 3, stride=stride).eval()
    assert isinstance(conv, nn.Conv2d)
    state = torch.get_rng_state()
    plain = plain_convolution(conv)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(plain) is (PaddedConv2d if kind == "sided" or (kind == "same" and stride == 2) else nn.Conv2d)
    assert computes_its_weight(conv, plain) == (kind in COMPUTED)
    assert plain.weight.requires_grad
    for size in ((7, 12), (16, 16), (31, 33), (4, 5)):
        x = torch.randn(2, 6, *size)
        torch.testing.assert_close(plain(x), conv(x))


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_what_is_more_than_one_convolution_is_said(kind: str) -> None:
    layer, reason = NOT_PLAIN[kind]
    conv = layer(6, 8, 3)
    assert isinstance(conv, nn.Conv2d)
    with pytest.raises(NotPlainError, match=reason):
        plain_convolution(conv)


def test_a_reason_of_the_layers_own_is_not_cut() -> None:
    class WithCoordinates(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.cat([x, torch.zeros_like(x[:, :2])], dim=1))

    with pytest.raises(NotPlainError, match=r"it cannot be tried by itself: Given groups=1.* channels instead$"):
        plain_convolution(WithCoordinates(5, 16, 3))


def test_mode_trainability_type_and_groups_go_along() -> None:
    conv = Same(6, 8, (3, 5), stride=(2, 1), groups=2, bias=False, dtype=torch.float64).requires_grad_(False)
    plain = plain_convolution(conv)
    assert (plain.groups, plain.bias, plain.training) == (2, None, True)
    assert plain.weight.dtype == torch.float64
    assert not plain.weight.requires_grad
    assert plain.weight is not conv.weight
    x = torch.randn(1, 6, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(plain(x), conv(x))


def test_it_is_watched_in_inference_mode_too() -> None:
    with torch.inference_mode():
        conv = Same(6, 8, 3, stride=2)
        plain = plain_convolution(conv)
        x = torch.randn(1, 6, 9, 8)
        torch.testing.assert_close(plain(x), conv(x))


def test_what_fails_by_itself_says_why() -> None:
    class Choosy(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[2] != 224:
                raise ValueError("224 pixels only")
            return F.conv2d(x, self.weight)

    with pytest.raises(NotPlainError, match="it cannot be tried by itself: 224 pixels only"):
        plain_convolution(Choosy(3, 8, 3))


@pytest.mark.parametrize("name", ["Conv2dSame", "StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame"])
@pytest.mark.parametrize("stride", [1, 2])
def test_timms_layers_are_plain(name: str, stride: int) -> None:
    conv = getattr(timm.layers, name)(6, 8, 3, stride=stride).eval()
    if name == "ScaledStdConv2dSame":  # which is told
        conv = timm.layers.ScaledStdConv2dSame(6, 8, 3, stride=stride, padding="SAME").eval()
    plain = plain_convolution(conv)
    assert computes_its_weight(conv, plain) == ("Std" in name)
    for size in ((7, 12), (16, 16), (4, 5)):
        x = torch.randn(2, 6, *size)
        torch.testing.assert_close(plain(x), conv(x), rtol=1e-4, atol=1e-5)
    assert convert(nn.Sequential(conv, nn.ReLU(), nn.Conv2d(8, 8, 3)), input_shape=(6, 16, 16)).replaced == 2
