"""Blocks that add a convolution's channels to their input are found by what they compute."""

import pytest
import torch
from small import trained
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck

from ghostify.structure.residual import residual_sum, sums_of


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
