"""Layers that do not change compute of the channels that stay what they did of those that go."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ghostify import InputError, convert, create_model, load, plan, save
from ghostify.changes import Keep, LayerPlan, Prune
from ghostify.fitting.absorb import Taken, absorbed, as_layer_has, channel_samples
from ghostify.structure.channels import by_input
from ghostify.structure.surgery import conv_at

KEPT, GONE = 8, 4


class Doubled(nn.Module):
    """A convolution whose last channels are sums and multiples of the first, and what takes them."""

    def __init__(self, behind: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, KEPT + GONE, 3, padding=1)
        self.behind = behind()
        with torch.no_grad():
            for name in ("weight", "bias"):
                own = self.first.get_parameter(name)
                own[KEPT:] = 2 * own[:GONE] - own[GONE : 2 * GONE]

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.first(x))


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.expand(self.reduce(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Gated(nn.Module):
    """Squeeze and excite, and a convolution behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.second = Gate(), nn.Conv2d(12, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.gate(x)).mean((2, 3))


class OddlyGated(Gated):
    """The same, in no module of its own, so that its last convolution may change like any other."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.expand = self.gate.reduce, self.gate.expand
        del self.gate

    def forward(self, x: Tensor) -> Tensor:
        return self.second(x * self.expand(self.reduce(x.mean((2, 3), keepdim=True)).relu()).sigmoid()).mean((2, 3))


class Moved(nn.Module):
    """Other dimensions in front."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)


BEHIND: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)),
    "linear of a flattened map": lambda: nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12 * 16, 5)),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(12, 5, 4, stride=2, padding=1), nn.Conv2d(5, 3, 1)),
    "linear of each pixel": lambda: nn.Sequential(Moved(0, 2, 3, 1), nn.Linear(12, 5)),
    "linear of tokens": lambda: nn.Sequential(nn.Flatten(2), Moved(0, 2, 1), nn.Linear(12, 5)),
    "narrow": lambda: nn.Conv2d(12, 5, 3, padding=1),
}


@pytest.mark.parametrize("kind", BEHIND)
@torch.no_grad()
def test_channels_that_others_make_up_go_without_loss(kind: str) -> None:
    torch.manual_seed(0)
    model = Doubled(BEHIND[kind]).eval()
    batches = list(torch.randn(256, 3, 8, 8).split(64))
    plans = {"first": LayerPlan(Prune(KEPT, GONE))}
    smaller = convert(model, calibration=batches, plan=plans, effort="fast").model
    assert conv_at(smaller, "first").out_channels == KEPT
    x = torch.randn(16, 3, 8, 8)
    before, after = model(x), smaller(x)
    # Not nothing: of few samples, combinations are shrunk.
    assert float((after - before).square().mean() / before.var()) < 3e-3


@torch.no_grad()
def test_a_gate_loses_the_channels_that_it_multiplies() -> None:
    torch.manual_seed(0)
    model = Doubled(Gated).eval()
    batches = list(torch.randn(256, 3, 8, 8).split(64))
    plans = {"first": LayerPlan(Prune(KEPT, GONE)), "behind.second": LayerPlan(Keep(8))}
    smaller = convert(model, calibration=batches, plan=plans, effort="fast").model
    gate, before = smaller.get_submodule("behind.gate"), model.get_submodule("behind.gate")
    assert [gate.reduce.in_channels, gate.expand.out_channels] == [KEPT] * 2
    assert conv_at(smaller, "behind.second").in_channels == KEPT
    x = torch.randn(16, 3, 8, 8)
    maps, left = (conv_at(network, "first")(x) for network in (model, smaller))
    rows = [
        next(i for i in range(KEPT + GONE) if torch.allclose(left[:, j], maps[:, i], atol=1e-5)) for j in range(KEPT)
    ]
    squeezed = [each.reduce(m.mean((2, 3), keepdim=True)) for each, m in ((before, maps), (gate, left))]
    assert float((squeezed[1] - squeezed[0]).square().mean() / squeezed[0].var()) < 0.01
    assert torch.equal(gate.expand.weight, before.expand.weight[rows])


