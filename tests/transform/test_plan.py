"""Mixed plans spend what they may, and no more."""

from dataclasses import replace

import pytest
from torch import nn

from ghostify.structure.channels import PrunableChannels
from ghostify.transform.plan import LayerPlan, mixed_plan

# Two blocks of a residual network: the first convolution's maps go to the second alone.
CONVS = {
    "a.conv1": nn.Conv2d(64, 48, 3),
    "a.conv2": nn.Conv2d(48, 64, 3),
    "b.conv1": nn.Conv2d(64, 80, 3),
    "b.conv2": nn.Conv2d(80, 64, 3),
    "few": nn.Conv2d(64, 24, 1),
    "last": nn.Conv2d(24, 64, 1),
}
INNER = {
    "a.conv1": PrunableChannels("a.conv1", ("a.conv2",), ()),
    "b.conv1": PrunableChannels("b.conv1", ("b.conv2",), ()),
    "few": PrunableChannels("few", ("last",), ()),
}
MACS = {name: conv.weight.numel() for name, conv in CONVS.items()}


def cost(plans: dict[str, LayerPlan]) -> int:
    """Multiply-adds of a pixel, counted layer by layer."""
    inputs = {"a.conv2": "a.conv1", "b.conv2": "b.conv1", "last": "few"}
    total = 0
    for name, conv in CONVS.items():
        channels = plans[inputs[name]].kept if name in inputs else conv.in_channels
        taps = conv.weight[0, 0].numel()
        total += plans[name].kept * channels * taps + plans[name].ghosted * plans[name].kept
    return total


@pytest.mark.parametrize("round_to", [1, 16])
@pytest.mark.parametrize("ratio", [1.25, 2, 3])
def test_a_mixed_plan_costs_what_it_may_and_has_nothing_left_for_another_map(ratio: float, round_to: int) -> None:
    plans = mixed_plan(CONVS, MACS, INNER, ratio, round_to)
    allowed = sum(MACS.values()) / ratio
    assert cost(plans) <= allowed
    for name in INNER:
        step = 1 if name == "few" else round_to  # 24 maps are less than two sixteens
        assert plans[name].kept % step == 0
        assert plans[name].ghosted == 0
        assert plans[name].maps == CONVS[name].out_channels
        if plans[name].dropped >= step:
            more = replace(plans[name], kept=plans[name].kept + step, dropped=plans[name].dropped - step)
            assert cost(plans | {name: more}) > allowed
