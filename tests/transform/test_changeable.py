"""What a swap would break is left, each with its reason; what can go along does."""

import collections
import functools
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghostify import GhostConv2d, InputError, convert, create_model, load, plan, save
from ghostify.changes import LayerPlan, PointwiseGhosts, Prune
from ghostify.structure.surgery import check_swap
from ghostify.transform.changeable import NOT_BY_NAME, SHARED

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


class Reached(nn.Module):
    """Reaches its second convolution in a way that a copy follows."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.c1, self.c2, self.c3, self.how = conv(3, 16), conv(16, 16), conv(16, 16), how
        pair = collections.namedtuple("pair", "layer")
        self.kept: Any = {
            "a partial": functools.partial(self.c2.forward),
            "a dict of lists": {"all": [[self.c2]]},
            "a named tuple": pair(self.c2),
            "an object": types.SimpleNamespace(layer=self.c2),
            "a bound method": self.middle,
            "slices": nn.Sequential(nn.ReLU(), self.c2),
            "children": None,
        }[how]

    def middle(self, x: Tensor) -> Tensor:
        return self.c2(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c1(x).relu()
        if self.how in ("a partial", "a bound method"):
            x = self.kept(x)
        elif self.how == "a dict of lists":
            x = self.kept["all"][0][0](x)
        elif self.how == "slices":
            x = next(iter(self.kept[1:]))(self.kept[0](x))
        elif self.how == "children":
            x = list(self.children())[1](x)
        else:
            x = self.kept.layer(x)
        return self.c3(x.relu())


@pytest.mark.parametrize(
    "how", ["a partial", "a dict of lists", "a named tuple", "an object", "a bound method", "slices", "children"]
)
def test_every_convolution_that_is_said_to_be_replaced_is_run_and_every_other_still_is(how: str) -> None:
    model = Reached(how).eval()
    found = convert(model, cheap="pointwise", input_shape=(3, 16, 16))
    reasons = {layer.name: layer.reason for layer in found.layers}
    assert (reasons["c1"], reasons["c3"]) == ("", "")
    assert reasons["c2"] == ("" if how in ("a dict of lists", "a bound method", "slices", "children") else NOT_BY_NAME)
    before = found.model.eval()(X)
    for name in ("c1", "c2", "c3"):
        part = found.model.get_submodule(name)
        assert isinstance(part, GhostConv2d) == (reasons[name] == "")
        state = {key: tensor.clone() for key, tensor in part.state_dict().items()}
        next(part.parameters()).data.add_(1)
        assert not torch.equal(found.model(X), before)
        part.load_state_dict(state)


class Leaking(nn.Module):
    """Keeps a layer where a copy does not reach it, so that the copy would run the layer of the network itself."""

    def __init__(self, how: str, layer: nn.Module) -> None:
        super().__init__()
        self.c1, self.layer, self.c3, self.how = conv(3, 16), layer, conv(16, 16), how
        self.kept: Any = {
            "a closure": [lambda x: layer(x), torch.relu],
            "a weak reference": weakref.ref(layer),
            "a dict of weak references": weakref.WeakValueDictionary(layer=layer),
            "a wrapped forward": None,
        }[how]
        if how == "a wrapped forward":
            own = layer.forward
            layer.forward = lambda x: 2 * own(x)  # type: ignore[method-assign]  # as a wrapper does

    def forward(self, x: Tensor) -> Tensor:
        x = self.c1(x).relu()
        if self.how == "a closure":
            x = self.kept[1](self.kept[0](x))
        elif self.how == "a weak reference":
            x = self.kept()(x)
        elif self.how == "a dict of weak references":
            x = self.kept["layer"](x)
        else:
            x = self.layer(x)
        return self.c3(x)


@pytest.mark.parametrize("how", ["a closure", "a weak reference", "a dict of weak references", "a wrapped forward"])
@pytest.mark.parametrize("calibration", [None, [X]])
def test_what_a_copy_would_share_with_the_network_is_left_and_said_or_refused(how: str, calibration: Any) -> None:
    options: dict[str, Any] = {"calibration": calibration, "input_shape": (3, 16, 16), "effort": "fast", "ratio": 2}
    layer = conv(16, 16)
    found = convert(Leaking(how, layer).eval(), **options)
    assert [row.reason for row in found.layers] == ["", SHARED, ""]
    left = found.layers[1]
    assert left.macs_after == left.macs_before == 16 * 16 * 9 * 16 * 16
    with pytest.raises(
        InputError, match="Leaking cannot be copied whole: of 'layer', a copy of the network still runs"
    ):
        convert(Leaking(how, nn.BatchNorm2d(16)).eval(), **options)


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
    assert reasons["c2"] in (NOT_BY_NAME, SHARED)
    assert found.model(X).shape == (32, 16, 16, 16)


HOOKS: dict[str, Callable[[nn.Conv2d], Any]] = {
    "forward": lambda c: c.register_forward_hook(lambda module, args, output: output.relu()),
    "forward that only looks": lambda c: c.register_forward_hook(lambda module, args, output: None),
    "with keywords": lambda c: c.register_forward_hook(lambda module, args, kw, output: 2 * output, with_kwargs=True),
    "before": lambda c: c.register_forward_pre_hook(lambda module, args: (F.pad(args[0], (1, 0, 1, 0)),)),
    "backward": lambda c: c.register_full_backward_hook(lambda module, before, after: None),
    "before backward": lambda c: c.register_full_backward_pre_hook(lambda module, after: None),
    "a method": lambda c: setattr(c, "_conv_forward", functools.partial(nn.Conv2d._conv_forward, c)),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_every_hook_stays_with_its_convolution_and_one_around_it_is_no_hindrance(kind: str) -> None:
    model = nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 16), nn.ReLU(), conv(16, 16)).eval()
    model.register_forward_hook(lambda module, args, output: output + 1)
    HOOKS[kind](model[2])  # type: ignore[arg-type]  # it is a convolution
    found = convert(model, cheap="pointwise", calibration=[X], effort="fast")
    reasons = [layer.reason for layer in found.layers]
    assert reasons == ["", "it has a hook, or a forward of its own, which would not go along", ""]
    before = model(X)
    assert (found.model(X) - before).square().mean() < 0.5 * before.var()


def test_a_convolution_with_a_hook_is_left_and_said() -> None:
    model = nn.Sequential(conv(3, 16, stride=2, padding=0), nn.ReLU(), conv(16, 16))
    model[0].register_forward_pre_hook(lambda module, args: (F.pad(args[0], (0, 1, 0, 1)),))
    model.eval()
    before = model(X).shape
    for calibration in (None, [X]):
        found = convert(model, cheap="pointwise", calibration=calibration, input_shape=(3, 16, 16), effort="fast")
        assert [layer.reason for layer in found.layers] == [
            "it has a hook, or a forward of its own, which would not go along",
            "",
        ]
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


class Reading(nn.Module):
    """Its code reads of its second convolution, or asks what it is."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.c1, self.c2, self.c3, self.how = conv(3, 16), conv(16, 16), conv(16, 16), how
        self.known = {self.c2} if how == "a set" else set()
        if how == "a buffer":
            self.c2.register_buffer("scale", torch.ones(1))
        if how == "a forward of its own":
            own = self.c2.forward
            self.c2.forward = lambda x: 2 * own(x)  # type: ignore[method-assign]  # as a wrapper does

    def forward(self, x: Tensor) -> Tensor:
        x = self.c1(x).relu()
        if self.how == "its class" and not isinstance(self.c2, nn.Conv2d):
            return x
        if self.how == "its weight":
            x = x.to(self.c2.weight.dtype)
        if self.how == "its first parameter":
            x = x.to(next(self.c2.parameters()).device)
        if self.how == "its very type" and type(self.c2) is nn.Conv2d:
            x = 2 * x
        if self.how == "its name" and self.c2.__class__.__name__ == "Conv2d":
            x = 2 * x
        if self.how == "what it has" and hasattr(self.c2, "weight"):
            x = 2 * x
        x = self.c2(input=x) if self.how == "by keyword" else self.c2(x)
        if self.how == "a set":
            x = x * (100.0 if self.c2 in self.known else 1.0)
        if self.how == "a buffer":
            x = x * self.c2.scale
        return self.c3(x.relu())


