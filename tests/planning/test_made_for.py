"""A plan knows the network for which it was made, and is refused by any other."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small import Blocks
from torch import Tensor, nn

from ghostify import InputError, convert, create_model, plan
from ghostify.changes import LayerPlan, Prune
from ghostify.plain_part import plain_part
from ghostify.planning.made_for import refuse_other_network, weight_shapes
from ghostify.planning.plan_file import Plan, read_plan, write_plan
from ghostify.transform.detector import Pyramid

SHAPE = (3, 16, 16)


@pytest.fixture
def batches() -> list[Tensor]:
    return [torch.randn(32, *SHAPE)]


def made(model: nn.Module) -> Plan:
    """A plan that prunes one layer, and knows the network."""
    return Plan({"layer1.0.conv1": LayerPlan(Prune(8, 8))}, ("macs", 0.9), 0.9, 0.0, 0.1, network=weight_shapes(model))


def test_a_plan_records_the_network_it_was_made_for_and_is_followed_there(
    batches: list[Tensor], tmp_path: Path
) -> None:
    model = Blocks().eval()
    found = plan(model, example=batches[0][:1], calibration=batches, target_macs=0.7)
    assert found.network == {
        name: tuple(conv.weight.shape) for name, conv in model.named_modules() if isinstance(conv, nn.Conv2d)
    }
    write_plan(found, tmp_path / "plan.json")
    read = read_plan(tmp_path / "plan.json")
    assert read.network == found.network
    retrained = copy.deepcopy(model)
    retrained.head = nn.Linear(retrained.head.in_features, 7)  # other classes: the convolutions are the same
    assert convert(retrained, calibration=batches, plan=read, effort="fast").replaced > 0


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("resnet56", "36 of 55 convolutions do not match: layer1.3.conv1 is not in the plan's network; layer1.3.conv2"),
        ("vgg16_cifar", "32 of 32 convolutions do not match: features.0 is not in the plan's network"),
        ("ghost_resnet20", "conv1 is only in the plan's network"),
    ],
)
def test_a_plan_for_another_network_is_refused(batches: list[Tensor], other: str, message: str) -> None:
    found = made(create_model("resnet20"))
    with pytest.raises(InputError, match="the plan is for another network") as refused:
        convert(create_model(other).eval(), calibration=batches, plan=found)
    refuse_other_network(found, create_model("resnet20"))
    if other == "ghost_resnet20":  # of which names are of other layers
        assert "do not match" in str(refused.value)
    else:
        assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_smaller_networks_plan_and_a_larger_ones_are_refused(batches: list[Tensor]) -> None:
    with pytest.raises(InputError, match=r"layer1\.3\.conv1 is only in the plan's network"):
        convert(create_model("resnet20").eval(), calibration=batches, plan=made(create_model("resnet56")))


def test_a_plan_for_another_width_is_refused() -> None:
    with pytest.raises(InputError, match=r"conv1 has weights \[8, 3, 3, 3\] there and \[16, 3, 3, 3\] here") as refused:
        refuse_other_network(made(create_model("tiny:Tiny", width=8)), create_model("tiny:Tiny"))
    assert "2 of 2 convolutions" in str(refused.value)


def test_a_plan_for_another_kernel_is_refused() -> None:
    one, other = (nn.Sequential(nn.Conv2d(3, 8, size), nn.Conv2d(8, 8, 3)) for size in (3, 5))
    with pytest.raises(InputError, match=r"1 of 2 convolutions do not match: 0 has weights \[8, 3, 3, 3\] there"):
        refuse_other_network(made(one), other)


def test_a_detectors_plan_is_for_detectors_alone() -> None:
    detector = create_model("tiny_detector:retinanet", norm=False).eval()
    found = made(plain_part(detector))
    refuse_other_network(found, detector)
    refuse_other_network(made(detector), detector)
    with pytest.raises(InputError, match=r"head\.classification_head\S* is not in the plan's network"):
        refuse_other_network(made(Pyramid(detector.backbone)), detector)
    with pytest.raises(InputError, match=r"is not in the plan's network.*; and \d+ more"):
        refuse_other_network(found, detector.backbone.body)
    with pytest.raises(InputError, match="is for another network"):
        refuse_other_network(made(create_model("resnet20")), detector)


def test_a_plan_written_by_hand_may_name_few_layers_of_any_network(batches: list[Tensor], tmp_path: Path) -> None:
    model = create_model("resnet20").eval()
    layers = {"layer1.0.conv1": LayerPlan(Prune(8, 8))}
    for few in (layers, Plan(layers, ("macs", 0.9), 0.9, 0.0, 0.1), dataclasses.replace(made(model), layers=layers)):
        found = convert(model, calibration=batches, plan=few, effort="fast")
        assert [layer.name for layer in found.layers if layer.replaced] == ["layer1.0.conv1"]


def edited(tmp_path: Path, change: dict[str, Any]) -> Path:
    path = tmp_path / "plan.json"
    write_plan(made(create_model("resnet20")), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return path


def test_an_edited_plan_still_knows_its_network(tmp_path: Path) -> None:
    layers = {"layer1.1.conv1": {"output": {"kind": "prune", "kept": 4, "dropped": 12}}}
    found = read_plan(edited(tmp_path, {"layers": layers}))
    refuse_other_network(found, create_model("resnet20"))
    with pytest.raises(InputError, match="is for another network"):
        refuse_other_network(found, create_model("resnet56"))
    refuse_other_network(read_plan(edited(tmp_path, {"network": None})), create_model("resnet56"))


@pytest.mark.parametrize(
    "network",
    [3, [], {}, {"conv1": 3}, {"conv1": []}, {"conv1": [16, 3, "3", 3]}, {"conv1": [16, 3, True, 3]}, {"conv1": [1.5]}],
)
def test_a_record_that_is_none_is_refused(network: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"plan\.json: expected 'network' with the shape of each convolution's weight"):
        read_plan(edited(tmp_path, {"network": network}))
