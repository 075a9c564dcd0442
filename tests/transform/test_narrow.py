"""The narrower rival keeps to its MACs, its outputs and its shape."""

import pytest
import torch
import torchvision
from torch import nn

from ghostify import InputError, count, create_model
from ghostify.transform.narrow import narrow


def build(name: str) -> nn.Module:
    return create_model(name) if name == "resnet20" else torchvision.models.get_model(name, weights=None)


@pytest.mark.parametrize(
    "name",
    [
        "resnet20",  # maps that reach a zero-padded shortcut stay
        "mobilenet_v2",  # depthwise convolutions and residual sums
        "squeezenet1_1",  # concatenations, and a convolution as classifier
    ],
)
def test_it_costs_at_most_the_target_and_nearly_that(name: str) -> None:
    model = build(name)
    shape = (3, 64, 64)
    target = count(model, shape).macs * 6 // 10
    narrowed = narrow(model, shape, target)
    assert 0.9 * target < count(narrowed, shape).macs <= target
    outputs = [net.eval()(torch.randn(2, *shape)).shape for net in (model, narrowed)]
    assert outputs[0] == outputs[1]


def test_the_original_is_untouched() -> None:
    model = create_model("resnet20")
    params = sum(p.numel() for p in model.parameters())
    narrow(model, (3, 32, 32), count(model, (3, 32, 32)).macs // 2)
    assert sum(p.numel() for p in model.parameters()) == params


def test_a_target_out_of_reach_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be narrowed to 10 MACs"):
        narrow(create_model("tiny:Tiny"), (3, 8, 8), 10)


def test_frozen_weights_and_double_precision_are_narrowed_too() -> None:
    model = create_model("tiny:Tiny").double().requires_grad_(False)
    target = count(model, (3, 8, 8)).macs // 2
    with torch.no_grad():
        narrowed = narrow(model, (3, 8, 8), target)
    assert 0.7 * target < count(narrowed, (3, 8, 8)).macs <= target
