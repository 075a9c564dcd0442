"""From a target to a plan, a file of it, and a network made by it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ghostify import InputError, convert, count, create_model, plan
from ghostify.errors import OutOfReachError
from ghostify.planning.cost import Sample, TimeModel, costs_of, draw_options
from ghostify.planning.measurements import Measurements
from ghostify.planning.plan_file import Plan, Point, read_plan, write_plan
from ghostify.planning.sites import find_sites, inputs_left, plan_of
from ghostify.transform.plan import LayerPlan

SHAPE = (3, 32, 32)
EXAMPLE = torch.zeros(1, *SHAPE)
CONVS = ("conv1", "conv2")


@pytest.fixture
def batches() -> list[torch.Tensor]:
    return [torch.randn(32, *SHAPE)]


def test_a_share_of_the_multiply_adds_is_kept_to_and_convert_follows(
    batches: list[torch.Tensor], tmp_path: Path
) -> None:
    model = create_model("resnet20").eval()
    file = tmp_path / "measurements.jsonl"
    found = plan(model, example=EXAMPLE, calibration=batches, target_macs=0.6, skip=["conv1"], measurements=file)
    assert 0.55 < found.macs <= 0.6
    ghost = convert(model, calibration=batches, plan=found, effort="fast").model
    assert count(ghost, SHAPE).macs / count(model, SHAPE).macs == pytest.approx(found.macs, abs=1e-9)
    assert "conv1" not in found
    assert any(layer.merged for layer in found.values())
    whole = plan(model, example=EXAMPLE, calibration=batches, target_macs=0.6, skip=["conv1"], merging=False)
    assert not any(layer.merged for layer in whole.values())
    assert whole.harm > found.harm, "it chooses among fewer options"
    assert [point.macs for point in found.curve] == sorted(point.macs for point in found.curve)
    lines = file.read_text()
    again = plan(model, example=EXAMPLE, calibration=batches, target_macs=0.6, skip=["conv1"], measurements=file)
    assert dict(again) == dict(found)
    assert file.read_text() == lines, "nothing is measured twice"


def test_ghosts_of_whole_blocks_are_counted_right(batches: list[torch.Tensor]) -> None:
    model = create_model("resnet20").eval()
    options = {"example": EXAMPLE, "calibration": batches, "skip": ["conv1"], "target_macs": 0.12}
    assert not any(layer.of_block for layer in plan(model, **options).values())
    found = plan(model, **options, whole_blocks=True)
    blocks = [name for name, layer in found.items() if layer.of_block]
    assert blocks
    assert all(found[f"{name}.{conv}"] == LayerPlan(0, dropped=found[name].maps) for name in blocks for conv in CONVS)
    ghost = convert(model, calibration=batches, plan=found, effort="fast").model
    assert count(ghost, SHAPE).macs / count(model, SHAPE).macs == pytest.approx(found.macs, abs=1e-9)


def test_a_block_of_which_something_is_skipped_stays() -> None:
    model = create_model("resnet20").eval()
    sites = find_sites(model, EXAMPLE, count(model, SHAPE), skip=["layer1.1.conv2"], images=torch.randn(4, *SHAPE))
    assert "layer1.1" not in sites
    assert sites["layer1.1.conv1"].within is None
    assert sites["layer1.2.conv1"].within == "layer1.2"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of target_macs and target_speedup"),
        ({"target_macs": 0.5, "target_speedup": 2.0}, "exactly one"),
        ({"target_macs": 1.5}, "expected a share of the multiply-adds between 0 and 1"),
        ({"target_speedup": 0.5}, "expected more than 1"),
        ({"target_speedup": 2.0, "engine": "eager"}, "expected one of onnxruntime, openvino"),
        ({"target_macs": 0.001}, r"at least 0\.\d+ of the multiply-adds are left"),
    ],
)
def test_bad_targets_are_refused_with_what_would_be_right(
    options: dict[str, Any], message: str, batches: list[torch.Tensor]
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Flatten())
    with pytest.raises(InputError, match=message):
        plan(network, example=EXAMPLE, calibration=batches, **options)


def test_a_time_model_finds_the_costs_that_made_its_samples() -> None:
    model = create_model("resnet20").eval()
    sites = find_sites(model, EXAMPLE, count(model, SHAPE), images=torch.randn(4, *SHAPE))
    assert sites["layer1.1"].total is not None

    def true_ms(name: str, layer: LayerPlan, inputs: int) -> float:
        left, gone = sites[name].total and layer.kept, layer.kept == 0 and layer.dropped
        return 0.0 if left or gone else 0.01 + 1e-7 * sites[name].macs(layer, inputs)

    samples = []
    for seed in range(12):
        chosen = draw_options(sites, seed)
        plans = plan_of(sites, chosen)
        ms = {name: true_ms(name, plans[name], inputs_left(sites, plans, name)) for name in sites}
        samples.append(Sample(chosen, ms | {"": 0.5}))
    found = TimeModel(sites, samples)
    assert found.rest == 0.5
    costs, chosen = costs_of(sites, found), draw_options(sites, 99)
    plans = plan_of(sites, chosen)
    right = sum(true_ms(name, plans[name], inputs_left(sites, plans, name)) for name in sites)
    assert costs.of(chosen) == pytest.approx(right, rel=0.02)


@pytest.mark.parametrize("vector", [8, 16])
def test_a_time_model_finds_how_many_maps_an_engine_makes_at_once(vector: int) -> None:
    model = create_model("resnet20").eval()
    sites = find_sites(model, EXAMPLE, count(model, SHAPE), round_to=4)
    samples = []
    for seed in range(12):
        chosen = draw_options(sites, seed)
        plans = plan_of(sites, chosen)
        ms = {}
        for name, site in sites.items():
            layer, inputs = plans[name], inputs_left(sites, plans, name)
            ghost = 9 if layer.cheap == "depthwise" else layer.kept
            vectors = -(-layer.kept // vector) * (layer.merged or inputs) * site.taps
            vectors += -(-layer.ghosted // vector) * ghost
            merging = -(-(layer.merged or 0) // vector) * inputs
            ms[name] = 0.01 + 1e-7 * vector * (site.pixels * vectors + site.input_pixels * merging)
        samples.append(Sample(chosen, ms | {"": 0.5}))
    found = TimeModel(sites, samples)
    assert found.vector == vector
    few, many = (found(sites["layer3.1.conv1"], LayerPlan(kept, dropped=64 - kept), 64) for kept in (4, vector))
    assert few == pytest.approx(many, rel=0.01)


def test_blocks_become_ghosts_in_turn_so_that_each_is_timed_in_each_way() -> None:
    model = create_model("resnet56").eval()
    sites = find_sites(model, EXAMPLE, count(model, SHAPE), images=torch.randn(4, *SHAPE))
    drawn = [draw_options(sites, seed) for seed in range(3, 11)]
    for name, site in sites.items():
        if site.total is not None:
            assert {chosen[name] for chosen in drawn} == {0, 1, 2}
        elif site.within is not None:
            gone = len(site.options) - 1
            assert all((chosen[name] == gone) == (chosen[site.within] > 0) for chosen in drawn)


@pytest.mark.parametrize("merging", [None, True])
def test_a_speed_is_measured_in_the_engine(merging: bool | None) -> None:
    pytest.importorskip("openvino")
    layers = [nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)).eval()
    batches = [torch.randn(32, *SHAPE)]
    found = plan(model, example=torch.zeros(4, *SHAPE), calibration=batches, target_speedup=1.1, merging=merging)
    assert found.speedup is not None
    assert found.speedup[1] >= 1.1
    assert found.limit > 1.1
    assert found.made_on["engine"] == "openvino"
    wanted = r"target_speedup is 100: at most \d+\.\d+ can be reached in openvino"
    with pytest.raises(OutOfReachError, match=wanted) as refused:
        plan(model, example=torch.zeros(4, *SHAPE), calibration=batches, target_speedup=100)
    assert 1 < refused.value.limit < 100


A_PLAN = Plan(
    {
        "a": LayerPlan(8, 8, cheap="pointwise"),
        "b": LayerPlan(4, dropped=12),
        "c": LayerPlan(0, 16, cheap="convolution"),
        "c.conv1": LayerPlan(0, dropped=16),
    },
    ("speedup", 1.5),
    0.6,
    0.01,
    2.5,
    (1.55, 1.5, 1.6),
    (Point(0.6, 1.5, 0.01), Point(1.0, None, 0.0)),
    {"engine": "openvino", "threads": 2},
)


def test_a_plan_comes_back_from_its_file(tmp_path: Path) -> None:
    write_plan(A_PLAN, tmp_path / "plan.json")
    found = read_plan(tmp_path / "plan.json")
    assert vars(found) == vars(A_PLAN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "expected an object with 'format'"),
        ({"layers": {}}, "expected 'layers'"),
        ({"layers": {"a": {"kept": "8"}}}, "layer 'a': expected whole numbers"),
        ({"layers": {"a": {"kept": 0}}}, "layer 'a': .*expected at least 1 kept map"),
        ({"layers": {"a": {"kept": -1}}}, "layer 'a': .*expected no negative number"),
        ({"layers": {"a": {"kept": 0, "ghosted": 8, "cheap": "depthwise"}}}, "expected one of pointwise, convolution"),
        ({"layers": {"a": {"kept": 8, "cheap": "magic"}}}, "layer 'a': cheap is 'magic'"),
        ({"layers": {"a": {"kept": 8, "merged": "4"}}}, "layer 'a': expected merged to be a whole number, or null"),
        ({"layers": {"a": {"kept": 8, "merged": 0}}}, "layer 'a': .*expected at least 1 merged map"),
        (
            {"layers": {"a": {"kept": 8, "ghosted": 8, "cheap": "depthwise", "merged": 4}}},
            "layer 'a': .*without depthwise ghosts",
        ),
        ({"layers": {"a": {"kept": 8, "left": 1}}}, "layer 'a': expected kept, ghosted, dropped, cheap and"),
        ({"curve": 3}, "expected target, macs"),
    ],
)
def test_an_edited_plan_that_is_none_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan(A_PLAN, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        read_plan(path)


def test_measurements_survive_a_cut_and_refuse_another_network(tmp_path: Path) -> None:
    path = tmp_path / "measurements.jsonl"
    kept = Measurements(path, {"network": "a"})
    kept.add("harm", value=1)
    kept.add("harm", value=2)
    path.write_text(path.read_text()[:-5])
    assert Measurements(path, {"network": "a"}).of("harm") == [{"kind": "harm", "value": 1}]
    path.write_text(path.read_text() + '{"kind": "plan", "chosen": {"a": 1}')  # cut behind an inner object
    assert Measurements(path, {"network": "a"}).of("harm") == [{"kind": "harm", "value": 1}]
    with pytest.raises(InputError, match="holds measurements of something else"):
        Measurements(path, {"network": "b"})
