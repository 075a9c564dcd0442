"""Channels may be dropped only where following layers take them, and the network then computes what it should."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from ghostify import InputError, convert, count, plan
from ghostify.changes import LayerPlan, PointwiseGhosts, Prune
from ghostify.structure.blocks import find_blocks, inputs_of
from ghostify.structure.channels import PrunableChannels, drop_channels_of_, find_prunable
from ghostify.transform.reconstruct import Effort


class Way(nn.Module):
    """A convolution of 16 maps, what is done to them on their way, and one that takes them."""

    def __init__(self, way: Callable[[Tensor], Tensor], taken: int = 16, size: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.way = way
        self.second = nn.Conv2d(taken, 8, size, padding=size // 2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.way(self.first(x))).mean((2, 3)))


class WithBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gain", torch.rand(1, 16, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(16))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma.view(1, -1, 1, 1)


class SpatialGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x.new_ones(len(x), 2, *x.shape[2:])).sigmoid()


class ScaledBranch(nn.Module):
    """A weight for each channel beside layers, as ConvNeXt has."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.gamma = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Parameter(torch.full((16, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.branch(x)


class Gate(nn.Module):
    """Squeeze and excite.

    Args:
        squeezed: Channels between.
        shared: The gate is taken by another layer, too.
        turned: It multiplies other channels than its own.
        halved: Only half of the channels are multiplied.
    """

    def __init__(self, squeezed: int = 4, *, shared: bool = False, turned: bool = False, halved: bool = False) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(16, squeezed, 1), nn.Conv2d(squeezed, 8 if halved else 16, 1)
        self.other = nn.Conv2d(16, 16, 1) if shared else None
        self.turned, self.halved = turned, halved

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(self.reduce(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        if self.turned:
            gate = gate.flip(1)
        out = (x[:, :8] if self.halved else x) * gate
        return out if self.other is None else out + self.other(gate).mean()


def shuffled(x: Tensor) -> Tensor:
    return x.unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)


def found(model: nn.Module) -> PrunableChannels | str:
    return find_prunable(model, torch.randn(1, 3, 8, 8), ["first"])["first"]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Way(shuffled), "in their places"),
        (Way(nn.ChannelShuffle(4)), "in their places"),
        (Way(lambda x: x.flip(1)), "in their places"),
        (Way(lambda x: F.pixel_shuffle(x, 2), taken=4), "in their places"),
        (Way(lambda x: F.glu(x, 1), taken=8), "go into glu"),
        (Way(lambda x: x * torch.linspace(1, 2, 16).view(1, -1, 1, 1)), "meet others in mul"),
        (Way(lambda x: x + torch.ones(1, 16, 1, 1)), "meet others in add"),
        (Way(lambda x: torch.cat([x, x], 1), taken=32), "in their places"),
        (Way(lambda x: torch.cat([x, torch.ones(len(x), 2, 8, 8)], 1), taken=18), "concatenated"),
        (Way(lambda x: x[:, :8], taken=8), "concatenated with others, or split"),
        (Way(lambda x: x.softmax(1)), "put together by softmax"),
        (Way(lambda x: x * x.mean(1, keepdim=True)), "put together by mean"),
        (Way(nn.GroupNorm(4, 16)), "go into native_group_norm"),
        (Way(Gate(shared=True)), "the gate that multiplies its channels is taken elsewhere, too"),
        (Way(Gate(turned=True)), "meet others in mul"),
        (Way(Gate(halved=True), taken=8), "meet others in mul"),
        (Way(nn.Conv2d(16, 32, 3, padding=1, groups=4), taken=32), "a grouped convolution"),
        (Way(nn.ConvTranspose2d(16, 16, 2, groups=4)), "a grouped convolution"),
        (Way(nn.ConvTranspose2d(16, 16, 2, groups=16)), "a grouped convolution"),
        (Way(lambda x: x * x.shape[1]), "does not run without one"),
    ],
)
def test_channels_that_must_stay(model: nn.Module, reason: str) -> None:
    place = found(model)
    assert isinstance(place, str)
    assert reason in place
    batches = list(torch.randn(32, 3, 8, 8).split(16))
    convert(model, calibration=batches, cheap="pointwise", effort="fast")
    with pytest.raises(InputError, match="channels of first cannot be dropped"):
        convert(model, calibration=batches, plan={"first": LayerPlan(Prune(8, 8))}, effort="fast")


