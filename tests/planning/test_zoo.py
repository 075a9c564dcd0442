"""Plans that come with the package are for the networks that they name, whatever their weights and classes."""

from pathlib import Path

import pytest
import torch
from command_line import printed, refused

from ghostify import InputError, convert, count, create_model
from ghostify.planning.made_for import refuse_other_network
from ghostify.planning.plan_file import read_plan
from ghostify.planning.zoo import plan_path, zoo_names

# Networks by the builders' names that are no torchvision's, and the images of those that take small ones.
MODELS = {"resnet20": "resnet20", "resnet56": "resnet56", "tf_efficientnet_lite0": "timm:tf_efficientnet_lite0"}
SIDES = {"resnet20": 32, "resnet56": 32}


def network_of(name: str) -> torch.nn.Module:
    """The network of a plan, random and with three classes."""
    network = name.rpartition("-")[0]
    return create_model(MODELS.get(network, f"torchvision:{network}"), num_classes=3).eval()


@pytest.mark.parametrize("name", zoo_names())
def test_a_plan_is_for_the_network_that_it_names(name: str) -> None:
    plan = read_plan(plan_path(f"zoo:{name}"))
    refuse_other_network(plan, network_of(name))
    assert plan.target == ("speedup", float(name.rpartition("-")[2].removesuffix("x")))
    assert any(layer.changes for layer in plan.values())
    assert plan.made_on["engine"] == "openvino"


@pytest.mark.parametrize("name", [name for name in zoo_names() if not name.endswith("-2x")])
def test_a_network_of_other_classes_follows_it(name: str) -> None:
    side = SIDES.get(name.rpartition("-")[0], 64)
    model, images = network_of(name), torch.randn(64, 3, side, side)
    made = convert(model, calibration=images.split(32), plan=f"zoo:{name}", effort="fast").model
    shares = [count(each, images.shape[1:]).macs for each in (made, model)]
    assert shares[0] / shares[1] == pytest.approx(read_plan(plan_path(f"zoo:{name}")).macs, abs=0.01)


def test_the_command_line_takes_it_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path / "ghost")
    words = ("--data", "digits", "--images", "64", "--effort", "fast", "--plan", "zoo:mobilenet_v2-1.5x", "--out", out)
    found = printed(capsys, "convert", "torchvision:mobilenet_v2", "--num-classes", "10", *words, "--json")
    assert found["macs_after"] < found["macs_before"]
    assert "the plan is for another network" in refused(capsys, "convert", "resnet20", *words)


def test_a_name_that_the_zoo_has_not(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = (
        "convert",
        "resnet20",
        "--data",
        "digits",
        "--plan",
        "zoo:mobilenet_v2-7x",
        "--out",
        str(tmp_path / "ghost"),
    )
    line = refused(capsys, *words)
    assert line == f"ghostify: the zoo has no plan 'mobilenet_v2-7x': expected one of {', '.join(zoo_names())}"
    with pytest.raises(InputError, match="the zoo has no plan ''"):
        plan_path("zoo:")


def test_a_path_stays_one(tmp_path: Path) -> None:
    assert plan_path(tmp_path / "plan.json") == tmp_path / "plan.json"
