"""Which blocks add a convolution's maps to their input, and that these make up for what it lacks."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck

from ghostify import InputError, convert, count, create_model, deploy, load, save
from ghostify.changes import AnyPlan, BlockPlan, Keep, LayerPlan, OneConvolution, PointwiseGhosts, Prune
from ghostify.layers import GhostBlock
from ghostify.structure.residual import residual_sum, sums_of
from ghostify.transform import reconstruct


def trained(block: nn.Module) -> nn.Module:
    """With norms as after training, and one that turns its map's sign."""
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.get_buffer("running_mean").uniform_(-0.1, 0.1)
            module.get_buffer("running_var").uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, 0.5, 1)  # maps show
            module.weight.data[0] *= -1
    return block.eval()


@pytest.mark.parametrize(
    ("block", "added"),
    [
        (BasicBlock(8, 8), "conv2"),
        (Bottleneck(32, 8), "conv3"),
        (InvertedResidual(8, 8, 1, 6), "conv.2"),
        (BasicBlock(8, 16, stride=2, downsample=nn.Conv2d(8, 16, 1, 2)), None),
        (InvertedResidual(8, 16, 1, 6), None),
        (nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()), None),
    ],
    ids=["basic", "bottleneck", "inverted", "another input", "no sum", "plain"],
)
def test_what_is_added_to_the_input_is_found_with_its_gain(block: nn.Module, added: str | None) -> None:
    model = nn.Sequential(trained(block))
    x = torch.randn(4, 32 if isinstance(block, Bottleneck) else 8, 9, 9).relu()
    convs = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    totals = {name: residual_sum(model, "0", name, x) for name in convs}
    found = {name: total for name, total in totals.items() if total is not None}
    assert list(found) == ([] if added is None else [f"0.{added}"])
    if added is not None:
        total = found[f"0.{added}"]
        assert total.relu == (not isinstance(block, InvertedResidual))
        other = torch.randn_like(x)
        (y,) = sums_of(model, "0", total, [other])
        with torch.no_grad():
            torch.testing.assert_close(y.relu() if total.relu else y, block(other), rtol=1e-3, atol=1e-3)
        norm = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)][-1]
        assert norm.running_var is not None
        expected = norm.weight / (norm.running_var + norm.eps).sqrt()
        torch.testing.assert_close(total.gain, expected.detach(), rtol=1e-3, atol=0.0)


def test_a_map_that_shows_nowhere_has_no_gain() -> None:
    block = trained(BasicBlock(8, 8))
    assert isinstance(block, BasicBlock)
    block.bn2.bias.data[3] = -1e4  # the ReLU behind the sum hides it
    x = torch.randn(4, 8, 9, 9)
    total = residual_sum(nn.Sequential(block), "0", "0.conv2", x)
    assert total is not None
    assert total.gain[3] == 0
    assert total.gain.count_nonzero() == 7
    assert total.of(x, torch.zeros_like(x))[:, 3].amax() <= 0


def test_two_samples_of_a_map_tell_of_no_sum() -> None:
    block = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
    assert residual_sum(nn.Sequential(block), "0", "0.0", torch.randn(2, 8, 1, 1).abs()) is None


def test_closed_form_keeps_more_where_blocks_make_up_for_their_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    original = trained(create_model("resnet20"))
    images = list(torch.randn(64, 3, 32, 32).split(32))
    half: dict[str, LayerPlan] = {}
    for name, conv in original.named_modules():
        if isinstance(conv, nn.Conv2d) and name != "conv1":
            n = conv.out_channels
            half[name] = LayerPlan(
                Prune(3 * n // 8, 5 * n // 8) if name.endswith("conv1") else PointwiseGhosts(3 * n // 4, n // 4)
            )

    def error() -> float:
        ghost = convert(original, calibration=images, plan=half, effort="fast").model
        with torch.no_grad():
            return float((ghost(images[0]) - original(images[0])).square().mean())

    with_it = error()
    monkeypatch.setattr(reconstruct, "residual_sum", lambda *_: None)
    assert with_it < error()


def linear_block(kernel: int) -> BasicBlock:
    """What it adds to its input is linear in it: its inner maps are above 0, so that the ReLU does nothing."""
    block = trained(BasicBlock(8, 8))
    assert isinstance(block, BasicBlock)
    with torch.no_grad():
        block.bn1.bias += 20
        for conv in (block.conv1, block.conv2):
            conv.weight.mul_(0.3)
        if kernel == 1:
            block.conv2.weight[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
        block.conv1.weight[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    return block


@pytest.mark.parametrize(("kernel", "size"), [(1, 1), (3, 3), (1, 3)])
def test_a_block_that_is_linear_in_its_input_is_one_convolution(kernel: int, size: int) -> None:
    original = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), linear_block(kernel)).eval()
    images = list(torch.randn(64, 3, 9, 9).split(32))
    plan = {"2": BlockPlan(OneConvolution(8, size)), "2.conv1": LayerPlan(Keep(8))}
    conversion = convert(original, calibration=images, plan=plan, effort="fast")
    ghost = conversion.model
    assert isinstance(ghost[2], GhostBlock)
    assert [(row.name, row.replaced, row.dropped) for row in conversion.layers[1:]] == [
        ("2.conv1", True, 8),
        ("2.conv2", True, 8),
        ("2", True, 0),
    ]
    assert sum(row.macs_after or 0 for row in conversion.layers) == count(ghost, (3, 9, 9)).macs
    with torch.no_grad():
        error = (ghost(images[0]) - original(images[0])).square().mean() / original(images[0]).var()
    # Zeros that are padded to the inner maps are none to the input: a kernel of 3 sees a border that is not linear.
    assert error < (1e-4 if kernel == 1 else 0.05)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            {"1": BlockPlan(OneConvolution(8, 1))},
            "plan: 1 cannot change as a whole: expected a block that runs once and adds",
        ),
        ({"2": BlockPlan(OneConvolution(9, 1))}, "plan: 2 makes 8 channels, not 9"),
        (
            {"2": LayerPlan(PointwiseGhosts(4, 4))},
            "plan: 2 is no convolution: expected a change of a block, or none",
        ),
        ({"2.conv1": BlockPlan(OneConvolution(8))}, "plan: 2.conv1 is a convolution: expected a change of its output"),
        ({"9": BlockPlan(OneConvolution(8, 1))}, "plan: the network has no convolution '9'"),
    ],
)
def test_plans_for_blocks_that_cannot_be_followed_are_refused(plan: dict[str, AnyPlan], message: str) -> None:
    original = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), linear_block(1)).eval()
    with pytest.raises(InputError, match=message):
        convert(original, calibration=[torch.randn(32, 3, 9, 9)], plan=plan)


def test_a_refined_ghost_of_a_block_comes_back_from_its_file_and_is_deployed(tmp_path: Path) -> None:
    original = trained(create_model("resnet20"))
    images = list(torch.randn(64, 3, 32, 32).split(32))
    plan = {"layer1.1": BlockPlan(OneConvolution(16, 1)), "layer2.2": BlockPlan(OneConvolution(32, 3))}
    refined = convert(original, calibration=images, plan=plan).model
    save(refined, tmp_path / "ghost.safetensors")
    again = load(tmp_path / "ghost.safetensors")
    deployed = deploy(refined, images[0][:1])
    with torch.no_grad():
        assert torch.equal(again(images[0]), refined(images[0]))
        torch.testing.assert_close(deployed(images[0][:1]), refined(images[0][:1]), rtol=1e-4, atol=1e-4)
