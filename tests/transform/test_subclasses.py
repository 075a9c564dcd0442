"""Layers that convolve in ways of their own become ghosts, get plans, and come back from files like plain ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from subclasses import NOT_PLAIN, PLAIN, Network, Same

from ghostify import GhostConv2d, convert, create_model, deploy, load, plan, save
from ghostify.changes import LayerPlan, PointwiseGhosts, Prune
from ghostify.layers import PaddedConv2d

X = torch.randn(32, 3, 17, 16, generator=torch.Generator().manual_seed(0))
COMPUTED = "its computed weight is a parameter now"
CALIBRATED: dict[str, Any] = {"calibration": [X], "effort": "fast"}


@pytest.mark.parametrize("options", [{"input_shape": (3, 17, 16)}, {"cheap": "pointwise", **CALIBRATED}])
@pytest.mark.parametrize("kind", PLAIN)
def test_what_is_understood_becomes_a_ghost_and_comes_back_from_its_file(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model = create_model(f"subclasses:{kind}").eval()
    before = model(X)
    found = convert(model, **options)
    assert found.replaced == 3
    assert all(isinstance(found.model.get_submodule(name), GhostConv2d) for name in ("first", "second"))
    computed = kind in {"standardised", "adapted", "spectral", "normed", "masked"}
    assert [COMPUTED in layer.change for layer in found.layers] == [computed, computed, False]
    output = found.model.eval()(X)
    assert torch.equal(model(X), before)
    if "calibration" in options:
        assert (output - before).square().mean() < 0.2 * before.var()
    save(found.model, tmp_path / "ghost.safetensors")
    again = load(tmp_path / "ghost.safetensors", factory=f"subclasses:{kind}")
    assert torch.equal(again(X), output)
    deployed = deploy(found.model, X[:2])
    for x in (X, torch.randn(2, 3, 22, 23)):
        torch.testing.assert_close(deployed(x), found.model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_others_are_left_with_the_reason_and_the_rest_is_changed(kind: str) -> None:
    layer, reason = NOT_PLAIN[kind]
    model = Network(layer).eval()
    for options in ({"input_shape": (3, 17, 16)}, {"cheap": "pointwise", **CALIBRATED}):
        found = convert(model, **options)
        reasons = {row.name: row.reason for row in found.layers}
        expected = f"{type(model.first).__name__} is no plain convolution: {reason}"
        assert (reasons["first"], reasons["second"], reasons["third"]) == (expected, expected, "")
        assert type(found.model.first) is type(model.first)


@pytest.mark.parametrize("kind", ["same", "sided", "standardised"])
def test_they_are_planned_pruned_and_kept_and_come_back_from_the_file(kind: str, tmp_path: Path) -> None:
    model = create_model(f"subclasses:{kind}").eval()
    found = plan(model, example=X[:1], calibration=[X], target_macs=0.8)
    assert {"first", "second", "third"} <= found.keys()
    for planned in (found, {"first": LayerPlan(Prune(12, 4)), "second": LayerPlan(PointwiseGhosts(8, 8))}):
        changed = convert(model, plan=planned, **CALIBRATED).model
        before, output = model(X), changed(X)
        assert (output - before).square().mean() < 0.2 * before.var()
        save(changed, tmp_path / "changed.safetensors")
        assert torch.equal(load(tmp_path / "changed.safetensors", factory=f"subclasses:{kind}")(X), output)


def test_layers_that_do_not_change_stay_as_they_are() -> None:
    model = Network(Same).eval()
    changed = convert(model, skip=["first"], **CALIBRATED, ratio=2).model
    assert type(changed.first) is Same
    assert isinstance(changed.second, GhostConv2d)
    kept = convert(model, plan={"third": LayerPlan(PointwiseGhosts(8, 8))}, **CALIBRATED).model
    assert type(kept.first) is PaddedConv2d, "its filters are fitted anew"
    assert (
        type(convert(Network(lambda i, o, k, **s: Same(i, o, k, **s, groups=1 if i == 3 else i)).eval()).model.second)
        is Same
    )


def test_attributes_go_along_and_a_network_without_a_known_input_is_converted_too() -> None:
    found = convert(create_model("subclasses:named"))
    assert found.replaced == 3
    assert found.model.first.label == "named"


def test_a_network_that_is_one_such_layer_becomes_a_ghost() -> None:
    found = convert(Same(3, 16, 3, stride=2), input_shape=(3, 9, 9))
    assert isinstance(found.model, GhostConv2d)
    assert found.model.padding == "same"
