"""Times of options are found again from the profiles that they made."""

import pytest
import torch

from ghostify import count, create_model
from ghostify.changes import AnyPlan, BlockPlan, Convolution, DepthwiseGhosts, LayerPlan, Prune
from ghostify.planning.candidates import Candidates, find_candidates, inputs_left, offer_for
from ghostify.planning.cost import Sample, TimeModel, costs_of, draw_plans

SHAPE = (3, 32, 32)
EXAMPLE = torch.zeros(1, *SHAPE)


def candidates_of(name: str, *, blocks: bool = True, inputs: bool = False, round_to: int = 1) -> Candidates:
    model = create_model(name).eval()
    offer = offer_for("speedup", blocks=blocks, inputs=inputs, round_to=round_to)
    return find_candidates(model, EXAMPLE, count(model, SHAPE), offer, images=torch.randn(4, *SHAPE))


def test_a_time_model_finds_the_costs_that_made_its_samples() -> None:
    candidates = candidates_of("resnet20")
    assert BlockPlan() in candidates["layer1.1"].options

    def true_ms(name: str, plans: dict[str, AnyPlan]) -> float:
        plan = plans[name]
        if isinstance(plan, BlockPlan) and plan.change is None:
            return 0.0
        macs = plan.macs(candidates[name].layer, inputs_left(candidates, plans, name))  # type: ignore[arg-type]  # its own
        return 0.01 + 1e-7 * macs

    samples = []
    for seed in range(12):
        plans = draw_plans(candidates, seed)
        samples.append(Sample(plans, {name: true_ms(name, plans) for name in plans} | {"": 0.5}))
    found = TimeModel(candidates, samples)
    assert found.rest == 0.5
    costs, plans = costs_of(candidates, found), draw_plans(candidates, 99)
    chosen = {name: candidates[name].options.index(plan) for name, plan in plans.items()}
    assert costs.of(chosen) == pytest.approx(sum(true_ms(name, plans) for name in plans), rel=0.02)


@pytest.mark.parametrize("vector", [8, 16])
def test_a_time_model_finds_how_many_channels_an_engine_computes_at_once(vector: int) -> None:
    candidates = candidates_of("resnet20", blocks=False, inputs=True, round_to=4)
    samples = []
    for seed in range(12):
        plans = draw_plans(candidates, seed)
        ms = {}
        for name, plan in plans.items():
            layer, inputs = candidates[name].layer, inputs_left(candidates, plans, name)
            assert isinstance(layer, Convolution)
            assert isinstance(plan, LayerPlan)
            kept, merged = plan.output.kept, plan.input.in_channels if plan.input else 0
            ghost = 9 if isinstance(plan.output, DepthwiseGhosts) else kept
            vectors = -(-kept // vector) * (merged or inputs) * layer.kernel_area
            vectors += -(-plan.output.ghosted // vector) * ghost
            merging = -(-merged // vector) * inputs
            ms[name] = 0.01 + 1e-7 * vector * (layer.pixels * vectors + layer.input_pixels * merging)
        samples.append(Sample(plans, ms | {"": 0.5}))
    assert any(isinstance(p, LayerPlan) and p.input for sample in samples for p in sample.plans.values())
    found = TimeModel(candidates, samples)
    assert found.vector == vector
    few, many = (found(candidates["layer3.1.conv1"], LayerPlan(Prune(kept, 64 - kept)), 64) for kept in (4, vector))
    assert few == pytest.approx(many, rel=0.01)


def test_blocks_change_in_turn_so_that_each_is_timed_in_each_way() -> None:
    candidates = candidates_of("resnet56")
    drawn = [draw_plans(candidates, seed) for seed in range(3, 15)]
    blocks = [name for name, candidate in candidates.items() if isinstance(candidate.options[0], BlockPlan)]
    assert len(blocks) > 20
    for name, candidate in candidates.items():
        if name in blocks:
            assert {plans[name] for plans in drawn} == set(candidate.options)
        elif candidate.layer.block is not None:
            assert all((name in plans) == (not plans[candidate.layer.block].changes) for plans in drawn)
