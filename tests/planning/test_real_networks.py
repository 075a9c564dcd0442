"""Plans for networks as people have them: heads with views, no BatchNorm, shuffles, groups."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import shufflenet_v2_x0_5

from ghostify import InputError, convert, create_model, load, plan, save
from ghostify.changes import LayerPlan, Prune
from ghostify.measure.count import count
from ghostify.planning.candidates import find_candidates, offer_for
from ghostify.planning.plan_file import read_plan, what_can_be_dropped, write_plan
from ghostify.structure.channels import PrunableChannels, find_prunable


def calibration() -> list[Tensor]:
    return list(torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0)).split(16))


class Head(nn.Module):
    """A stack of convolutions, and what a detector does to the maps of the last one."""

    def __init__(self, end: Callable[[Tensor], Tensor], inplace: bool = True) -> None:
        super().__init__()
        relu = nn.ReLU(inplace)
        self.stack = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), relu, nn.Conv2d(24, 24, 3, padding=1), relu)
        self.last = nn.Conv2d(24, 16, 1)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.last(self.stack(x)))


def boxes(t: Tensor) -> Tensor:
    n, _, h, w = t.shape
    y = t.view(n, 2, 8, h, w).permute(0, 1, 3, 4, 2).sigmoid()
    return torch.cat([y[..., :2] * 2 - 0.5, y[..., 2:]], -1).reshape(n, -1, 8)


def with_anchors(t: Tensor) -> Tensor:
    y = t.unflatten(1, (2, 8)).movedim(2, -1).sigmoid()
    grid = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="xy"), -1)
    xy, wh, rest = y.split((2, 2, 4), -1)
    return torch.cat([xy + grid, (wh * 2) ** 2 * torch.tensor([[[[3.0, 4.0]]]]), rest], -1).flatten(1, 3)


def distances(t: Tensor) -> Tensor:
    weights = t.flatten(2).unflatten(1, (4, 4)).softmax(2)
    return torch.einsum("nkbp,b->nkp", weights, torch.arange(4.0)).transpose(1, 2)


def attention(t: Tensor) -> Tensor:
    q = t.flatten(2).transpose(1, 2)
    return F.scaled_dot_product_attention(q, q, q)


@pytest.mark.parametrize("end", [boxes, with_anchors, distances, attention])
def test_a_head_of_views_ends_the_way_of_its_own_channels_only(end: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = Head(end).eval()
    found = find_prunable(model, torch.randn(1, 3, 8, 8), ["stack.0", "stack.2", "last"])
    assert [isinstance(place, PrunableChannels) for place in found.values()] == [True, True, False]
    batches = calibration()
    made = plan(model, example=batches[0][:1], calibration=batches, target_macs=0.65, merging=False)
    assert {"stack.0", "stack.2"}.isdisjoint(made.unprunable)
    assert made.unprunable["last"]
    ghost = convert(model, plan=made, calibration=batches, effort="fast").model
    assert ghost(batches[0]).shape == model(batches[0]).shape


def upscaling(inplace: bool) -> nn.Module:
    """As ESPCN: no BatchNorm, and a pixel shuffle at the end."""
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(inplace), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(inplace)]
    return nn.Sequential(*layers, nn.Conv2d(32, 12, 3, padding=1), nn.PixelShuffle(2))


class Residuals(nn.Module):
    """As EDSR: residual blocks without BatchNorm."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.LeakyReLU(0.2, inplace), nn.Conv2d(16, 16, 3, padding=1))
            for _ in range(2)
        )
        self.last = nn.Sequential(nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + 0.1 * block(x)
        return self.last(x)


@pytest.mark.parametrize(
    "build",
    [
        upscaling,
        Residuals,
        lambda inplace: Head(nn.Hardtanh(inplace=inplace), inplace),
        lambda inplace: nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.SiLU(inplace), nn.Conv2d(32, 16, 3), nn.ELU(inplace=inplace), nn.Conv2d(16, 8, 3)
        ),
    ],
)
def test_activations_in_place_hide_no_channels(build: Callable[[bool], nn.Module]) -> None:
    plans = []
    for inplace in (True, False):
        torch.manual_seed(0)
        batches = calibration()
        plans.append(plan(build(inplace), example=batches[0][:1], calibration=batches, target_macs=0.5, merging=False))
    assert dict(plans[0]) == dict(plans[1])
    assert any(layer.dropped for layer in plans[0].values())
    torch.manual_seed(0)
    model = build(True)
    ghost = convert(model, plan=plans[0], calibration=calibration(), effort="fast").model
    assert ghost(calibration()[0]).shape == model(calibration()[0]).shape


