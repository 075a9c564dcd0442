"""Maps count as inner only where they can be dropped and the network still computes what it should."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from ghostify import InputError, convert
from ghostify.changes import LayerPlan, Prune
from ghostify.structure.channels import PrunableChannels, find_prunable


class Way(nn.Module):
    """A convolution of 16 maps, what is done to them on their way, and one that takes them."""

    def __init__(self, way: Callable[[Tensor], Tensor], taken: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.Module()
        self.second = nn.Conv2d(taken, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.way(self.first(x))).mean((2, 3)))


class WithBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gain", torch.rand(1, 16, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


def shuffled(x: Tensor) -> Tensor:
    return x.unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)


def found(model: nn.Module) -> PrunableChannels | str:
    first = model.get_submodule("first")
    assert isinstance(first, nn.Conv2d)
    return find_prunable(model, torch.randn(1, 3, 8, 8), {"first": first})["first"]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Way(shuffled), "in their places"),
        (Way(lambda x: F.pixel_shuffle(x, 2), taken=4), "in their places"),
        (Way(lambda x: F.glu(x, 1), taken=8), "in their places"),
        (Way(FrozenBatchNorm2d(16)), "does not run without one"),
        (Way(WithBuffer()), "does not run without one"),
    ],
    ids=["shuffle", "pixel shuffle", "GLU", "frozen norm", "buffer"],
)
def test_what_the_tracer_overlooks_is_found_by_trying(model: nn.Module, reason: str) -> None:
    place = found(model)
    assert isinstance(place, str)
    assert reason in place
    batches = list(torch.randn(32, 3, 8, 8).split(16))
    convert(model, calibration=batches, cheap="pointwise", effort="fast")
    with pytest.raises(InputError, match="channels of first cannot be dropped"):
        convert(model, calibration=batches, plan={"first": LayerPlan(Prune(8, 8))}, effort="fast")


def test_frozen_weights_hide_nothing() -> None:
    model = Way(torch.relu).requires_grad_(False)
    assert found(model) == PrunableChannels("first", ("second",), ())
    assert not any(p.requires_grad for p in model.parameters())


class Twice(nn.Module):
    """Its first two convolutions run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(n, 16, 3, padding=1) for n in (3, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        once, again = (self.second(self.first(y).relu()) for y in (x, x.flip(-1)))
        return self.third((once + again).relu()).mean((2, 3))


def test_maps_of_what_runs_twice_stay() -> None:
    model = Twice()
    assert found(model) == "it, or a layer that takes its channels, is not run exactly once for an input"
    batches = list(torch.randn(32, 3, 8, 8).split(16))
    conversion = convert(model, calibration=batches, cheap="pointwise", effort="fast")
    assert [layer.reason for layer in conversion.layers] == ["not run exactly once for an input"] * 2 + [""]
    with pytest.raises(InputError, match="plan: first cannot change: not run exactly once"):
        convert(model, calibration=batches, plan={"first": LayerPlan(Prune(8, 8))}, effort="fast")