def test_a_gate_that_may_change_itself_keeps_its_channels() -> None:
    model = Doubled(OddlyGated).eval()
    batches = [torch.randn(64, 3, 8, 8)]
    reason = "behind.expand, whose output they are multiplied by, may itself change"
    planned = plan(model, example=batches[0][:1], calibration=batches, target_macs=0.9)
    assert planned.unprunable["first"] == reason
    with pytest.raises(InputError, match=f"channels of first cannot be dropped: {reason}"):
        convert(model, calibration=batches, plan={"first": LayerPlan(Prune(KEPT, GONE))}, effort="fast")


def test_few_samples_are_shrunk_and_not_believed() -> None:
    torch.manual_seed(0)
    few, many = torch.randn(20, 40), torch.randn(4000, 40)
    assert torch.linalg.cond(Taken.of([few]).products) < 100 < torch.linalg.cond((few.T @ few).double())
    assert torch.allclose(Taken.of([many]).products, torch.eye(40, dtype=torch.float64), atol=0.1)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Conv2d(6, 4, 3), torch.randn(3, 6, 5, 5)),
        (nn.ConvTranspose2d(6, 4, (2, 3)), torch.randn(3, 6, 5, 5)),
        (nn.Linear(6 * 5, 4), torch.randn(3, 30)),
    ],
)
@torch.no_grad()
def test_weights_by_input_come_back_as_the_layer_has_them(layer: nn.Module, x: Tensor) -> None:
    weights = by_input(layer, 6)
    assert weights.shape[:2] == (4, 6)
    assert torch.equal(as_layer_has(layer, weights), layer.get_parameter("weight"))
    assert channel_samples(layer, x, 6, 1000).shape == (x.numel() // 6, 6)
    assert len(channel_samples(layer, x, 6, 2)) <= 3
    rows = torch.tensor([0, 2, 3])
    for products in (torch.eye(6), torch.zeros(6, 6)):  # unrelated, or never anything: nothing can be made up for
        left = absorbed(layer, rows, 6, products.double())
        assert torch.equal(left[:, rows].float(), weights[:, rows])
        assert not left[:, [1, 4, 5]].any()


def test_a_skipped_layer_absorbs_nothing() -> None:
    model = Doubled(BEHIND["linear"])
    batches = [torch.randn(256, 3, 8, 8)]
    planned = plan(model, example=batches[0][:1], calibration=batches, target_macs=0.75)
    assert any(row.dropped for row in planned.values())
    skipped = plan(model, example=batches[0][:1], calibration=batches, target_macs=0.9, skip=["behind.2"])
    assert not any(row.dropped for row in skipped.values())


def test_a_layer_with_a_hook_absorbs_nothing() -> None:
    model = Doubled(BEHIND["linear"])
    model.get_submodule("behind.2").register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    plans = {"first": LayerPlan(Prune(KEPT, GONE))}
    with pytest.raises(InputError, match=r"channels of first cannot be dropped: behind\.2 takes them, and has a hook"):
        convert(model, calibration=[torch.randn(64, 3, 8, 8)], plan=plans, effort="fast")


@pytest.mark.parametrize("kind", ["linear", "transposed", "gate"])
def test_a_layer_that_computes_its_weights_absorbs_nothing(kind: str) -> None:
    model = Doubled(Gated if kind == "gate" else BEHIND[kind])
    layer = {"linear": "behind.2", "transposed": "behind.0", "gate": "behind.gate.expand"}[kind]
    nn.utils.spectral_norm(model.get_submodule(layer))
    batches = [torch.randn(64, 3, 8, 8)]
    planned = plan(model.eval(), example=batches[0][:1], calibration=batches, target_macs=0.9)
    assert not planned["first"].dropped
    convert(model, calibration=batches, plan=planned, effort="fast")


def test_a_planned_network_with_gates_is_saved(tmp_path: object) -> None:
    torch.manual_seed(0)
    model = create_model("torchvision:mobilenet_v3_small", num_classes=4).eval()
    batches = [torch.randn(32, 3, 32, 32)]
    planned = plan(model, example=batches[0][:1], calibration=batches, target_macs=0.7)
    smaller = convert(model, calibration=batches, plan=planned, effort="fast").model
    narrower = [
        name
        for name, conv in smaller.named_modules()
        if name.endswith("fc2") and conv.out_channels < conv_at(model, name).out_channels
    ]
    assert narrower
    file = f"{tmp_path}/n.safetensors"
    save(smaller, file)
    with torch.no_grad():
        assert torch.equal(load(file).eval()(batches[0]), smaller.eval()(batches[0]))
