"""GhostConv2d takes the place of any Conv2d, and computes what its definition says."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ghostify import GhostConv2d, InputError
from ghostify.layers.ghost_conv import intrinsic_channels


@st.composite
def conv_arguments(draw: st.DrawFn) -> dict[str, Any]:
    groups = draw(st.integers(1, 3))
    stride = draw(st.sampled_from([1, 2, (1, 2), (3, 1)]))
    paddings: list[Any] = [0, 1, (2, 0), "valid"] + (["same"] if stride == 1 else [])
    return {
        "in_channels": groups * draw(st.integers(1, 4)),
        "out_channels": groups * draw(st.integers(1, 7)),
        "kernel_size": draw(st.sampled_from([1, 2, 3, (1, 3), (5, 2)])),
        "stride": stride,
        "padding": draw(st.sampled_from(paddings)),
        "dilation": draw(st.sampled_from([1, 2, (2, 1)])),
        "groups": groups,
        "bias": draw(st.booleans()),
        "padding_mode": draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    }


ghost_arguments = st.fixed_dictionaries(
    {
        "ratio": st.integers(1, 5),
        "cheap_kernel_size": st.sampled_from([1, 3, 5]),
        "cheap": st.sampled_from(["depthwise", "pointwise"]),
    }
)


@settings(max_examples=150, deadline=None)
@given(conv_arguments(), ghost_arguments, st.sampled_from([(2,), ()]), st.sampled_from([(5, 7), (11, 9), (1, 1)]))
def test_output_has_the_shape_of_conv2d_and_every_parameter_a_gradient(
    conv: dict[str, Any], ghost: dict[str, Any], batch: tuple[int, ...], size: tuple[int, int]
) -> None:
    x = torch.randn(*batch, conv["in_channels"], *size)
    try:
        expected = nn.Conv2d(**conv)(x)
    except (RuntimeError, NotImplementedError):
        assume(False)  # Conv2d itself refuses: a map smaller than its filter or padding
    layer = GhostConv2d(**conv, **ghost)
    got = layer(x)
    assert got.shape == expected.shape
    got.square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


@settings(max_examples=50, deadline=None)
@given(conv_arguments(), ghost_arguments)
def test_it_is_linear(conv: dict[str, Any], ghost: dict[str, Any]) -> None:
    layer = GhostConv2d(**conv | {"bias": False, "padding": 2, "padding_mode": "zeros"}, **ghost).double()
    a, b = torch.randn(2, 1, conv["in_channels"], 9, 9, dtype=torch.float64)
    torch.testing.assert_close(layer(2 * a - 3 * b), 2 * layer(a) - 3 * layer(b))


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("ratio", [1, 2])
def test_merged_inputs_are_a_convolution_with_combined_filters_up_to_the_border(padding_mode: Any, ratio: int) -> None:
    layer = GhostConv2d(
        6, 8, 3, 2, 1, padding_mode=padding_mode, ratio=ratio, cheap="pointwise", merged=3, dtype=torch.float64
    )
    assert layer.merge is not None
    assert layer.in_channels == 6
    assert layer.primary.weight.shape[1] == 3
    filters = torch.einsum("omij,mc->ocij", layer.primary.weight, layer.merge.weight[:, :, 0, 0])
    whole = GhostConv2d(6, 8, 3, 2, 1, padding_mode=padding_mode, ratio=ratio, cheap="pointwise", dtype=torch.float64)
    whole.load_state_dict({**layer.state_dict(), "primary.weight": filters}, strict=False)
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    for mode in (True, False):
        torch.testing.assert_close(layer.train(mode)(x), whole.train(mode)(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"merged": 0}, "merged is 0: expected 1 to 8, the input maps"),
        ({"merged": 9}, "merged is 9: expected 1 to 8"),
        ({"merged": 4, "groups": 2}, "groups is 2: expected 1 where intrinsic, ordered or merged is given"),
    ],
)
def test_inputs_that_cannot_be_merged_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GhostConv2d(8, 8, 3, **options)


def plain_ghost(layer: GhostConv2d, x: Tensor) -> Tensor:
    """Too plain to be wrong: the definition, map by map and pixel by pixel."""
    intrinsic = layer.primary(x)
    groups, per_group = layer.groups, layer.out_channels // layer.groups
    per_group_intrinsic = intrinsic.shape[1] // groups
    height, width = intrinsic.shape[2:]
    out = torch.zeros(len(x), layer.out_channels, height, width, dtype=x.dtype)
    for n, group, index in itertools.product(range(len(x)), range(groups), range(per_group)):
        channel = group * per_group + index
        if index < per_group_intrinsic:
            out[n, channel] = intrinsic[n, group * per_group_intrinsic + index]
            continue
        assert layer.cheap is not None
        ghost = index - per_group_intrinsic
        if layer.cheap_kind == "pointwise":
            row = group * (per_group - per_group_intrinsic) + ghost
            for source in range(per_group_intrinsic):
                weight = layer.cheap.weight[row, source, 0, 0]
                out[n, channel] += weight * intrinsic[n, group * per_group_intrinsic + source]
        else:
            row = group * per_group_intrinsic * (layer.ratio - 1) + ghost
            source, d = row // (layer.ratio - 1), layer.cheap_kernel_size
            for y, z, i, j in itertools.product(range(height), range(width), range(d), range(d)):
                from_y, from_z = y + i - d // 2, z + j - d // 2
                if 0 <= from_y < height and 0 <= from_z < width:
                    out[n, channel, y, z] += layer.cheap.weight[row, 0, i, j] * intrinsic[n, source, from_y, from_z]
        if layer.cheap.bias is not None:
            out[n, channel] += layer.cheap.bias[row]
    return out


@pytest.mark.parametrize("cheap", ["depthwise", "pointwise"])
@pytest.mark.parametrize(
    ("out_channels", "ratio", "groups", "d"),
    [
        (8, 2, 1, 3),
        (7, 2, 1, 3),  # the ratio does not divide: a ghost too many is cut off
        (10, 3, 1, 1),
        (10, 4, 2, 5),  # likewise, within each of two groups
    ],
)
def test_every_element_equals_the_plain_definition(
    cheap: Any, out_channels: int, ratio: int, groups: int, d: int
) -> None:
    layer = GhostConv2d(
        4, out_channels, 3, stride=2, padding=1, groups=groups, ratio=ratio, cheap_kernel_size=d, cheap=cheap
    ).double()
    x = torch.randn(2, 4, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain_ghost(layer, x))


def test_gradients_are_those_of_finite_differences() -> None:
    layer = GhostConv2d(2, 5, 3, ratio=3).double()
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_ratio_1_like_a_convolution_is_that_convolution() -> None:
    conv = nn.Conv2d(6, 9, 3, stride=2, padding=1, groups=3, padding_mode="circular")
    x = torch.randn(2, 6, 8, 7)
    assert torch.equal(GhostConv2d.like(conv, ratio=1)(x), conv(x))


def test_like_keeps_arguments_type_mode_trainability_and_the_first_filters_of_each_group() -> None:
    conv = nn.Conv2d(4, 8, (3, 1), (2, 1), "valid", 2, 2, False, "reflect", dtype=torch.float64).eval()
    conv.requires_grad_(False)
    ghost = GhostConv2d.like(conv)
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
        assert getattr(ghost, name) == getattr(conv, name), name
    assert ghost.padding_mode == "reflect"
    assert ghost.primary.bias is None
    assert not ghost.training
    assert all(p.dtype == torch.float64 and not p.requires_grad for p in ghost.parameters())
    assert torch.equal(ghost.primary.weight, conv.weight[[0, 1, 4, 5]])


def test_intrinsic_channels_is_the_ceiling_in_each_group() -> None:
    assert [intrinsic_channels(n, 3) for n in (1, 3, 4, 64)] == [1, 1, 2, 22]
    assert intrinsic_channels(14, 2, groups=2) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 0}, "ratio is 0"),
        ({"ratio": 1.5}, "ratio is 1.5"),
        ({"cheap_kernel_size": 4}, "cheap_kernel_size is 4"),
        ({"cheap": "dense"}, "expected one of depthwise, pointwise"),
        ({"groups": 3}, "divisible by groups"),
    ],
)
def test_bad_arguments_are_refused_with_what_would_be_right(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GhostConv2d(6, 8, 3, **arguments)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ordered", [True, False])
def test_it_learns_as_one_convolution_what_it_computes_in_eval_mode(
    padding_mode: Any, bias: bool, ordered: bool
) -> None:
    layer = GhostConv2d(
        3, 8, 3, 2, 1, padding_mode=padding_mode, bias=bias, cheap="pointwise", intrinsic=6, ordered=ordered
    ).double()
    if layer.order is not None:
        layer.order.copy_(torch.randperm(8))
    assert layer.learns_as_one
    assert not GhostConv2d(3, 8, 3, cheap="pointwise", intrinsic=4).learns_as_one
    x = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    wanted = torch.randn(2, 8, 5, 4, dtype=torch.float64)
    found = []
    for training in (True, False):
        layer.train(training).zero_grad()
        maps = layer(x)
        (maps * wanted).sum().backward()
        found.append([maps.detach(), *(p.grad.clone() for p in layer.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) == 1 + len(list(layer.parameters()))
    for learned, evaluated in zip(*found, strict=True):
        torch.testing.assert_close(learned, evaluated, rtol=1e-12, atol=1e-12)
