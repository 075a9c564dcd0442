"""Learning in bf16: depthwise convolutions have the gradients of float32."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ghostify.bf16 import LearningInBf16
from ghostify.layers import GhostConv2d
from ghostify.modes import without_autocast

CPU = torch.device("cpu")


def depthwise(**settings: Any) -> nn.Conv2d:
    return nn.Conv2d(8, 8, 3, groups=8, **settings)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: depthwise(padding=1),
    "of stride 2": lambda: depthwise(padding=1, stride=2),
    "without biases": lambda: depthwise(bias=False, stride=2),
    "dilated": lambda: depthwise(dilation=2, padding=2),
    "oblong": lambda: nn.Conv2d(8, 8, (7, 1), padding=(3, 0), groups=8),
    "of two filters a channel": lambda: nn.Conv2d(8, 16, 5, padding=2, groups=8),
    "padded as said in words": lambda: depthwise(padding="same"),
    "padded by reflection": lambda: depthwise(padding=1, stride=2, padding_mode="reflect"),
    "in groups": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=2),
    "a ghost's": lambda: GhostConv2d(8, 16, 3, padding=1),
}


def learnt(network: nn.Module, x: Tensor, target: Tensor) -> list[Tensor]:
    """The gradients of the input and all weights."""
    network.zero_grad()
    x = x.clone().requires_grad_(True)
    with LearningInBf16(CPU, enabled=True):
        loss = (network(x).float() - target).square().mean()
    loss.backward()
    assert x.grad is not None
    return [x.grad, *(parameter.grad for parameter in network.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_are_those_of_float32_but_for_rounding(kind: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1), LAYERS[kind](), nn.Tanh(), nn.Conv2d(LAYERS[kind]()(torch.rand(1, 8, 9, 9)).shape[1], 4, 1)
    )
    x = torch.randn(4, 3, 9, 9)
    target = torch.randn_like(network(x))
    found = learnt(network, x, target)
    network.zero_grad()
    x.requires_grad_(True)
    (network(x) - target).square().mean().backward()
    wanted = [x.grad, *(parameter.grad for parameter in network.parameters())]
    assert len(found) == len(wanted)
    for mine, theirs in zip(found, wanted, strict=True):
        assert theirs is not None
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() < 0.02 * theirs.norm()


def test_a_depthwise_convolution_computes_in_bf16_and_its_filters_gradient_in_float32() -> None:
    torch.manual_seed(0)
    layer, x = depthwise(padding=1, stride=2), torch.randn(4, 8, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        theirs = layer(x)
    with LearningInBf16(CPU, enabled=True):
        mine = layer(x)
    assert mine.dtype == torch.bfloat16
    assert torch.equal(mine, theirs)
    mine.float().square().sum().backward()
    wanted = layer.weight.detach().clone().requires_grad_(True)
    output = nn.functional.conv2d(x.bfloat16().float(), wanted, stride=2, padding=1, groups=8)
    output.backward(2 * mine.detach().float())
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, wanted.grad)


def test_nothing_changes_where_it_is_not_enabled_and_it_works_without_others_autocast() -> None:
    layer, x = depthwise(stride=2), torch.randn(2, 8, 5, 5)
    with LearningInBf16(CPU, enabled=False):
        output = layer(x)
        assert output.dtype == torch.float32
        assert "DepthwiseConvolution" not in type(output.grad_fn).__name__
    with without_autocast(), LearningInBf16(CPU, enabled=True):
        assert layer(x).dtype == torch.bfloat16
    with LearningInBf16(CPU, enabled=True), torch.no_grad():
        assert layer(x).grad_fn is None
    assert layer(x).dtype == torch.float32
