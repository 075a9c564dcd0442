"""An option's harm is what the network's output suffers from it; nothing stays changed."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ghostify import InputError, convert, count, create_model
from ghostify.planning.harm import OutputHarm, changes_of, harms_of, measured_changes
from ghostify.planning.sites import Site, find_sites, plan_of
from ghostify.transform.plan import LayerPlan
from ghostify.transform.untrained import untrained

SHAPE = (3, 8, 8)


class Net(nn.Module):
    """A stem, an inner convolution and one whose maps meet a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.conv1 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((x + self.conv2(self.norm1(self.conv1(x)).relu())).relu().mean((2, 3)))


def sites_of(model: nn.Module) -> dict[str, Site]:
    return find_sites(model, torch.zeros(1, *SHAPE), count(model, SHAPE))


def test_sites_know_producers_and_what_they_can_become() -> None:
    sites = sites_of(Net().eval())
    assert list(sites) == ["stem", "conv1", "conv2"]
    assert [site.producer for site in sites.values()] == [None, None, "conv1"]
    assert all(site.options[0] == LayerPlan(16) for site in sites.values())
    assert LayerPlan(8, dropped=8) in sites["conv1"].options
    assert LayerPlan(8, 8, cheap="pointwise") in sites["conv2"].options
    assert LayerPlan(8, 8, cheap="depthwise") in sites["conv2"].options
    assert not any(option.dropped for option in sites["conv2"].options)
    assert LayerPlan(8, dropped=8, merged=4) in sites["conv1"].options
    assert LayerPlan(8, 8, cheap="pointwise", merged=4) in sites["conv2"].options
    assert not any(option.merged for option in sites["stem"].options), "three inputs are too few"
    assert not any(option.merged and option.cheap == "depthwise" for site in sites.values() for option in site.options)


def test_what_costs_as_much_with_merged_inputs_is_not_offered() -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 16, 1)).eval()
    strided, pointwise = find_sites(model, torch.zeros(1, 16, 9, 9), count(model, (16, 9, 9))).values()
    assert strided.macs(LayerPlan(16, merged=4), 16) == 4 * 16 * 81 + 16 * 4 * 9 * 16
    assert {option.merged for option in strided.options if option.kept == 16} == {None, 2, 4, 6, 8, 10}
    assert {option.merged for option in pointwise.options} == {None}


def test_a_plan_costs_what_its_options_are_counted_at() -> None:
    model = Net().eval()
    sites = sites_of(model)
    chosen = {"stem": 0, "conv1": 3, "conv2": 0}
    plans = plan_of(sites, chosen) | {"conv2": LayerPlan(8, 8, cheap="pointwise", merged=6)}
    assert plans["conv1"].dropped
    shaped = untrained(model, plans, torch.zeros(1, *SHAPE))
    fixed = 16 * 5
    found = sum(
        site.macs(plans[name], plans["conv1"].kept if name == "conv2" else site.inputs) for name, site in sites.items()
    )
    assert count(shaped, SHAPE).macs == found + fixed


def test_harmless_options_harm_nothing_and_others_more_the_fewer_maps_they_keep() -> None:
    model = Net().eval()
    with torch.no_grad():  # the second half of the inner maps is the first half again
        model.conv1.weight[8:] = model.conv1.weight[:8]
        model.stem.weight[4:], model.stem.bias[4:] = (
            model.stem.weight[:4].repeat(3, 1, 1, 1),
            model.stem.bias[:4].repeat(3),
        )
    batches = list(torch.randn(64, *SHAPE).split(16))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    output = OutputHarm(model, sites_of(model), batches)
    assert output.measure("conv1", "dropped", 8) < 1e-5
    assert output.measure("conv1", "pointwise", 8) < 1e-5
    assert output.measure("conv1", "merged", 4) < 1e-5, "the stem's maps are four, each four times"
    assert 1e-5 < output.measure("conv1", "merged", 3) < output.measure("conv1", "merged", 1)
    assert 1e-4 < output.measure("conv1", "dropped", 4) < output.measure("conv1", "dropped", 2)
    assert 1e-5 < output.measure("conv2", "pointwise", 8) < output.measure("conv2", "depthwise", 8)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert model.conv1.bias is None


