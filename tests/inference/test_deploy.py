"""A deployed network computes what the network computed, in other operators."""

from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from ghostify import GhostConv2d, InputError, create_model, deploy, export
from ghostify.structure.surgery import replace_modules_
from ghostify.timelimit import TimeLimitError


class Crossroads(nn.Module):
    """Whatever ghosts may meet: BatchNorm, sums with whole tensors, a gate, sums in place, dropout."""

    def __init__(self, cheap: str = "depthwise") -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv1, self.norm1 = GhostConv2d(16, 16, 3, padding=1, bias=False, cheap=cheap), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = GhostConv2d(16, 16, 3, padding=1, ratio=4, cheap=cheap), nn.BatchNorm2d(16)
        self.merged = GhostConv2d(16, 16, 3, padding=1, ratio=1, merged=5)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped = GhostConv2d(16, 16, 3, padding=1, groups=2, cheap=cheap)
        self.conv3, self.norm3 = GhostConv2d(16, 25, 3, stride=2, padding=1, cheap=cheap, merged=9), nn.BatchNorm2d(25)
        self.shortcut = nn.Sequential(nn.Conv2d(16, 25, 1, stride=2), nn.BatchNorm2d(25))
        self.gate = nn.Conv2d(25, 25, 1)
        self.norm4 = nn.BatchNorm2d(25)
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(25, 5)
        self.drop = nn.Dropout(0.5, inplace=True)  # in eval mode changes nothing, not even through a view

    def forward(self, x: Tensor) -> Tensor:
        x = self.merged(self.act(self.norm0(self.stem(x))))
        y = self.act(self.norm1(self.conv1(x)))
        y = self.depthwise(self.norm2(self.conv2(y)))
        y += x
        x = self.grouped(self.act(y))
        y = self.norm3(self.conv3(x))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        y = self.act(self.norm4(y + self.shortcut(x)))
        return self.head(self.drop(torch.flatten(nn.functional.adaptive_avg_pool2d(y, 1), 1)))


