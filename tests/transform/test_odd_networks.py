"""Networks that are built or run in unusual ways become ghosts and get plans like others."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm
from torchvision.models import ShuffleNetV2

from ghostify import GhostConv2d, InputError, convert, plan
from ghostify.changes import LayerPlan, Prune
from ghostify.transform.convert import Conversion


def network(*between: nn.Module) -> nn.Sequential:
    """Two convolutions, and something between them."""
    ends = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
    return nn.Sequential(ends[0], *between, nn.ReLU(), ends[1], nn.Flatten(2)).eval()


def images() -> list[Tensor]:
    return list(torch.rand(32, 3, 16, 16).split(16))


def ghosted(model: nn.Module, **options: Any) -> Conversion:
    ghosts = {} if "plan" in options else {"cheap": "pointwise"}
    return convert(model, **{"calibration": images(), "effort": "fast"} | ghosts | options)


def planned(model: nn.Module) -> Any:
    return plan(model, example=torch.rand(1, 3, 16, 16), calibration=images(), target_macs=0.8)


class Normalising(nn.Module):
    """Normalises its input in place."""

    def __init__(self, place: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.place, self.net = place, network(nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.place(x).sub_(0.5).div_(0.25))


def test_a_network_that_normalises_in_place_is_kept_as_one_that_does_not_and_the_images_stay() -> None:
    inside, outside = Normalising(lambda x: x), Normalising(torch.clone)
    outside.load_state_dict(inside.state_dict())
    calibration, x = images(), torch.rand(8, 3, 16, 16)
    before = [batch.clone() for batch in calibration]
    options = {"calibration": calibration}
    one, other = ghosted(inside, **options).model, ghosted(outside, **options).model
    torch.testing.assert_close(one(x.clone()), other(x.clone()))
    example = torch.rand(1, 3, 16, 16)
    was = example.clone()
    plan(inside, example=example, calibration=calibration, target_macs=0.8)
    assert torch.equal(example, was)
    assert all(torch.equal(batch, same) for batch, same in zip(calibration, before, strict=True))


class Checking(nn.Module):
    """Refuses what it does not know, by another error than PyTorch's."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 16
        return x


def test_what_runs_with_all_maps_only_keeps_them() -> None:
    assert ghosted(network(Checking())).replaced == 2
    assert planned(network(Checking()))["0"].dropped == 0
    with pytest.raises(InputError, match="channels of 0 cannot be dropped: the network does not run without one"):
        ghosted(network(Checking()), plan={"0": LayerPlan(Prune(8, 8))})


def test_channels_between_shuffles_are_ghosted_and_dropped() -> None:
    x = torch.randn(32, 3, 32, 32)
    model = ShuffleNetV2([3, 1, 1], [24, 48, 64, 64, 64], num_classes=10).eval()
    assert convert(model, calibration=[x], cheap="pointwise", effort="fast").replaced > 10
    found = plan(model, example=x[:1], calibration=[x], target_macs=0.8)
    assert "pointwise ghosts" in {change.kind for layer in found.values() for change in layer.changes}
    assert {name for name, layer in found.items() if layer.dropped} <= {
        name for name in found if name.endswith(("branch1.2", "branch2.0"))
    }


def test_weights_that_are_computed_from_others_are_taken_as_they_are_and_that_is_said() -> None:
    pruned, normed = network(), network()
    prune.l1_unstructured(pruned[0], "weight", 0.5)
    weight_norm(normed[0])
    for model in (pruned, normed):
        changes = {layer.name: layer.change for layer in ghosted(model).layers}
        assert changes == {"0": "pointwise ghosts, its computed weight is a parameter now", "2": "pointwise ghosts"}


class Labelling(nn.Module):
    """Gives labels beside its maps, and what is empty."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = self.net(x)
        return maps, maps.mean(2).argmax(1), maps[:0]


def test_outputs_without_a_mean_are_compared_as_they_are() -> None:
    assert ghosted(Labelling()).replaced == 2


def test_a_network_that_is_one_convolution_becomes_a_ghost() -> None:
    found = ghosted(nn.Conv2d(3, 16, 3))
    assert isinstance(found.model, GhostConv2d)
    assert found.replaced == 1


def test_a_plan_is_made_within_inference_mode_and_of_norms_without_weights() -> None:
    with torch.inference_mode():
        found = planned(network(nn.BatchNorm2d(16, affine=False)))
    assert found.macs <= 0.8
    with torch.inference_mode():
        model = network()
        assert planned(model).macs <= 0.8


def test_half_precision_is_refined() -> None:
    model = network(nn.BatchNorm2d(16)).half()
    calibration = [batch.half() for batch in images()]
    assert ghosted(model, calibration=calibration, effort="refined").model[0].primary.weight.dtype == torch.float16


def test_maps_that_are_all_zero_are_no_sum_with_their_input() -> None:
    model = nn.Sequential(*[m for maps in (3, 16, 16) for m in (nn.Conv2d(maps, 16, 3, padding=1), nn.ReLU())])
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    assert convert(model, calibration=images(), effort="fast").replaced


def test_orders_are_folded_where_the_code_has_the_number_of_maps_written_out() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16 * 16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(nn.functional.max_pool2d(self.conv(x).relu(), 4).view(-1, 16 * 4 * 4))

    assert ghosted(Written()).model.conv.order is None