@pytest.mark.parametrize(
    ("way", "followers"),
    [
        (nn.ReLU(inplace=True), ()),
        (nn.Sequential(nn.BatchNorm2d(16), nn.Hardswish(inplace=True)), ("way.0",)),
        (nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Upsample(scale_factor=2)), ()),
        (nn.Upsample(scale_factor=2, mode="bilinear"), ()),
        (lambda x: x * x.sigmoid(), ()),
        (lambda x: F.avg_pool2d(F.pad(x, (1, 2, 0, 1)), 3), ()),
        (nn.PReLU(), ()),
        (nn.PReLU(16), ("way",)),
        (FrozenBatchNorm2d(16), ("way",)),
        (Scale(), ("way",)),
        (WithBuffer(), ("way",)),
        (nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ELU(inplace=True)), ("way.0",)),
        (nn.BatchNorm2d(16, affine=False), ("way",)),
        (BatchNormAct2d(16), ("way",)),
        (BatchNormAct2d(16, act_layer=partial(nn.PReLU, 16)), ("way", "way.act")),
        (ScaledBranch(), ("way.branch", "way")),
        (SpatialGate(), ()),
        (nn.InstanceNorm2d(16), ()),
        (lambda x: torch.cat([x[:, :4], x[:, 4:]], 1), ()),
        (lambda x: shuffled(shuffled(x)), ()),
        (lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), ()),
    ],
)
def test_channels_that_may_go(way: Callable[[Tensor], Tensor], followers: tuple[str, ...]) -> None:
    model = Way(way).eval()
    assert find_prunable(model, torch.randn(2, 3, 8, 8), ["first"], dropping=False)["first"] == PrunableChannels(
        "first", ("second",), followers
    )


@pytest.mark.parametrize("squeezed", [1, 4, 16])
def test_the_channels_of_a_gate_go_with_those_that_it_multiplies(squeezed: int) -> None:
    model = Way(Gate(squeezed)).eval()
    place = PrunableChannels("first", ("way.reduce", "second"), ("way.expand",))
    x = torch.randn(2, 3, 8, 8)
    assert find_prunable(model, x, ["first", "way.expand"]) == {
        "first": place,
        "way.expand": "its channels go with those of first, one for one",
    }
    drop_channels_of_(model, place, torch.tensor([3, 5]))
    assert [model.way.expand.in_channels, model.way.expand.out_channels, model.way.reduce.in_channels] == [  # type: ignore[union-attr]
        *(squeezed, 14, 14)
    ]
    assert model(x).shape == (2, 3)


def test_the_channels_of_a_group_go_together() -> None:
    way = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1, groups=8))
    model = Way(way).eval()
    place = found(model)
    assert place == PrunableChannels("first", ("second",), ("way.0", "way.1", "way.2"), unit=4)
    x, gone = torch.randn(2, 3, 8, 8), torch.arange(4, 8)
    with torch.no_grad():
        model.second.weight[:, gone] = 0
        expected = model(x)
    drop_channels_of_(model, place, gone)
    assert [(way[n].groups, way[n].in_channels, way[n].out_channels) for n in (0, 2)] == [(3, 12, 12), (6, 12, 12)]
    torch.testing.assert_close(model(x), expected)


def test_a_transposed_convolution_takes_channels() -> None:
    model = Way(nn.ConvTranspose2d(16, 16, 2, stride=2)).eval()
    place = PrunableChannels("first", ("way",), ())
    assert found(model) == place
    drop_channels_of_(model, place, torch.tensor([3, 5]))
    assert model.way.weight.shape == (14, 16, 2, 2)  # type: ignore[union-attr]
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 3)


def test_dropped_channels_are_those_that_are_not_taken() -> None:
    model = Way(nn.Sequential(nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, groups=16), nn.PReLU(16))).eval()
    place = found(model)
    assert isinstance(place, PrunableChannels)
    x, gone = torch.randn(2, 3, 8, 8), torch.tensor([3, 7])
    with torch.no_grad():
        model.second.weight[:, gone] = 0
        expected = model(x)
    drop_channels_of_(model, place, gone)
    assert model.first.out_channels == model.second.in_channels == 14
    torch.testing.assert_close(model(x), expected)


def test_frozen_weights_hide_nothing() -> None:
    model = Way(torch.relu).requires_grad_(False)
    assert found(model) == PrunableChannels("first", ("second",), ())
    assert not any(p.requires_grad for p in model.parameters())


def test_pooling_in_channels_last_hides_no_channels() -> None:
    model = Way(nn.AdaptiveAvgPool2d(1), size=1).eval().to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    assert isinstance(find_prunable(model, images, ["first"])["first"], PrunableChannels)


def test_channels_of_tied_weights_stay() -> None:
    model = Way(nn.Conv2d(16, 16, 3, padding=1))
    second = nn.Conv2d(16, 16, 3, padding=1)
    second.weight = model.way.weight  # type: ignore[union-attr]  # a convolution
    model.way = nn.Sequential(model.way, nn.ReLU(), second)  # type: ignore[arg-type]
    places = find_prunable(model, torch.randn(1, 3, 8, 8), ["first", "way.0", "way.2"])
    assert places["first"] == "its channels go into a convolution whose weight is not its own alone"
    assert places["way.0"] == places["way.2"] == "its weight is another layer's, too"


