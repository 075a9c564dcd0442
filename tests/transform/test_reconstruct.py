"""A trained network's ghost keeps what can be kept, and says what was lost."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small import Blocks
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from ghostify import GhostConv2d, InputError, convert, count, plan
from ghostify.changes import DepthwiseGhosts, Keep, LayerPlan, MergeInputs, PointwiseGhosts, Prune
from ghostify.network_file import load, save
from ghostify.transform.reconstruct import Reconstruction, reconstruct


class Residual(nn.Module):
    """A stem and one residual block; 8 inner maps and 8 outer ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = Block()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x).relu()).mean((2, 3)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()


def settled(model: nn.Module) -> nn.Module:
    """The network with BatchNorm statistics and scales of its own."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.running_mean)
    return model.eval()


def images(number: int = 64, size: int = 8) -> list[Tensor]:
    return list(torch.randn(number, 3, size, size).split(16))


@torch.no_grad()
def make_twins(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Let the second half of the maps be the first half again."""
    for tensor in (conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var):
        half = len(tensor) // 2  # type: ignore[arg-type]  # affine and tracking, so all are there
        tensor[half:] = tensor[:half]  # type: ignore[index]  # likewise


@torch.no_grad()
def make_mixtures(conv: nn.Conv2d) -> None:
    """Let the first half of the maps be combinations of the second half."""
    half = conv.out_channels // 2
    conv.weight[:half] = torch.einsum("ab,bcij->acij", torch.randn(half, half), conv.weight[half:])


@pytest.mark.parametrize("effort", ["fast", "refined"])
def test_maps_that_are_combinations_of_others_are_ghosts_without_loss(effort: Any) -> None:
    model, x = settled(Residual()), images()
    make_mixtures(model.block.conv2)
    ghost, report = reconstruct(
        model, {"block.conv2": LayerPlan(PointwiseGhosts(4, 4))}, x, Reconstruction(effort=effort)
    )
    assert isinstance(ghost.block.conv2, GhostConv2d)
    assert report["block.conv2"].explained == pytest.approx(1, abs=1e-3)
    unseen = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(ghost(unseen), model(unseen), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    "change",
    [
        LayerPlan(Keep(8), MergeInputs(4)),
        LayerPlan(PointwiseGhosts(4, 4), MergeInputs(4)),
        LayerPlan(Prune(4, 4), MergeInputs(4)),
    ],
)
@pytest.mark.parametrize("effort", ["fast", "refined"])
def test_near_copies_among_inputs_are_merged_without_loss(change: LayerPlan, effort: Any, tmp_path: Path) -> None:
    model, x = settled(Residual()), images()
    with torch.no_grad():  # behind a ReLU twins stay twins
        for tensor in (model.stem.weight, model.stem.bias):
            tensor[4:] = tensor[:4]
    if change.dropped:
        make_twins(model.block.conv1, model.block.bn1)
    elif change.output.ghosted:
        make_mixtures(model.block.conv1)
    found = convert(model, plan={"block.conv1": change}, calibration=x, effort=effort)
    layer = found.model.block.conv1
    assert layer.merge.weight.shape[:2] == (4, 8)
    output = change.output
    assert layer.primary.weight.shape[:2] == (output.kept, 4)
    (row,) = (row for row in found.layers if row.name == "block.conv1")
    assert (row.replaced, row.kept, row.ghosted, row.dropped, row.inputs) == (
        True,
        output.kept,
        output.ghosted,
        output.dropped,
        4,
    )
    assert row.macs_after == 64 * (4 * 8 + output.kept * 4 * 9 + output.ghosted * output.kept)
    unseen = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(found.model(unseen), model(unseen), atol=2e-3, rtol=2e-3)
    save(found.model, tmp_path / "ghost.safetensors")
    again = load(tmp_path / "ghost.safetensors", factory=f"{__name__}:Residual")
    assert torch.equal(again(unseen), found.model(unseen))


def test_inner_maps_that_others_repeat_are_dropped_without_loss() -> None:
    model, x = settled(Residual()), images()
    make_twins(model.block.conv1, model.block.bn1)
    plans = {"block.conv1": LayerPlan(Prune(4, 4)), "block.conv2": LayerPlan(Keep(8))}
    ghost, report = reconstruct(model, plans, x, Reconstruction(effort="fast"))
    assert (ghost.block.conv1.out_channels, ghost.block.bn1.num_features, ghost.block.conv2.in_channels) == (4, 4, 4)
    assert report["block.conv1"].block_error == pytest.approx(0, abs=1e-5)
    unseen = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(ghost(unseen), model(unseen), atol=2e-3, rtol=2e-3)


class Shifted(nn.Module):
    """Its last four maps are the first four, fainter and moved by a pixel: what a 3×3 filter can do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.head = nn.Conv2d(6, 3, 1)
        with torch.no_grad():
            filters = torch.randn(3, 3)
            self.conv.weight.zero_()
            self.conv.weight[:3, :, 1, 1] = filters
            self.conv.weight[3:, :, 0, 1] = 0.5 * filters[[2, 0, 1]]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x))


@pytest.mark.parametrize("effort", ["fast", "refined"])
def test_a_block_may_end_in_maps_of_which_some_are_dropped(effort: Any) -> None:
    model = nn.Sequential(Conv2dNormActivation(3, 16), Conv2dNormActivation(16, 16, groups=16), nn.Conv2d(16, 8, 1))
    plans = {"0.0": LayerPlan(Prune(10, 6)), "2": LayerPlan(Keep(8))}
    ghost, layers = reconstruct(model, plans, images(), Reconstruction(effort=effort))
    assert ghost[0][1].num_features == ghost[1][0].groups == 10
    assert [layer.block for layer in layers.values()] == ["0", "2"]
    assert layers["0.0"].block_error == pytest.approx(0, abs=0.05)  # those that are left are the original's
    assert ghost(images()[0]).shape == model(images()[0]).shape


def test_depthwise_ghosts_find_their_partners_and_filters() -> None:
    model = Shifted().eval()
    ghost, report = reconstruct(
        model, {"conv": LayerPlan(DepthwiseGhosts(3, 3))}, images(), Reconstruction(effort="fast")
    )
    assert report["conv"].explained == pytest.approx(1, abs=1e-3)
    unseen = torch.randn(3, 3, 9, 7)
    torch.testing.assert_close(ghost(unseen), model(unseen), atol=2e-3, rtol=2e-3)


def test_refining_lowers_the_error_of_the_closed_form() -> None:
    model, x = settled(Residual()), images(256)
    plans = {"block.conv1": LayerPlan(Prune(5, 3)), "block.conv2": LayerPlan(PointwiseGhosts(6, 2))}
    errors = [
        reconstruct(model, plans, x, Reconstruction(effort=effort))[1]["block.conv2"].block_error
        for effort in ("fast", "refined")
    ]
    assert 0 < errors[1] < errors[0] < 1


class Viewed(nn.Module):
    """Lays its maps flat by a view, which they allow in one order in memory only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(self.stem(x).relu()).relu()
        return self.head(maps.view(len(maps), -1))


def test_a_network_that_views_its_maps_is_kept_too() -> None:
    model = Viewed().eval()
    ghost, report = reconstruct(model, {"conv": LayerPlan(PointwiseGhosts(3, 3))}, images(), Reconstruction())
    assert 0 < report["conv"].block_error < 1
    assert ghost(torch.randn(2, 3, 8, 8)).shape == (2, 3)
    assert all(
        p.is_contiguous() for p in reconstruct(settled(Residual()), {}, images(), Reconstruction())[0].parameters()
    )


def test_the_same_seed_gives_the_same_ghost_and_the_original_stays() -> None:
    model, x = settled(Residual()), images()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plans = {"block.conv1": LayerPlan(Prune(5, 3)), "block.conv2": LayerPlan(PointwiseGhosts(6, 2))}
    first, second = (reconstruct(model, plans, x, Reconstruction(seed=3))[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_convert_calibrated_reports_every_layer_and_its_ghost_can_be_saved(tmp_path: Any) -> None:
    model = settled(Residual())
    changes = {"block.conv1": LayerPlan(Prune(3, 5)), "block.conv2": LayerPlan(PointwiseGhosts(6, 2))}
    conversion = convert(model, plan=changes, calibration=images(), effort="fast")
    stem, conv1, conv2 = conversion.layers
    assert (stem.reason, stem.kept, stem.block) == ("the plan keeps all its channels", 8, "stem")
    assert (conv1.kept, conv1.ghosted, conv1.dropped, conv1.change) == (3, 0, 5, "prune")
    assert (conv2.kept, conv2.ghosted, conv2.dropped, conv2.change) == (6, 2, 0, "pointwise ghosts")
    assert 0 < conv2.explained <= 1
    assert conv1.block == conv2.block == "block"
    assert conv1.macs_after + conv2.macs_after <= (conv1.macs_before + conv2.macs_before) / 2
    save(conversion.model, tmp_path / "ghost.safetensors")
    again = load(tmp_path / "ghost.safetensors", factory=f"{__name__}:Residual")
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(again(x), conversion.model(x))


def test_a_plan_says_what_becomes_of_each_layer() -> None:
    model, x = settled(Residual()), images()
    changes = {"block.conv1": LayerPlan(Prune(5, 3)), "block.conv2": LayerPlan(PointwiseGhosts(6, 2))}
    conversion = convert(model, plan=changes, calibration=x, effort="fast")
    assert [(layer.kept, layer.ghosted, layer.dropped) for layer in conversion.layers] == [
        (8, 0, 0),
        (5, 0, 3),
        (6, 2, 0),
    ]
    assert conversion.model.block.conv2.in_channels == 5


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"nothing": LayerPlan(PointwiseGhosts(4, 4))}, {}, "no convolution 'nothing'"),
        ({"stem": LayerPlan(PointwiseGhosts(4, 5))}, {}, "stem makes 8 channels, not 9"),
        ({"block.conv2": LayerPlan(Prune(4, 4))}, {}, r"block\.conv2 cannot be dropped"),
        (
            {"block.conv1": LayerPlan(Prune(4, 4)), "block.conv2": LayerPlan(Keep(8), MergeInputs(4))},
            {},
            r"block\.conv2 takes 4 channels: expected to merge them to fewer",
        ),
        (
            {"stem": LayerPlan(PointwiseGhosts(4, 4))},
            {"skip": ["stem"]},
            "says itself what becomes of which layer",
        ),
        ({"stem": LayerPlan(PointwiseGhosts(4, 4))}, {"calibration": None}, "a plan needs calibration images"),
    ],
)
def test_a_plan_that_the_network_cannot_follow_is_refused(
    changes: dict[str, LayerPlan], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        convert(Residual(), plan=changes, **{"calibration": images(), "effort": "fast", **options})


def test_the_maps_of_an_output_or_a_sum_are_never_dropped() -> None:
    model, x = settled(Residual()), images()
    with pytest.raises(
        InputError, match=r"channels of block\.conv2 cannot be dropped: its channels meet others in add"
    ):
        reconstruct(model, {"block.conv2": LayerPlan(Prune(4, 4))}, x, Reconstruction())
    last = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    with pytest.raises(InputError, match=r"the network's output|_?OutputOp"):
        reconstruct(last, {"2": LayerPlan(Prune(4, 4))}, x, Reconstruction())


def test_a_whole_network_costs_half_and_every_block_is_accounted_for() -> None:
    model = settled(Blocks())
    conversion = convert(model, calibration=images(32, 16), effort="fast")
    macs, before = (count(network, (3, 16, 16)).macs for network in (conversion.model, model))
    assert 0.45 * before < macs <= 0.5 * before, "what a plan for half of the multiply-adds leaves"
    assert macs == sum(layer.macs_after for layer in conversion.layers) + 16 * 10
    assert [layer.block for layer in conversion.layers] == ["stem", *(f"blocks.{i}" for i in (0, 0, 1, 1, 2, 2))]
    assert all(not layer.dropped for layer in conversion.layers[::2]), "their channels meet a sum"
    assert "prune" in {layer.change for layer in conversion.layers}
    assert all(0 < layer.block_error < 1 for layer in conversion.layers[1:])


class Inverted(nn.Module):
    """An inverted residual block's convolutions: wide, depthwise, narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 48, 3, padding=1)
        self.depthwise = nn.Conv2d(48, 48, 3, padding=1, groups=48)
        self.project = nn.Conv2d(48, 16, 1)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.project(self.depthwise(self.expand(x).relu()).relu()).mean((2, 3)))


@pytest.mark.parametrize("share", [0.8, 0.5, 0.33])
def test_what_pruning_saves_in_depthwise_convolutions_counts(share: float) -> None:
    model, x = Inverted().eval(), images()
    planned = plan(model, example=x[0][:1], calibration=x, target_macs=share)
    conversion = convert(model, plan=planned, calibration=x, effort="fast")
    found = count(conversion.model, (3, 8, 8)).macs / count(model, (3, 8, 8)).macs
    assert found == pytest.approx(planned.macs, abs=1e-9)
    assert found <= share
    depthwise = conversion.layers[1]
    assert (depthwise.reason, depthwise.macs_after < depthwise.macs_before) == ("depthwise", True)


def test_a_fractional_ratio_is_refused() -> None:
    with pytest.raises(InputError, match=r"ratio is 1\.25: expected a whole number"):
        convert(Inverted(), ratio=1.25, calibration=images(), cheap="pointwise")


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([torch.zeros(64, 3, 8, 8)], "all images are the same"),
        ([torch.full((64, 3, 8, 8), float("nan"))], "NaN"),
        ([torch.randn(8, 3, 8, 8)], "8 images: expected at least 32"),
        ([torch.randn(64, 8, 8)], r"expected batches of inputs \[batch, channels, height, width\]"),
        ([torch.randn(32, 3, 8, 8), torch.randn(32, 3, 9, 8)], "expected one shape for all"),
        ([torch.randn(64, 4, 8, 8)], r"Residual cannot take the images, torch\.float32 \[1, 4, 8, 8\] on cpu"),
        ([torch.randn(64, 3, 8, 8).double()], r"Residual cannot take the images, torch\.float64"),
        ([], "0 images"),
    ],
)
def test_calibration_images_that_can_tell_nothing_are_refused(batches: list[Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(Residual(), calibration=batches, cheap="pointwise")


def test_a_network_that_gives_no_numbers_is_refused() -> None:
    model = Residual()
    nn.init.constant_(model.head.bias, float("nan"))
    with pytest.raises(InputError, match="Residual gives NaN for the images"):
        convert(model, calibration=images(), cheap="pointwise")


def test_an_empty_batch_and_inference_mode_are_no_matter_and_random_numbers_are_left() -> None:
    model, before = Residual(), torch.get_rng_state()
    batches = images()
    torch.set_rng_state(before)
    with torch.inference_mode():
        changed = convert(model, calibration=[*batches, batches[0][:0]]).model
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(changed(batches[0]), convert(model, calibration=batches).model(batches[0]))


class Stages(nn.Module):
    """Convolutions with an activation between, in a network's own module each."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), activation, nn.Conv2d(16, 16, 3, padding=1), activation
        )
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean((2, 3)))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Hardswish])
def test_activations_in_place_between_blocks_are_not_passed_by(activation: Any) -> None:
    model, inplace = Stages(activation()), Stages(activation(inplace=True))
    inplace.load_state_dict(model.state_dict())
    x, unseen = images(), torch.randn(5, 3, 8, 8)
    ghost, other = (convert(net, calibration=x, cheap="pointwise", effort="fast").model for net in (model, inplace))
    torch.testing.assert_close(other(unseen), ghost(unseen))