def test_inner_channels_between_shuffles_are_dropped() -> None:
    torch.manual_seed(0)
    model = shufflenet_v2_x0_5(num_classes=10).eval()
    images = list(torch.randn(32, 3, 64, 64).split(16))
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    found = find_prunable(model, images[0][:1], names)
    inner = [name for name in names if name.endswith("branch2.0")]
    assert len(inner) == 16
    assert all(isinstance(found[name], PrunableChannels) for name in inner)
    counted = count(model, (3, 64, 64))
    offered = find_candidates(model, images[0][:1], counted, offer_for("macs"))
    assert all(Prune(12, 12) in [option.output for option in offered[name].options] for name in inner[:4])
    plans = {name: LayerPlan(Prune(12, 12)) for name in inner[:4]}
    ghost = convert(model, plan=plans, calibration=images, effort="fast").model
    assert [ghost.get_submodule(name).out_channels for name in inner[:4]] == [12] * 4
    assert ghost(images[0]).shape == (16, 10)


class Grouped(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 3, groups=4), nn.Conv2d(32, 16, 1), nn.Conv2d(16, 32, 3, groups=4)
        )


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x)


class Summed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.one(x) + self.two(x))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Grouped(), "a grouped convolution takes its channels"),
        (Summed(), "its channels meet others in add"),
    ],
)
def test_why_nothing_can_be_dropped_is_said(model: nn.Module, reason: str) -> None:
    batches = calibration()
    with pytest.raises(InputError, match=f"of the multiply-adds are left; channels of 0 of . conv.*{reason}"):
        plan(model, example=batches[0][:1], calibration=batches, target_macs=0.01, merging=False)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Unused(), r"second: not run, or not with one tensor"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "0: very narrow: 4 channels"),
        (
            nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(3, 9, 1)),
            "0: depthwise; 1: a ghost would not be cheaper",
        ),
    ],
)
def test_why_nothing_can_change_is_said(model: nn.Module, reason: str) -> None:
    batches = calibration()
    with pytest.raises(InputError, match=reason):
        plan(model, example=batches[0][:1], calibration=batches, target_macs=0.01, merging=False)


def test_the_reasons_are_in_the_plan_and_its_file(tmp_path) -> None:
    made = plan(Summed(), example=calibration()[0][:1], calibration=calibration(), target_macs=0.7, merging=False)
    assert made.unprunable["two"] == "its channels meet others in add"
    write_plan(made, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json").unprunable == made.unprunable
    assert "0 of 3" in what_can_be_dropped(made.unprunable, 3)


@pytest.mark.parametrize("name", ["torchvision:regnet_y_400mf", "torchvision:resnext50_32x4d"])
def test_grouped_convolutions_lose_whole_groups(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model(name).eval()
    x = torch.randn(32, 3, 64, 64)
    convs = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1}
    places = find_prunable(model, x[:1], convs)
    units = {n: place.unit for n, place in places.items() if isinstance(place, PrunableChannels) and place.unit > 1}
    assert len(units) == 16, "one in each block"
    halves = {n: convs[n].out_channels // unit // 2 * unit for n, unit in units.items()}
    planned = {n: LayerPlan(Prune(convs[n].out_channels - half, half)) for n, half in halves.items() if half}
    smaller = convert(model, calibration=[x], plan=planned, effort="fast").model
    assert count(smaller, (3, 64, 64)).macs < 0.75 * count(model, (3, 64, 64)).macs
    after = dict(smaller.named_modules())
    for n, before in model.named_modules():
        if isinstance(before, nn.Conv2d) and before.groups > 1:
            assert after[n].groups < before.groups
            assert after[n].in_channels // after[n].groups == before.in_channels // before.groups
    save(smaller, tmp_path / "narrow.safetensors")
    torch.testing.assert_close(load(tmp_path / "narrow.safetensors")(x), smaller(x))


def test_a_plan_for_a_part_of_a_group_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=4), nn.Conv2d(16, 8, 1)).eval()
    with pytest.raises(InputError, match=r"6 channels of 0 cannot be dropped: a grouped convolution takes them by 4"):
        convert(model, calibration=calibration(), plan={"0": LayerPlan(Prune(10, 6))}, effort="fast")
