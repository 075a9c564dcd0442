"""From a target to a plan, and a network made by it."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small import Blocks
from steady import SteadyTiming
from torch import nn

from ghostify import InputError, convert, count, plan
from ghostify.changes import BlockPlan
from ghostify.changes.change import Change, OutputChange
from ghostify.changes.layer_plan import inside_changed_block
from ghostify.changes.registry import change_from
from ghostify.errors import OutOfReachError
from ghostify.planning.candidates import Candidates, find_candidates, inputs_left, offer_for
from ghostify.planning.plan_file import Plan
from ghostify.planning.sensitivity import error_between
from ghostify.planning.timing import EngineTiming
from ghostify.transform.untrained import untrained

SHAPE = (3, 16, 16)
EXAMPLE = torch.zeros(1, *SHAPE)


@pytest.fixture
def batches() -> list[torch.Tensor]:
    return [torch.randn(32, *SHAPE)]


def candidates_of_plan(model: nn.Module) -> Candidates:
    """The candidates of a plan for a speed."""
    offer = offer_for("speedup", inputs=True, round_to=4)
    return find_candidates(model, EXAMPLE, count(model, SHAPE), offer, images=torch.randn(4, *SHAPE))


def test_a_share_of_the_multiply_adds_is_kept_to_and_convert_follows(
    batches: list[torch.Tensor], tmp_path: Path
) -> None:
    model = Blocks().eval()
    file = tmp_path / "measurements.jsonl"
    options: dict[str, Any] = {"example": EXAMPLE, "calibration": batches, "target_macs": 0.3, "skip": ["stem"]}
    found = plan(model, **options, measurements=file)
    assert 0.27 < found.macs <= 0.3
    faster = convert(model, calibration=batches, plan=found, effort="fast").model
    assert count(faster, SHAPE).macs / count(model, SHAPE).macs == pytest.approx(found.macs, abs=1e-9)
    assert "stem" not in found
    assert "merge inputs" in {change.kind for layer in found.values() for change in layer.changes}
    whole = plan(model, **options, merging=False, measurements=file)
    assert "merge inputs" not in {change.kind for layer in whole.values() for change in layer.changes}
    assert whole.output_error > found.output_error, "it chooses among fewer options"
    assert [point.macs for point in found.curve] == sorted(point.macs for point in found.curve)
    lines = file.read_text()
    again = plan(model, **options, measurements=file)
    assert dict(again) == dict(found)
    assert file.read_text() == lines, "nothing is measured twice"


def test_of_two_outputs_those_with_weight_decide(batches: list[torch.Tensor]) -> None:
    class Two(Blocks):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            y = super().forward(x)
            return {"classes": y, "first": y[:, :1].exp()}

    model, one = Two().eval(), Blocks().eval()
    one.load_state_dict(model.state_dict())
    options: dict[str, Any] = {"example": EXAMPLE, "calibration": batches, "target_macs": 0.5, "skip": ["stem"]}
    found = plan(model, **options, output_weights=(1, 0))
    alone = plan(one, **options)
    assert dict(found) == dict(alone)
    assert found.output_error == pytest.approx(alone.output_error, rel=1e-4)
    assert plan(model, **options).output_error != pytest.approx(alone.output_error, rel=1e-4), "all count by default"
    for weights, message in [((1, 2, 3), "3 weights: expected one for each of 2"), ((0, 0), "and one above")]:
        with pytest.raises(InputError, match=message):
            plan(model, **options, output_weights=weights)


def test_plans_with_whole_blocks_are_counted_right(batches: list[torch.Tensor]) -> None:
    model = Blocks().eval()
    options: dict[str, Any] = {"example": EXAMPLE, "calibration": batches, "skip": ["stem"], "target_macs": 0.12}
    assert not any(isinstance(layer, BlockPlan) for layer in plan(model, **options).values())
    found = plan(model, **options, whole_blocks=True)
    blocks = [name for name, layer in found.items() if isinstance(layer, BlockPlan) and layer.changes]
    assert blocks
    assert not any(inside_changed_block(name, found) for name in found)
    faster = convert(model, calibration=batches, plan=found, effort="fast").model
    assert count(faster, SHAPE).macs / count(model, SHAPE).macs == pytest.approx(found.macs, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of target_macs and target_speedup"),
        ({"target_macs": 0.5, "target_speedup": 2.0}, "exactly one"),
        ({"target_macs": 1.5}, "expected a share of the multiply-adds between 0 and 1"),
        ({"target_speedup": 0.5}, "expected more than 1"),
        ({"target_speedup": 2.0, "engine": "tensorrt"}, "expected one of eager, compile, onnxruntime, openvino"),
        ({"target_speedup": 2.0, "engine": "compile", "int8": True}, "compile has no int8"),
        ({"target_macs": 0.001}, r"at least 0\.\d+ of the multiply-adds are left"),
    ],
)
def test_bad_targets_are_refused_with_what_would_be_right(
    options: dict[str, Any], message: str, batches: list[torch.Tensor]
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Flatten())
    with pytest.raises(InputError, match=message):
        plan(network, example=EXAMPLE, calibration=batches, **options)


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("merging", [None, True])
def test_a_speed_is_reached_where_the_whole_is_measured(
    merging: bool | None, batches: list[torch.Tensor], tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    model = Blocks().eval()
    found = plan(model, example=EXAMPLE, calibration=batches, target_speedup=1.3, merging=merging)
    assert found.speedup is not None
    assert 1.3 <= found.speedup[1] < 1.4
    assert found.limit > 1.4
    assert found.made_on["engine"] == "openvino"
    engine = EngineTiming("openvino")
    timing = SteadyTiming(model, candidates_of_plan(model), EXAMPLE, engine, None, None)  # type: ignore[arg-type]  # not used
    speed = 1 / timing.of(found).ratio
    assert speed == pytest.approx(found.speedup[0])
    message = r"target_speedup is 100: at most \d+\.\d+ can be reached in openvino"
    with pytest.raises(OutOfReachError, match=message) as refused:
        plan(model, example=EXAMPLE, calibration=batches, target_speedup=100, measurements=tmp_path / "found.jsonl")
    assert 1 < refused.value.limit < 100
    assert "held-out error" not in (tmp_path / "found.jsonl").read_text(), "found before the errors are measured"
    with torch.no_grad():
        assert untrained(model, found, EXAMPLE)(EXAMPLE).shape == (1, 10)


@pytest.mark.usefixtures("steady")
def test_a_plan_for_int8_reaches_a_speed_over_the_original_in_float32(batches: list[torch.Tensor]) -> None:
    pytest.importorskip("openvino")
    model = Blocks().eval()
    found = plan(model, example=EXAMPLE, calibration=batches, target_speedup=3.9, int8=True)
    assert found.speedup is not None
    assert found.speedup_same_precision is not None
    assert 3.9 <= found.speedup[1] < 4.2
    assert found.speedup_same_precision[0] == pytest.approx(found.speedup[0] / 3)
    assert found.made_on["precision"] == "int8"
    quick = plan(model, example=EXAMPLE, calibration=batches, target_speedup=2, int8=True)
    assert not any(layer.changes for layer in quick.values()), "int8 alone is fast enough"
    assert plan(model, example=EXAMPLE, calibration=batches, target_speedup=1.3).speedup_same_precision is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_speedup": 2, "int8": True, "bf16": True}, "at most one of int8 and bf16"),
        ({"target_macs": 0.5, "bf16": True}, "leave bf16 out, or give target_speedup"),
    ],
)
def test_precisions_that_do_not_go_together_are_refused(
    options: dict[str, Any], message: str, batches: list[torch.Tensor]
) -> None:
    with pytest.raises(InputError, match=message):
        plan(Blocks().eval(), example=EXAMPLE, calibration=batches, **options)


class TwoEnds(nn.Module):
    """Three convolutions and two outputs, of which the second is a hundred times the first."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(inputs, 8, 3, padding=1) for inputs in (3, 8, 8))
        self.classes, self.boxes = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        middle = self.two(self.one(x).relu()).relu()
        return {"classes": self.classes(middle), "boxes": 100 * self.boxes(self.three(middle).relu())}


