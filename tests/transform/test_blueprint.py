"""A network is built again also where its constructor computes with its weights."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn
from touchy import Touchy

from ghostify import convert, create_model, load, save
from ghostify.transform.blueprint import blueprint_of

IMAGES = torch.randn(2, 3, 8, 8)
KINDS = [
    *("OwnLayers", "Data", "Orthogonal", "FromNumpy", "Asked", "Moved"),
    *("Buffered", "Holding", "HoldingDeep", "Recurrent", "Growing"),
]


def same(a: nn.Module, b: nn.Module) -> bool:
    with torch.no_grad():
        return torch.equal(a.eval()(IMAGES), b.eval()(IMAGES))


@pytest.mark.parametrize("converted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_constructor_may_use_the_values_of_its_weights(kind: str, converted: bool, tmp_path: Path) -> None:
    factory, path = f"touchy:{kind}", tmp_path / "network.safetensors"
    model = create_model(factory)
    model = convert(model, skip=["conv1"], input_shape=(3, 8, 8)).model if converted else model
    model(IMAGES)
    save(model, path)
    assert same(load(path, factory=factory), model)
    assert not any("last" in name for name in load_file(path))


def test_a_constructor_may_read_a_file(tmp_path: Path) -> None:
    torch.save(Touchy().state_dict(), tmp_path / "weights.pt")
    model = create_model("touchy:FromFile", path=str(tmp_path / "weights.pt"))
    save(model, tmp_path / "network.safetensors")
    assert same(load(tmp_path / "network.safetensors"), model)


def test_finding_out_how_a_network_is_built_draws_no_random_numbers() -> None:
    model = create_model("touchy:FromNumpy")

    def states() -> list[Any]:
        return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]

    before = states()
    assert blueprint_of(model).replaced == {}
    assert states() == before


@pytest.mark.parametrize(
    ("build", "name", "options"),
    [
        (lambda: torchvision.models.segmentation.lraspp_mobilenet_v3_large, "lraspp_mobilenet_v3_large", {}),
        (lambda: torchvision.models.segmentation.fcn_resnet50, "fcn_resnet50", {}),
        (lambda: torchvision.models.segmentation.fcn_resnet50, "fcn_resnet50", {"aux_loss": True}),
    ],
)
def test_segmentation_networks_of_torchvision_are_known(build: Any, name: str, options: dict[str, Any]) -> None:
    model = build()(weights=None, weights_backbone=None, **options)
    origin = blueprint_of(model).origin
    assert (origin.name, origin.options) == (f"torchvision:{name}", options)


@pytest.mark.parametrize("name", ["touchy:Kinds.Inner", "touchy:STANDING", "touchy:HALF_AS_WIDE"])
def test_a_class_in_a_class_a_partial_and_a_network_in_a_module_are_built(name: str, tmp_path: Path) -> None:
    model = create_model(name)
    assert model is not create_model(name)
    save(model, tmp_path / "network.safetensors")
    assert same(load(tmp_path / "network.safetensors"), model)
