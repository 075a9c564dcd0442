"""What a swap would break is left, each with its reason; what can go along does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghostify import GhostConv2d, InputError, convert, create_model, load, plan, save
from ghostify.changes import LayerPlan, PointwiseGhosts
from ghostify.structure.surgery import check_swap
from ghostify.transform.changeable import NOT_BY_NAME

X = torch.randn(32, 3, 16, 16)


def conv(in_channels: int, out_channels: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, **{"padding": 1, **options})


class Listed(nn.Module):
    """Reaches its convolutions by a container that is no module."""

    def __init__(self, container: str) -> None:
        super().__init__()
        self.c1, self.c2 = conv(3, 16), conv(16, 16)
        pairs = [(self.c1, F.relu), (self.c2, F.relu)]
        self.steps: Any = {
            "tuples in a list": pairs,
            "tuples in a tuple": tuple(pairs),
            "a dict": dict(enumerate(pairs)),
        }[container]

    def forward(self, x: Tensor) -> Tensor:
        for layer, activation in self.steps.values() if isinstance(self.steps, dict) else self.steps:
            x = activation(layer(x))
        return x


@pytest.mark.parametrize("container", ["tuples in a list", "tuples in a tuple", "a dict"])
@pytest.mark.parametrize("calibration", [None, [X]])
def test_modules_in_containers_are_replaced_there_too(container: str, calibration: Any) -> None:
    model = Listed(container).eval()
    found = convert(model, cheap="pointwise", calibration=calibration, input_shape=(3, 16, 16), effort="fast")
    assert found.replaced == 2
    assert not torch.equal(found.model(X), model(X)), "the output comes from the new layers"
    assert isinstance(model.c1, nn.Conv2d)


class Hidden(nn.Module):
    """Reaches its second convolution by something that a swap cannot see into."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = conv(3, 16), conv(16, 16)
        self.act = self.c2.forward  # bound to the module that is to be replaced

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.c1(x).relu())


class Closed(Hidden):
    """The same by a closure."""

    def __init__(self) -> None:
        super().__init__()
        c2 = self.c2
        self.act = lambda x: c2(x)


@pytest.mark.parametrize("kind", [Hidden, Closed])
@pytest.mark.parametrize("calibration", [None, [X]])
def test_what_is_not_reached_by_its_name_is_left_and_said(kind: type[nn.Module], calibration: Any) -> None:
    found = convert(kind().eval(), cheap="pointwise", calibration=calibration, input_shape=(3, 16, 16), effort="fast")
    reasons = {layer.name: layer.reason for layer in found.layers}
    assert reasons["c1"] == ""
    assert reasons["c2"] in (NOT_BY_NAME, "not run exactly once for an input")
    assert found.model(X).shape == (32, 16, 16, 16)


def test_a_convolution_with_a_hook_is_left_and_said() -> None:
    model = nn.Sequential(conv(3, 16, stride=2, padding=0), nn.ReLU(), conv(16, 16))
    model[0].register_forward_pre_hook(lambda module, args: (F.pad(args[0], (0, 1, 0, 1)),))
    model.eval()
    before = model(X).shape
    for calibration in (None, [X]):
        found = convert(model, cheap="pointwise", calibration=calibration, input_shape=(3, 16, 16), effort="fast")
        assert [layer.reason for layer in found.layers] == ["it has a hook, which would not go along", ""]
        assert found.model(X).shape == before


class Labelled(nn.Module):
    """Its code reads of each layer where that takes its input from, as YOLO's does."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 16))
        for layer in self.model:
            layer.f, layer.tags = -1, {"kind": type(layer).__name__}

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.model:
            if layer.f == -1 and layer.tags:
                x = layer(x)
        return x


@pytest.mark.parametrize("calibration", [None, [X]])
def test_attributes_that_the_networks_code_reads_go_along_and_come_back_from_the_file(
    calibration: Any, tmp_path: Path
) -> None:
    model = Labelled().eval()
    found = convert(model, cheap="pointwise", calibration=calibration, input_shape=(3, 16, 16), effort="fast")
    assert found.replaced == 2
    assert isinstance(found.model.model[0], GhostConv2d)
    assert found.model.model[0].f == -1
    save(found.model, tmp_path / "labelled.safetensors")
    again = load(tmp_path / "labelled.safetensors", factory=f"{__name__}:Labelled")
    assert torch.equal(again(X), found.model.eval()(X))


class Gated(nn.Module):
    """A gate by another name than any that is known."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.spread = conv(3, 32), nn.Conv2d(32, 16, 1), nn.Conv2d(16, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        return x * self.spread(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class InsideGated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.gated, self.head = conv(3, 3), Gated(), nn.Conv2d(32, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gated(self.first(x)).mean((2, 3), keepdim=True)).flatten(1)


def test_gates_are_known_by_what_they_see_and_a_head_behind_the_last_pooling_is_none() -> None:
    for calibration in (None, [X]):
        options: dict[str, Any] = {"cheap": "pointwise", "input_shape": (3, 16, 16), "effort": "fast"}
        found = convert(InsideGated().eval(), calibration=calibration, **options)
        reasons = {layer.name: layer.reason for layer in found.layers}
        gate = "a gate: it sees a single pixel"
        assert (reasons["gated.squeeze"], reasons["gated.spread"]) == (gate, gate)
        assert (reasons["gated.conv"], reasons["head"]) == ("", "")


@pytest.mark.parametrize("name", ["timm:legacy_seresnet18", "timm:efficientnet_lite0", "timm:resnetblur18"])
def test_gates_of_timms_networks_are_left(name: str) -> None:
    pytest.importorskip("timm")
    model = create_model(name).eval()
    found = convert(model, cheap="pointwise", input_shape=(3, 64, 64))
    gates = [layer.name for layer in found.layers if layer.reason == "a gate: it sees a single pixel"]
    expected = [
        n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and "se_module" in n and m.out_channels >= 8
    ]
    assert gates == expected
    assert found.model(torch.randn(1, 3, 64, 64)).shape == (1, 1000)


def test_a_plan_says_itself_how_its_ghosts_are_made() -> None:
    model = nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 16)).eval()
    found = {"2": LayerPlan(PointwiseGhosts(8, 8))}
    for options in ({"cheap_kernel_size": 5}, {"cheap": "depthwise"}, {"ratio": 3}):
        with pytest.raises(InputError, match="says itself what becomes of which layer"):
            convert(model, plan=found, calibration=[X], **options)  # type: ignore[arg-type]  # one of them each


def test_a_plan_leaves_what_cannot_change() -> None:
    model = Labelled().eval()
    model.model[2].register_forward_hook(lambda module, args, output: output.relu())
    found = plan(model, example=X[:1], calibration=[X], target_macs=0.95)
    assert list(found) == ["model.0"]


def test_a_swap_that_is_not_run_or_changes_a_shape_is_refused() -> None:
    before = nn.Sequential(conv(3, 16), nn.ReLU())
    after = nn.Sequential(conv(3, 8), nn.ReLU())
    with pytest.raises(InputError, match=r"Sequential returns \[\(32, 8, 16, 16\)\] after layers were replaced"):
        check_swap(before, after, ["0"], X)
    hidden, other = Closed(), Closed()
    other.act = hidden.act
    with pytest.raises(InputError, match="Closed does not run c2 after it was replaced: skip it"):
        check_swap(hidden, other, ["c2"], X)