def shaken(model: nn.Module) -> nn.Module:
    """The network with BatchNorms as a training might leave them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.05, 3)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval()


def difference(model: nn.Module, deployed: nn.Module, x: Tensor) -> float:
    """Largest, relative to the largest output."""
    with torch.no_grad():
        before, after = model(x), deployed(x)
    return float((before - after).abs().max() / before.abs().max())


@pytest.mark.parametrize("cheap", ["depthwise", "pointwise"])
@pytest.mark.parametrize("form", ["as it comes", "split", "joined"])
def test_the_output_stays_for_any_batch_and_size(cheap: str, form: str) -> None:
    model = shaken(Crossroads(cheap)).double()
    forms = {} if form == "as it comes" else {"*": form}
    deployed = deploy(model, torch.randn(1, 3, 13, 15, dtype=torch.float64), forms=forms)
    for shape in [(1, 3, 13, 15), (3, 3, 16, 9)]:
        assert difference(model, deployed, torch.randn(shape, dtype=torch.float64)) < 1e-12
    single = deploy(model.float(), torch.randn(2, 3, 13, 15), forms=forms)
    assert difference(model, single, torch.randn(3, 3, 11, 12)) < 1e-5


def test_batch_norm_and_dropout_are_gone_and_ghosts_are_not_joined() -> None:
    deployed = deploy(shaken(Crossroads()), torch.randn(1, 3, 12, 12))
    forms = {ghost.name: (ghost.form, ghost.reason) for ghost in deployed.ghosts}
    assert forms == {
        "conv1": ("split", ""),
        "conv2": ("joined", "grouped.primary takes its maps whole"),
        "grouped": ("joined", "it has groups"),
        "conv3": ("split", ""),
    }
    assert not any(isinstance(module, nn.BatchNorm2d | nn.Dropout) for module in deployed.modules())
    called = [str(node.target) for node in deployed.network.graph.nodes if node.op == "call_function"]
    assert not any("batch_norm" in name or "dropout" in name for name in called)
    # Before and behind what has groups, and of single pixels: before the gate and before the head.
    assert sum("cat" in name for name in called) == 4


def test_pointwise_ghosts_become_one_matrix_with_their_order_in_it() -> None:
    model = nn.Sequential(GhostConv2d(8, 32, 3, cheap="pointwise", ordered=True), nn.BatchNorm2d(32), nn.ReLU())
    assert isinstance(model[0], GhostConv2d)
    assert model[0].order is not None
    model[0].order.copy_(torch.randperm(32))
    deployed = deploy(shaken(model), torch.randn(1, 8, 9, 9))
    assert [ghost.form for ghost in deployed.ghosts] == ["dense"]
    assert [node.op for node in deployed.network.graph.nodes] == [
        "placeholder",
        "call_module",
        "call_module",
        "call_function",
        "output",
    ]
    assert difference(model, deployed, torch.randn(3, 8, 7, 11)) < 1e-5


@pytest.mark.parametrize(
    ("name", "joined"),
    [
        ("ghostnet_050", {}),
        ("ghost_mobilenet_v3_large", {}),
        # Shortcuts of option A put maps of zeros around.
        (
            "ghost_resnet20",
            {"layer1.2.conv2": "layer2.0.shortcut takes its maps whole"}
            | {"layer2.2.conv2": "layer3.0.shortcut takes its maps whole"},
        ),
    ],
)
def test_published_ghosts_are_deployed(name: str, joined: dict[str, str]) -> None:
    model = shaken(create_model(name))
    deployed = deploy(model, torch.randn(1, 3, 64, 64))
    assert {ghost.name: ghost.reason for ghost in deployed.ghosts if ghost.form != "split"} == joined
    assert difference(model, deployed, torch.randn(3, 3, 61, 50)) < 1e-5


def test_shuffled_maps_stay_in_their_places() -> None:
    class Shuffle(nn.Module):
        """Maps of two groups in turn, as in ShuffleNet."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.ghost = nn.Conv2d(3, 16, 3), GhostConv2d(16, 16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            batch, maps, height, width = x.shape
            x = x.view(batch, 2, maps // 2, height, width).transpose(1, 2).contiguous().view(batch, -1, height, width)
            return self.ghost(x)

    model = Shuffle().eval()
    assert difference(model, deploy(model, torch.randn(1, 3, 12, 12)), torch.randn(3, 3, 12, 12)) < 1e-5


def test_a_network_that_returns_several_tensors_is_deployed() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low, self.high = GhostConv2d(3, 16, 3), GhostConv2d(16, 16, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            low = self.low(x)
            return {"low": low, "high": self.high(low.relu())}

    model = Pyramid().eval()
    deployed = deploy(model, torch.randn(1, 3, 12, 12))
    reasons = {ghost.name: ghost.reason for ghost in deployed.ghosts}
    assert reasons == {"low": "output takes its maps whole", "high": "output takes its maps whole"}
    x = torch.randn(2, 3, 12, 12)
    for name, wanted in model(x).items():
        torch.testing.assert_close(deployed(x)[name], wanted)


def test_bad_input_is_refused_in_a_line() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    model = nn.Sequential(GhostConv2d(3, 16, 3))
    example = torch.randn(1, 3, 8, 8)
    with pytest.raises(InputError, match="matches no ghost layer"):
        deploy(model, example, forms={"conv*": "split"})
    with pytest.raises(InputError, match="expected one of dense, split, joined"):
        deploy(model, example, forms={"0": "apart"})  # type: ignore[dict-item]  # no such form: what is tested
    with pytest.raises(InputError, match="only pointwise"):
        deploy(model, example, forms={"0": "dense"})
    with pytest.raises(InputError, match="expected an input"):
        deploy(model, example[0])
    with pytest.raises(InputError, match=r"goes one way or another by numbers that it computes"):
        deploy(Branches(), example)
    with pytest.raises(InputError, match="cannot learn"):
        deploy(model, example).train()


def test_a_residual_sum_begins_with_what_is_added_to_split_convolutions() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.ghost, self.last = (
                nn.Conv2d(3, 16, 1),
                GhostConv2d(16, 16, 3, padding=1),
                nn.Conv2d(16, 16, 1),
            )
            self.norm = nn.BatchNorm2d(16)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return (self.norm(self.last(self.ghost(x).relu().relu())) + x).relu()

    model = shaken(Block())
    deployed = deploy(model, torch.randn(1, 3, 12, 12))
    assert difference(model, deployed, torch.randn(3, 3, 11, 12)) < 1e-5
    nodes = {node.name: node for node in deployed.network.graph.nodes}
    *_, early, late, act, _ = nodes.values()
    # Each sum takes one convolution's maps, and so can be done while these are written.
    assert [str(n.target) for n in early.args] == ["last", "stem"]
    assert late.args == (early, nodes["last_1"])
    assert "relu" in str(act.target)
    assert sum("relu" in str(node.target) for node in nodes.values()) == 3  # one for each part, one for the sum


def test_for_eager_pytorch_ghosts_are_joined_and_maps_lie_channels_last() -> None:
    torch.manual_seed(0)
    network, x = Crossroads().double().eval(), torch.randn(2, 3, 15, 13, dtype=torch.float64)
    deployed = deploy(network, x, engine="eager")
    torch.testing.assert_close(deployed(x), network(x), rtol=1e-12, atol=1e-12)
    assert deployed.ghosts
    assert {(ghost.form, ghost.reason) for ghost in deployed.ghosts} == {
        ("joined", "fewer operators are faster in eager PyTorch")
    }
    weights = [p for p in deployed.parameters() if p.ndim == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


class Layers(nn.Module):
    """What a test makes of a convolution, a ghost, a BatchNorm and bounds for each map."""

    def __init__(self, run: Callable[["Layers", Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run
        self.conv, self.ghost, self.norm = nn.Conv2d(3, 8, 3), GhostConv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.low = nn.Parameter(torch.randn(8, 1, 1))
        self.far = nn.ParameterDict({"low": torch.randn(8, 1, 1)})
        self.far_low = nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def changes_a_half(m: Layers, x: Tensor) -> Tensor:
    h = m.conv(x)
    F.relu(h.chunk(2, 1)[0], inplace=True)
    return h


def changes_the_whole(m: Layers, x: Tensor) -> Tensor:
    h = m.conv(x)
    a, b = h.chunk(2, 1)
    F.relu(h, inplace=True)
    return a - b


def changes_through_another_order(m: Layers, x: Tensor) -> Tensor:
    h = m.conv(x)
    return F.relu(h.permute(0, 2, 3, 1), inplace=True).permute(0, 3, 1, 2) + h


def changes_its_input(m: Layers, x: Tensor) -> Tensor:
    return m.conv(F.relu(x.view(x.shape), inplace=True))


def scales_boxes(m: Layers, x: Tensor) -> Tensor:
    y = m.norm(m.conv(x)).unflatten(1, (2, 4)).movedim(2, 4).contiguous().sigmoid()
    y[..., :2] = (y[..., :2] * 2 - 0.5) * 8
    y[..., 2:4] = (y[..., 2:4] * 2) ** 2
    return y.flatten(1, 3)


def adds_to_a_map(m: Layers, x: Tensor) -> Tensor:
    y = m.norm(m.conv(x))
    y[:, 0] += 1
    y[:, :2].relu_()
    return m.far_low * y


def fills_in(m: Layers, x: Tensor) -> Tensor:
    y = m.conv(x)
    out = torch.zeros(y.shape[0], 8, *y.shape[2:], dtype=y.dtype)
    out[:, :4], out[:, 4:, 1:] = y[:, 4:], y[:, :4, :-1]
    return m.norm(out)


def covers_by_a_mask(m: Layers, x: Tensor) -> Tensor:
    y = m.norm(m.conv(x))
    y[y < 0] = 0.0
    y[y > 1] *= 0.5
    return y


def exchanges_maps_by_number(m: Layers, x: Tensor) -> Tensor:
    y = m.conv(x)
    y[:, [0, 3]] = y[:, [3, 0]]
    return m.norm(y)


def writes_where_it_is_told(m: Layers, x: Tensor) -> Tensor:
    y = m.conv(x)
    torch.mul(y, 2, out=y)
    return m.norm(y)


@pytest.mark.parametrize(
    "run",
    [
        changes_a_half,
        changes_the_whole,
        changes_through_another_order,
        changes_its_input,
        scales_boxes,
        adds_to_a_map,
        fills_in,
        covers_by_a_mask,
        exchanges_maps_by_number,
        writes_where_it_is_told,
    ],
    ids=lambda f: f.__name__,
)
def test_what_is_changed_in_place_and_read_through_another_view_is_the_same(
    run: Callable[[Layers, Tensor], Tensor],
) -> None:
    model, x = shaken(Layers(run)).double(), torch.randn(3, 3, 9, 8, dtype=torch.float64)
    deployed, given = deploy(model, torch.randn(1, 3, 8, 9, dtype=torch.float64)), x.clone()
    after = deployed(x)
    assert torch.equal(x, given)  # what the network changes of its input stays as it is
    with torch.no_grad():
        torch.testing.assert_close(after, model(x), rtol=1e-12, atol=1e-12)


class Remembering(nn.Module):
    """Counts its calls in a buffer, and perhaps computes with their number."""

    def __init__(self, uses: bool) -> None:
        super().__init__()
        self.uses, self.conv = uses, nn.Conv2d(3, 8, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.conv(x) * self.calls if self.uses else self.conv(x)


def test_what_a_call_leaves_behind_goes_unless_it_is_read() -> None:
    model = Remembering(uses=False).eval()
    assert difference(model, deploy(model, torch.randn(1, 3, 8, 8)), torch.randn(2, 3, 8, 8)) < 1e-6
    with pytest.raises(InputError, match=r"changes calls in each call and computes with it: expected .* input alone"):
        deploy(Remembering(uses=True), torch.randn(1, 3, 8, 8))


def changes_what_nobody_else_reads(m: Layers, x: Tensor) -> Tensor:
    a, b = m.conv(x).permute(0, 2, 3, 1).chunk(2, 3)
    return torch.cat([F.relu(a, inplace=True), b], 3)


def folds_what_a_sum_reads_too(m: Layers, x: Tensor) -> Tensor:
    h = m.conv(x)
    return m.norm(h.narrow(1, 0, 8)) + h


def pools_to_maxima(m: Layers, x: Tensor) -> Tensor:
    return F.adaptive_max_pool2d(m.ghost(x), 2)


def bounds_each_map(m: Layers, x: Tensor) -> Tensor:
    return m.ghost(x).clamp(min=m.low)


def bounds_each_pixel_of_one(m: Layers, x: Tensor) -> Tensor:
    return F.conv2d(x, m.conv.weight[:, :, :1, :1], stride=99).clamp(min=m.low.expand(8, 5, 7))


def takes_names_that_differ_by_a_dot(m: Layers, x: Tensor) -> Tensor:
    return m.conv(x) * m.far["low"] + m.far_low


@pytest.mark.parametrize(
    "run",
    [
        changes_what_nobody_else_reads,
        folds_what_a_sum_reads_too,
        pools_to_maxima,
        bounds_each_map,
        bounds_each_pixel_of_one,
        takes_names_that_differ_by_a_dot,
    ],
    ids=lambda f: f.__name__,
)
def test_what_reads_maps_in_unusual_ways_gets_the_same(run: Callable[[Layers, Tensor], Tensor]) -> None:
    model = shaken(Layers(run)).double()
    deployed = deploy(model, torch.randn(1, 3, 8, 9, dtype=torch.float64))
    assert difference(model, deployed, torch.randn(3, 3, 9, 8, dtype=torch.float64)) < 1e-12


class Adapted(nn.Conv2d):
    """A convolution with two small ones inside, as fine-tuning adds them."""

    def __init__(self) -> None:
        super().__init__(3, 8, 3, padding=1)
        self.down, self.up = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x)) + super().forward(x)


def test_a_layer_may_have_layers_inside() -> None:
    model = nn.Sequential(Adapted()).eval()
    assert difference(model, deploy(model, torch.randn(1, 3, 8, 8)), torch.randn(3, 3, 8, 8)) < 1e-6


def flattens_by_its_length(m: Layers, x: Tensor) -> Tensor:
    return m.conv(x).reshape(len(x), -1)


def shuffles_by_its_length(m: Layers, x: Tensor) -> Tensor:
    x = m.conv(x)
    return x.view(len(x), 2, 4, *x.shape[2:]).transpose(1, 2).reshape(len(x), 8, *x.shape[2:])


def takes_halves_as_images(m: Layers, x: Tensor) -> Tensor:
    x = m.conv(x)
    halves = x.reshape(2 * int(x.shape[0]), 4, *x.shape[2:])
    return halves.softmax(1).reshape(x.size(0), -1)


def adds_zeros_of_its_length(m: Layers, x: Tensor) -> Tensor:
    return m.conv(x) + torch.zeros(len(x), 8, 1, 1)


@pytest.mark.parametrize(
    "run",
    [flattens_by_its_length, shuffles_by_its_length, takes_halves_as_images, adds_zeros_of_its_length],
    ids=lambda f: f.__name__,
)
def test_a_batch_whose_size_is_taken_as_a_number_stays_free(
    run: Callable[[Layers, Tensor], Tensor], tmp_path: Path
) -> None:
    model = shaken(Layers(run))
    deployed = deploy(model, torch.randn(1, 3, 8, 9))
    for batch in (1, 2, 4, 11):
        assert difference(model, deployed, torch.randn(batch, 3, 8, 9)) < 1e-6
    assert deployed.fixed_size == (None, None)
    assert difference(model, deployed, torch.randn(2, 3, 10, 7)) < 1e-6
    export(deployed, tmp_path / "network.onnx", torch.randn(1, 3, 8, 9), check=[torch.randn(5, 3, 8, 9)])


def each_image_by_itself(m: Layers, x: Tensor) -> Tensor:
    return torch.stack([m.conv(image[None])[0] for image in x])


def another_way_for_large_batches(m: Layers, x: Tensor) -> Tensor:
    return m.conv(x) if len(x) < 5 else m.ghost(x)


def another_way_for_one(m: Layers, x: Tensor) -> Tensor:
    return m.conv(x) if len(x) > 1 else m.ghost(x)


def means_over_its_length(m: Layers, x: Tensor) -> Tensor:
    return m.conv(x) / float(len(x))


def a_choice_by_value(m: Layers, x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, torch.abs, torch.neg, (m.conv(x),))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (each_image_by_itself, "would be right for some only"),
        (another_way_for_large_batches, "would be right for some only"),
        (another_way_for_one, "would be right for some only"),
        (means_over_its_length, "would be right for some only"),
        (a_choice_by_value, "chosen by a value"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_a_network_that_cannot_be_followed_is_refused_in_a_line(
    run: Callable[[Layers, Tensor], Tensor], message: str
) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        deploy(Layers(run), torch.randn(1, 3, 8, 8))
    assert "\n" not in str(refusal.value)


def test_names_that_pytorch_cannot_take_along_are_refused_in_a_line() -> None:
    with pytest.raises(InputError, match=r"cannot be followed by torch\.export: .*code"):
        deploy(nn.Sequential(OrderedDict(code=nn.Conv2d(3, 8, 3))), torch.randn(1, 3, 8, 8))


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(InputError, match=r"^engine is 'egaer': expected one of eager, compile, onnxruntime, openvino$"):
        deploy(Crossroads(), torch.randn(1, 3, 9, 7), engine="egaer")


class Standardised(nn.Conv2d):
    """Computes its weights anew in each call, as ResNets with weight standardisation do."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


class Keeping(nn.Conv2d):
    """Keeps what it computed, as layers that one looks into do."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = {"maps": [super().forward(x)]}
        return self.seen["maps"][0]


class Mirrored(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return (weight + weight.flip(3)) / 2


def masked(conv: nn.Module) -> nn.Module:
    prune.l1_unstructured(conv, "weight", 0.5)
    prune.random_unstructured(conv, "bias", 0.5)
    return conv


def mirrored(conv: nn.Module) -> nn.Module:
    nn.utils.parametrize.register_parametrization(conv, "weight", Mirrored())
    return conv


@pytest.mark.filterwarnings("ignore:.*(weight|spectral)_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "change",
    [
        masked,
        mirrored,
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        lambda conv: Standardised(3, 8, 3),
        lambda conv: Keeping(3, 8, 3),
    ],
)
def test_weights_that_are_computed_are_folded_and_the_network_keeps_them(change: Callable[[nn.Module], Any]) -> None:
    model = nn.Sequential(change(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8), nn.ReLU())
    model(torch.randn(2, 3, 8, 8)).sum()  # with gradients: what layers keep belongs to a graph now
    model, state = shaken(model), {name: value.clone() for name, value in model.state_dict().items()}
    deployed = deploy(model, torch.randn(1, 3, 8, 8))
    assert [node.op for node in deployed.network.graph.nodes][1:-1] == ["call_module", "call_function"]
    assert difference(model, deployed, torch.randn(3, 3, 9, 7)) < 1e-6
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def pools_by_its_width(m: Layers, x: Tensor) -> Tensor:
    x = m.conv(x)
    return F.avg_pool2d(x, x.size(3))


def pools_by_its_size(m: Layers, x: Tensor) -> Tensor:
    x = m.conv(x)
    return F.max_pool2d(x, kernel_size=x.shape[2:])


def adds_a_table_of_its_size(m: Layers, x: Tensor) -> Tensor:
    x = m.conv(x)
    return x + torch.linspace(-1, 1, x.shape[3], dtype=x.dtype)


@pytest.mark.parametrize(
    ("run", "fixed"),
    [(pools_by_its_width, (None, 9)), (pools_by_its_size, (10, 9)), (adds_a_table_of_its_size, (None, 9))],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_a_size_that_cannot_be_free_is_fixed_and_another_is_refused(run: Any, fixed: tuple[int | None, int]) -> None:
    model = Layers(run).eval()
    deployed = deploy(model, torch.randn(1, 3, 10, 9))
    assert deployed.fixed_size == fixed
    assert difference(model, deployed, torch.randn(3, 3, 10, 9)) < 1e-6
    with pytest.raises(InputError, match=r"deployed for inputs of 10×9 .* expected 10×9, or to deploy it for 11×11$"):
        deployed(torch.randn(1, 3, 11, 11))


def takes_a_mean_over_pixels(m: Layers, x: Tensor) -> Tensor:
    x = m.conv(x)
    batch, maps, height, width = x.shape
    return x.reshape(batch, maps, height * width).sum(2) / (height * width)


def resizes_to_another(m: Layers, x: Tensor) -> Tensor:
    small = F.max_pool2d(m.conv(x), 2)
    return F.interpolate(small, size=x.shape[-2:], mode="bilinear")


def cuts_a_table(m: Layers, x: Tensor) -> Tensor:
    x = m.conv(x)
    return x + m.low.expand(8, 32, 32)[:, : x.shape[2], : x.shape[3]]


@pytest.mark.parametrize("run", [takes_a_mean_over_pixels, resizes_to_another, cuts_a_table], ids=lambda f: f.__name__)
def test_a_size_that_is_computed_with_stays_free(run: Callable[[Layers, Tensor], Tensor]) -> None:
    model = Layers(run).eval()
    deployed = deploy(model, torch.randn(1, 3, 8, 9))
    assert deployed.fixed_size == (None, None)
    assert difference(model, deployed, torch.randn(1, 3, 11, 12)) < 1e-6


def test_a_size_that_takes_too_long_to_keep_free_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_long(seconds: float, work: Callable[[], Any]) -> Any:
        raise TimeLimitError(f"not done within {seconds:g} seconds")

    monkeypatch.setattr(import_module("ghostify.inference.deploy"), "within", too_long)
    model = Layers(takes_a_mean_over_pixels).eval()
    deployed = deploy(model, torch.randn(1, 3, 8, 9))
    assert deployed.fixed_size == (8, 9)
    assert difference(model, deployed, torch.randn(3, 3, 8, 9)) < 1e-6
    with pytest.raises(InputError, match="expected 8×9, or to deploy it for 11×12"):
        deployed(torch.randn(1, 3, 11, 12))


def infers(m: Layers, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return m.norm(m.conv(x))


def records_gradients(m: Layers, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = m.conv(x)
        with torch.enable_grad():
            return m.norm(x)


def leaves_autocast(m: Layers, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return m.norm(m.conv(x))


def computes_a_part_in_bf16(m: Layers, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = m.conv(x)
    return m.norm(x.float())


@pytest.mark.parametrize(
    "run", [infers, records_gradients, leaves_autocast, computes_a_part_in_bf16], ids=lambda f: f.__name__
)
def test_a_mode_that_forward_enters_is_followed(run: Callable[[Layers, Tensor], Tensor]) -> None:
    model = shaken(Layers(run))
    found = difference(model, deploy(model, torch.randn(1, 3, 8, 9)), torch.randn(3, 3, 8, 9))
    assert found < (1e-6 if run is not computes_a_part_in_bf16 else 1e-5)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float16, 5e-3), (torch.bfloat16, 4e-2)])
def test_a_network_of_another_type_stays_in_it(dtype: torch.dtype, rounding: float) -> None:
    model = shaken(Crossroads()).to(dtype)
    deployed = deploy(model, torch.randn(1, 3, 13, 15, dtype=dtype))
    assert {p.dtype for p in deployed.parameters()} == {dtype}
    assert difference(model, deployed, torch.randn(3, 3, 13, 15, dtype=dtype)) < rounding
    with pytest.raises(InputError, match=rf"the network is {str(dtype)[6:]}, the example float32$"):
        deploy(model, torch.randn(1, 3, 13, 15))


def test_norms_may_be_of_another_type_than_the_convolutions() -> None:
    model = shaken(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))
    )
    model[0].half()
    model[3].half()
    deployed = deploy(model, torch.randn(1, 3, 9, 9).half())
    assert {p.dtype for p in deployed.parameters()} == {torch.float16}
    assert difference(model, deployed, torch.randn(3, 3, 9, 9).half()) < 5e-3


class Directed(nn.Module):
    """Reads of its layers what a reader of network descriptions put on them, and a convolution's own settings."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)])
        for index, layer in enumerate(self.layers):
            layer.come_from, layer.index = -1, index

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if layer.come_from == -1:
                x = layer(x) * (layer.out_channels + layer.padding[0] + layer.index)
        return x


def test_dense_ghosts_keep_what_the_networks_code_reads_of_them() -> None:
    model = Directed()
    ghosts = [GhostConv2d(3, 8, 3, padding=1, cheap="pointwise"), GhostConv2d(8, 8, 3, padding=1, cheap="pointwise")]
    model = replace_modules_(model, dict(zip(model.layers, ghosts, strict=True))).eval()
    x = torch.randn(2, 3, 8, 8)
    deployed = deploy(model, x)
    assert [ghost.form for ghost in deployed.ghosts] == ["dense", "dense"]
    torch.testing.assert_close(deployed(x), model(x), rtol=1e-4, atol=1e-4)
