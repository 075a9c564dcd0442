"""The narrower rival keeps to its MACs, its outputs and its shape."""

import pytest
import torch
import torchvision
from torch import nn

from ghostify import InputError, count, create_model
from ghostify.transform.narrow import narrow


def build(name: str) -> nn.Module:
    if name == "resnet20":
        return create_model(name)
    # Of MobileNetV2 the first six blocks: all that differs between blocks is in these.
    settings = {"inverted_residual_setting": [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2]]}
    return torchvision.models.get_model(name, weights=None, **settings if name == "mobilenet_v2" else {})


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
    model = create_model("tiny:Tiny")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    narrow(model, (3, 8, 8), count(model, (3, 8, 8)).macs // 2)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_target_out_of_reach_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be narrowed to 10 MACs"):
        narrow(create_model("tiny:Tiny"), (3, 8, 8), 10)


def test_frozen_weights_and_double_precision_are_narrowed_too() -> None:
    model = create_model("tiny:Tiny").double().requires_grad_(False)
    target = count(model, (3, 8, 8)).macs // 2
    with torch.no_grad():
        narrowed = narrow(model, (3, 8, 8), target)
    assert 0.7 * target < count(narrowed, (3, 8, 8)).macs <= target
