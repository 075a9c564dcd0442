"""The narrower rival keeps to its MACs, its outputs and its shape."""

import threading

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


def test_activations_in_place_hide_nothing() -> None:
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(inplace=True), nn.Conv2d(32, 10, 3))
    half = narrow(net, (3, 8, 8), count(net, (3, 8, 8)).macs // 2)
    assert (half[0].out_channels, half[1].inplace) == (16, True)


def test_a_search_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Boxes(nn.Module):
        """Its view and permutation send Torch-Pruning round in circles."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 16, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            t = self.last(self.first(x).relu())
            n, _, h, w = t.shape
            y = t.view(n, 2, 8, h, w).permute(0, 1, 3, 4, 2).sigmoid()
            return torch.cat([y[..., :2] * 2 - 0.5, y[..., 2:]], -1).reshape(n, -1, 8)

    monkeypatch.setattr("ghostify.transform.narrow.LIMIT", 3.0)
    before = threading.active_count()
    with pytest.raises(InputError, match="cannot be narrowed by Torch-Pruning: not done within 3 seconds"):
        narrow(Boxes(), (3, 16, 16), 100_000)
    assert threading.active_count() == before