class Twice(nn.Module):
    """Its first two convolutions run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(n, 16, 3, padding=1) for n in (3, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        once, again = (self.second(self.first(y).relu()) for y in (x, x.flip(-1)))
        return self.third((once + again).relu()).mean((2, 3))


def test_maps_of_what_runs_twice_are_dropped_in_both_calls() -> None:
    model = Twice()
    assert found(model) == PrunableChannels("first", ("second",), ())
    batches = list(torch.randn(32, 3, 8, 8).split(16))
    conversion = convert(model, calibration=batches, plan={"first": LayerPlan(Prune(8, 8))}, effort="refined")
    changed = conversion.model
    assert changed.first.weight.shape[0] == changed.second.weight.shape[1] == 8
    with torch.no_grad():
        outputs, expected = changed(batches[0]), model(batches[0])
    assert (outputs - expected).square().mean() < 0.5 * expected.var(), "fitted to both calls"
    conversion = convert(model, calibration=batches, cheap="pointwise", effort="fast")
    assert [layer.replaced for layer in conversion.layers] == [True, True, True]


class Levels(nn.Module):
    """A head that runs on maps of two convolutions, as on the levels of a pyramid."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 16, 3, padding=1, stride=2)
        self.inside, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels = {"fine": self.fine(x), "coarse": self.coarse(x)}
        return {name: self.head(self.inside(maps).relu()) for name, maps in levels.items()}


class ScaledByOne(nn.Module):
    """Maps of two convolutions, scaled by the same frozen norm, or taken by the same filters."""

    def __init__(self, *, by_function: bool) -> None:
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(n, m, 3, padding=1) for n, m in ((3, 16), (16, 24), (16, 24)))
        self.norm, self.c, self.d = FrozenBatchNorm2d(24), nn.Conv2d(24, 24, 1), nn.Conv2d(24, 24, 1)
        self.out, self.by_function = nn.Conv2d(24, 8, 1), by_function

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        a, b = self.a(x), self.b(x)
        if self.by_function:
            return self.out(self.c(a.relu()) + F.conv2d(b.relu(), self.c.weight, self.c.bias))
        return self.out(self.c(self.norm(a).relu()) + self.d(self.norm(b).relu()))


@pytest.mark.parametrize("by_function", [False, True])
def test_maps_that_share_a_taker_stay(by_function: bool) -> None:
    model = ScaledByOne(by_function=by_function).eval()
    places = find_prunable(model, torch.randn(1, 3, 16, 16), ["a", "b"])
    several = "it, or a layer that takes its channels, gets more than one tensor, or others in another of its calls"
    assert places["a"] == places["b"] == several


class Frames(nn.Module):
    """Three views of an image, which are three of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, m, 3, padding=1) for n, m in ((3, 16), (16, 24), (24, 16)))
        self.out = nn.Conv2d(16, 24, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        views = torch.stack([x, x.flip(3), x.flip(2)], 1).flatten(0, 1)
        maps = self.c(self.b(self.a(views).relu()).relu())
        return self.out(maps.unflatten(0, (len(x), 3)).mean(1))


def test_parts_of_an_image_in_a_batch_cost_what_they_do() -> None:
    model, batches = Frames().eval(), [torch.randn(32, 3, 16, 16)]
    planned = plan(model, example=batches[0][:1], calibration=batches, target_macs=0.6)
    changed = convert(model, calibration=batches, plan=planned, effort="fast").model
    before, after = (count(network, (3, 16, 16)).macs for network in (model, changed))
    assert after / before == pytest.approx(planned.macs, abs=1e-6)
    assert 0.5 < planned.macs <= 0.6


class AsOftenAsBright(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(1 + int(x.mean() > 0)):
            x = self.again(x)
        return x


def test_a_layer_that_runs_as_often_as_the_images_say_is_refused() -> None:
    model = AsOftenAsBright()
    images = [torch.ones(2, 3, 4, 4), -torch.ones(2, 3, 4, 4)]
    with pytest.raises(InputError, match="a Conv2d runs 2 times for some images and 1 for others"):
        inputs_of(model, "again", images, 2)


LEVELS = ["fine", "coarse", "inside", "head"]


def test_maps_of_one_of_the_levels_stay_as_the_head_takes_others_too() -> None:
    places = find_prunable(Levels(), torch.randn(1, 3, 16, 16), LEVELS)
    several = "it, or a layer that takes its channels, gets more than one tensor, or others in another of its calls"
    assert places["fine"] == places["coarse"] == several
    assert places["inside"] == PrunableChannels("inside", ("head",), ())
    assert places["head"] == "its channels are the network's output"


@pytest.mark.parametrize("effort", ["fast", "refined"])
def test_a_head_is_fitted_to_the_maps_of_all_levels(effort: Effort) -> None:
    model, batches = Levels().eval(), list(torch.randn(64, 3, 16, 16).split(16))
    blocks = find_blocks(model, LEVELS, batches[0])
    assert [(block.name, block.times) for block in blocks] == list(zip(LEVELS, (1, 1, 2, 2), strict=True))
    assert blocks[0].is_before(blocks[3])
    assert not blocks[2].is_before(blocks[3]), "its second call comes later"
    plans = {"inside": LayerPlan(PointwiseGhosts(8, 8))}
    changed = convert(model, calibration=batches, plan=plans, effort=effort).model
    with torch.no_grad():
        outputs, expected = changed(batches[0]), model(batches[0])
    for level in expected:
        error = (outputs[level] - expected[level]).square().mean() / expected[level].var()
        assert error < 0.5, level
