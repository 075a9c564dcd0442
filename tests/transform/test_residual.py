"""Which convolutions are added to their block's input, and that they make up for what it lacks."""

import pytest
import torch
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck

from ghostify import convert, create_model
from ghostify.transform import keep
from ghostify.transform.residual import residual_gain


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
    found = {name: residual_gain(model, "0", name, x) for name in convs}
    gains = {name: gain for name, gain in found.items() if gain is not None}
    assert list(gains) == ([] if added is None else [f"0.{added}"])
    if added is not None:
        norm = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)][-1]
        assert norm.running_var is not None
        expected = norm.weight / (norm.running_var + norm.eps).sqrt()
        torch.testing.assert_close(gains[f"0.{added}"], expected.detach(), rtol=1e-3, atol=0.0)


def test_a_map_that_shows_nowhere_has_no_gain() -> None:
    block = trained(BasicBlock(8, 8))
    assert isinstance(block, BasicBlock)
    block.bn2.bias.data[3] = -1e4  # the ReLU behind the sum hides it
    gain = residual_gain(nn.Sequential(block), "0", "0.conv2", torch.randn(4, 8, 9, 9))
    assert gain is not None
    assert gain[3] == 0
    assert gain.count_nonzero() == 7


def test_closed_form_keeps_more_where_blocks_make_up_for_their_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    original = trained(create_model("resnet20"))
    images = list(torch.randn(64, 3, 32, 32).split(32))

    def error() -> float:
        options = {"skip": ["conv1"], "cheap": "pointwise", "drop_inner": True, "effort": "fast"}
        ghost = convert(original, calibration=images, **options).model
        with torch.no_grad():
            return float((ghost(images[0]) - original(images[0])).square().mean())

    with_it = error()
    monkeypatch.setattr(keep, "residual_gain", lambda *_: None)
    assert with_it < error()