def test_of_two_outputs_the_choice_is_the_best_of_all(batches: list[torch.Tensor], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TwoEnds().eval()
    candidates = find_candidates(model, EXAMPLE, count(model, SHAPE), offer_for("macs", inputs=False))
    assert list(candidates) == ["one", "two", "three"]

    def measured(weights: tuple[float, float], target: float) -> tuple[Plan, dict[tuple[str, Change], float]]:
        file = tmp_path / f"{weights}.jsonl"
        options: dict[str, Any] = {"example": EXAMPLE, "calibration": batches, "merging": False}
        found = plan(model, **options, target_macs=target, output_weights=weights, measurements=file)
        rows = [row for row in map(json.loads, file.read_text().splitlines()) if row.get("kind") == "held-out error"]
        return found, {(row["layer"], change_from(row["change"], OutputChange)): row["error"] for row in rows}

    apart = [measured(weights, 0.7)[1] for weights in ((1, 0), (0, 1))]
    for target in (0.75, 0.6, 0.5):
        found, errors = measured((2, 1), target)
        for key, error in errors.items():
            assert error == pytest.approx((2 * apart[0][key] + apart[1][key]) / 3, rel=1e-4, abs=1e-9)
        best = math.inf
        left = count(model, SHAPE).macs - sum(
            candidate.options[0].macs(candidate.layer, candidate.layer.in_channels) for candidate in candidates.values()
        )
        for options in itertools.product(*(candidate.options for candidate in candidates.values())):
            plans = dict(zip(candidates, options, strict=True))
            macs = left + sum(
                option.macs(candidates[name].layer, inputs_left(candidates, plans, name))
                for name, option in plans.items()
            )
            if macs <= target * count(model, SHAPE).macs:
                total = sum(error_between(name, candidates[name], plans[name], errors) for name in plans)
                best = min(best, total)
        assert found.output_error == pytest.approx(best, rel=1e-6)
