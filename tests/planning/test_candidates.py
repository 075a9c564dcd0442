"""Candidates know what they can become, and what that costs."""

import pytest
import torch
from small import SHAPE, Net, candidates_of, outputs_of
from torch import nn

from ghostify import count, create_model
from ghostify.changes import (
    AnyPlan,
    BlockPlan,
    Convolution,
    DepthwiseGhosts,
    Keep,
    LayerPlan,
    MergeInputs,
    OneConvolution,
    PointwiseGhosts,
    Prune,
)
from ghostify.planning.candidates import find_candidates, inputs_left, offer_for
from ghostify.transform.untrained import untrained

EXAMPLE = torch.zeros(1, 3, 32, 32)


def test_candidates_know_producers_and_what_they_can_become() -> None:
    found = candidates_of(Net().eval())
    assert list(found) == ["stem", "conv1", "conv2"]
    assert [candidate.layer.producer for candidate in found.values()] == [None, None, "conv1"]
    assert all(candidate.options[0] == LayerPlan(Keep(16)) for candidate in found.values())
    assert LayerPlan(Prune(8, 8)) in found["conv1"].options
    assert LayerPlan(PointwiseGhosts(8, 8)) in found["conv2"].options
    assert LayerPlan(DepthwiseGhosts(8, 8)) in found["conv2"].options
    assert not any(option.dropped for option in found["conv2"].options)
    assert LayerPlan(Prune(8, 8), MergeInputs(4)) in found["conv1"].options
    assert LayerPlan(PointwiseGhosts(8, 8), MergeInputs(4)) in found["conv2"].options
    assert not any(option.input for option in found["stem"].options), "three inputs are too few"
    depthwise = [o for candidate in found.values() for o in candidate.options if isinstance(o.output, DepthwiseGhosts)]
    assert depthwise
    assert not any(option.input for option in depthwise)


def test_what_costs_as_much_with_merged_inputs_is_not_offered() -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 16, 1)).eval()
    counted = count(model, (16, 9, 9))
    found = find_candidates(model, torch.zeros(1, 16, 9, 9), counted, offer_for("macs")).values()
    strided, pointwise = found
    assert isinstance(strided.layer, Convolution)
    merged = LayerPlan(Keep(16), MergeInputs(4))
    assert merged.macs(strided.layer, 16) == 4 * 16 * 81 + 16 * 4 * 9 * 16
    ranks = {
        option.input.rank if isinstance(option.input, MergeInputs) else None
        for option in strided.options
        if isinstance(option, LayerPlan) and option.output == Keep(16)
    }
    assert ranks == {None, 2, 4, 6, 8, 10}
    assert not any(isinstance(option, LayerPlan) and option.input for option in pointwise.options)


@pytest.mark.parametrize("target", ["macs", "speedup"])
def test_what_is_offered_by_default_goes_by_the_target_and_can_be_asked_for(target: str) -> None:
    default = offer_for(target)  # type: ignore[arg-type]  # one of the two
    assert (MergeInputs in default.inputs) == (target == "macs")
    assert (OneConvolution in default.blocks) == (target == "speedup")
    asked = offer_for(target, inputs=True, blocks=True)  # type: ignore[arg-type]  # likewise
    assert (MergeInputs in asked.inputs, OneConvolution in asked.blocks) == (True, True)
    refused = offer_for(target, inputs=False, blocks=False)  # type: ignore[arg-type]  # likewise
    assert (refused.inputs, refused.blocks) == ((), ())


@pytest.mark.parametrize(
    "conv2", [LayerPlan(PointwiseGhosts(8, 8), MergeInputs(6)), LayerPlan(DepthwiseGhosts(8, 8)), LayerPlan(Keep(16))]
)
def test_a_plan_costs_what_its_options_are_counted_at(conv2: LayerPlan) -> None:
    model = Net().eval()
    found = candidates_of(model)
    plans: dict[str, AnyPlan] = {"stem": LayerPlan(Keep(16)), "conv1": LayerPlan(Prune(10, 6)), "conv2": conv2}
    shaped = untrained(model, plans, torch.zeros(1, *SHAPE))
    fixed = 16 * 5
    macs = sum(
        plan.macs(found[name].layer, inputs_left(found, plans, name))  # type: ignore[arg-type]  # its own layer
        for name, plan in plans.items()
    )
    assert count(shaped, SHAPE).macs == macs + fixed
    assert inputs_left(found, plans, "conv2") == 10
    assert outputs_of(shaped, [torch.zeros(2, *SHAPE)]).shape == (2, 5)


def test_a_block_of_which_something_is_skipped_stays() -> None:
    model = create_model("resnet20").eval()
    counted = count(model, (3, 32, 32))
    images = torch.randn(4, 3, 32, 32)
    found = find_candidates(model, EXAMPLE, counted, offer_for("speedup"), skip=["layer1.1.conv2"], images=images)
    assert "layer1.1" not in found
    assert found["layer1.1.conv1"].layer.block is None
    assert found["layer1.2.conv1"].layer.block == "layer1.2"
    assert found["layer1.2"].options[0] == BlockPlan()
    assert BlockPlan(OneConvolution(16, 3)) in found["layer1.2"].options
