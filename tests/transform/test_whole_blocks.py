"""Residual blocks make up for what their input lacks, and may change as a whole."""

from pathlib import Path

import pytest
import torch
from small import trained
from torch import nn
from torchvision.models.resnet import BasicBlock

from ghostify import InputError, convert, count, create_model, deploy, load, save
from ghostify.changes import AnyPlan, BlockPlan, Keep, LayerPlan, OneConvolution, PointwiseGhosts, Prune
from ghostify.layers import GhostBlock
from ghostify.transform import reconstruct


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