@pytest.mark.parametrize(
    "how",
    [
        *("its first parameter", "its very type", "its name", "what it has"),
        *("its class", "its weight", "a set", "a buffer", "by keyword", "a forward of its own", "nothing"),
    ],
)
@pytest.mark.parametrize("calibration", [None, [X]])
def test_what_the_networks_code_reads_of_a_convolution_is_left_and_the_rest_changed(how: str, calibration: Any) -> None:
    model = Reading(how).eval()
    found = convert(model, cheap="pointwise", calibration=calibration, input_shape=(3, 16, 16), effort="fast")
    reasons = {layer.name: layer.reason for layer in found.layers}
    assert (reasons["c1"], reasons["c3"]) == ("", "")
    assert (reasons["c2"] == "") == (how == "nothing"), reasons["c2"]
    assert found.model(X).shape == model(X).shape


@pytest.mark.parametrize("name", ["order", "cheap", "ratio"])
def test_attributes_that_a_ghost_has_for_itself_are_not_overwritten(name: str) -> None:
    model = nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 16)).eval()
    setattr(model[2], name, 7)
    found = convert(model, cheap="pointwise", calibration=[X], effort="fast")
    assert found.layers[1].reason == f"it has an attribute {name!r}, which a ghost has, too"
    assert found.model(X).shape == (32, 16, 16, 16)


def test_containers_that_hold_themselves_or_take_nothing_are_no_hindrance() -> None:
    class Fixed(dict[str, int]):
        def update(self, *args: Any) -> None:  # type: ignore[override]  # takes nothing, on purpose
            raise TypeError("fixed")

    model = nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 16)).eval()
    model.fixed = Fixed(one=1)  # type: ignore[assignment]  # any attribute
    model.loop = [model[0]]  # type: ignore[assignment]  # likewise
    model.loop.append(model.loop)  # type: ignore[operator,union-attr]  # a list
    found = convert(model, cheap="pointwise", input_shape=(3, 16, 16))
    assert found.replaced == 2
    assert found.model.loop[0] is found.model[0]  # type: ignore[index]  # likewise


def test_padding_that_was_set_later_is_what_a_fit_sees() -> None:
    later, before = (nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 16, padding=p)).eval() for p in (1, 0))
    before.load_state_dict(later.state_dict())
    later[2].padding = (0, 0)
    outputs = [convert(net, cheap="pointwise", calibration=[X], effort="fast").model(X) for net in (later, before)]
    torch.testing.assert_close(*outputs)


def test_frozen_parameters_stay_frozen_when_channels_go() -> None:
    model = nn.Sequential(conv(3, 16), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 16)).eval().requires_grad_(False)
    found = convert(model, plan={"0": LayerPlan(Prune(8, 8))}, calibration=[X], effort="fast").model
    assert found[0].out_channels == 8
    assert not any(parameter.requires_grad for parameter in found.parameters())