@pytest.mark.parametrize(
    "option", [LayerPlan(6, dropped=10), LayerPlan(8, 8, cheap="pointwise"), LayerPlan(16, merged=6)]
)
def test_harm_is_what_conversion_in_closed_form_does(option: LayerPlan) -> None:
    model = Net().eval()
    batches = list(torch.randn(256, *SHAPE).split(64))
    output = OutputHarm(model, sites_of(model), batches)
    (change,) = changes_of(option)
    estimated = output.measure("conv1", *change)
    ghost = convert(model, calibration=batches, plan={"conv1": option}, effort="fast", skip=[]).model
    with torch.no_grad():
        given, wanted = (torch.cat([net(batch) for batch in batches]) for net in (ghost, model))
    actual = float((given - wanted).square().mean() / wanted.var())
    assert estimated == pytest.approx(actual, rel=0.3)


def test_harms_in_between_lie_on_a_falling_curve_and_known_ones_are_not_measured_again() -> None:
    sites = sites_of(Net().eval())
    known = {("conv1", "dropped", kept): 1.0 / kept for _, kept in measured_changes(sites["conv1"])}
    asked = []

    def measure(name: str, kind: str, kept: int) -> float:
        asked.append((name, kind))
        return 1.0 / kept

    harms = harms_of(sites, measure, known)
    assert ("conv1", "dropped") not in asked
    found = dict(zip(sites["conv1"].options, harms["conv1"], strict=True))
    dropped = [harm for option, harm in found.items() if not option.ghosted and not option.merged]
    assert dropped == sorted(dropped)
    assert dropped[0] == 0
    both = LayerPlan(8, dropped=8, merged=4)
    assert (
        found[both] == found[LayerPlan(8, dropped=8)] + found[LayerPlan(16, merged=4)] > found[LayerPlan(8, dropped=8)]
    )


def test_a_network_with_several_outputs_is_refused() -> None:
    class Two(Net):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # returns two, on purpose
            return super().forward(x), x

    model = Two().eval()
    with pytest.raises(InputError, match="returns tuple: expected one tensor"):
        OutputHarm(model, {}, [torch.randn(4, *SHAPE)])


@pytest.mark.parametrize("kind", ["pointwise", "convolution"])
def test_harm_of_a_ghost_of_a_block_is_what_conversion_does(kind: Any) -> None:
    model = create_model("resnet20").eval()
    batches = list(torch.randn(64, 3, 32, 32).split(32))
    counted = count(model, (3, 32, 32))
    sites = find_sites(model, batches[0][:1], counted, images=batches[0][:4])
    output = OutputHarm(model, sites, batches)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    estimated = output.measure("layer2.1", kind, 0)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    ghost = convert(model, calibration=batches, plan={"layer2.1": LayerPlan(0, 32, cheap=kind)}, effort="fast").model
    with torch.no_grad():
        ghost.layer3, ghost.linear = model.layer3, model.linear  # what makes up for it, behind
        ghost.layer2[2] = model.layer2[2]
        given, wanted = (torch.cat([net(batch) for batch in batches]) for net in (ghost, model))
    actual = float((given - wanted).square().mean() / wanted.var())
    assert estimated == pytest.approx(actual, rel=0.3)


class InPlace(nn.Module):
    """A block whose maps are changed in place behind it, and one that comes later."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(maps, 16, 3, padding=1) for maps in (3, 16))
        self.activation = nn.LeakyReLU(0.1, inplace)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv2(self.activation(self.conv1(x))).relu().mean((2, 3)))


def test_what_runs_behind_a_block_in_place_does_not_change_what_it_gave() -> None:
    model, batches = InPlace(inplace=True).eval(), list(torch.randn(32, *SHAPE).split(16))
    assert OutputHarm(model, sites_of(model), batches).moved("conv2") == 0


def test_a_forward_that_a_user_gave_a_module_is_given_back() -> None:
    model, batches = InPlace(inplace=False).eval(), list(torch.randn(32, *SHAPE).split(16))
    own = model.conv1.forward
    model.conv1.forward = lambda x: 2 * own(x)  # type: ignore[method-assign]  # as a user may
    wanted = model(batches[0])
    OutputHarm(model, sites_of(model), batches).measure("conv2", "pointwise", 8)
    assert torch.equal(model(batches[0]), wanted)
