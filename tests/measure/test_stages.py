"""Stages end where the size of the maps changes, and a layer's maps are what it made."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from ghostify import InputError, create_model
from ghostify.measure.stages import maps_of, stages


@pytest.mark.parametrize(
    ("network", "size", "ends"),
    [
        (lambda: create_model("resnet56"), 32, ["layer1", "layer2", "layer3"]),
        (lambda: create_model("vgg16_cifar"), 32, [f"features.{i}" for i in (5, 12, 22, 32, 42)]),
        (lambda: create_model("ghostnet_100"), 64, ["blocks.0", "blocks.2", "blocks.4", "blocks.6", "blocks.9"]),
        (lambda: create_model("resnet50"), 64, ["relu", "layer1", "layer2", "layer3", "layer4"]),
        (
            lambda: torchvision.models.mobilenet_v2(weights=None),
            64,
            [f"features.{i}" for i in (1, 3, 6, 13, 18)],
        ),
    ],
    ids=["resnet56", "vgg16_cifar", "ghostnet_100", "resnet50", "mobilenet_v2"],
)
def test_stages_end_before_the_maps_get_smaller(network: object, size: int, ends: list[str]) -> None:
    torch.manual_seed(0)
    model = network().eval()  # type: ignore[operator]  # a builder
    found = stages(model, torch.randn(1, 3, size, size))
    assert [stage.end for stage in found] == ends
    sizes = [stage.height for stage in found]
    assert sizes == sorted(set(sizes), reverse=True)
    for stage in found:
        maps = maps_of(model, [stage.end], torch.randn(1, 3, size, size))[stage.end]
        assert tuple(maps.shape) == (stage.maps, stage.height, stage.width)


class InPlace(nn.Module):
    """A convolution whose maps what follows writes into."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(x)).mean((2, 3)))


def test_maps_are_as_the_layer_made_them_and_modes_stay() -> None:
    torch.manual_seed(0)
    network = InPlace().train()
    x = torch.randn(2, 3, 7, 5)
    maps = maps_of(network, ["conv"], x)["conv"]
    assert torch.equal(maps, network.conv(x)[0].detach())
    assert maps.min() < 0
    assert network.training
    assert not network.conv._forward_hooks


def test_an_unknown_layer_is_refused_with_one_that_is_there() -> None:
    with pytest.raises(InputError, match=r"there is no layer 'con' in this network: expected one of conv, act$"):
        maps_of(InPlace(), ["con"], torch.randn(1, 3, 8, 8))
    with pytest.raises(InputError, match="head makes no maps"):
        maps_of(InPlace(), ["head"], torch.randn(1, 3, 8, 8))
