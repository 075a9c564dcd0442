"""GhostModule is the published block."""

import pytest
import torch
from torch import nn

from ghostify import GhostModule


def filled(module: GhostModule) -> GhostModule:
    """BatchNorm statistics and weights that change something."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.bias, part.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(part.running_var, 0.5, 2)
    return module.eval().double()


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("out_channels", "ratio", "d", "stride"), [(8, 2, 3, 1), (7, 3, 5, 2), (5, 1, 3, 1)])
def test_it_joins_convolution_and_cheap_operation_each_with_batch_norm_and_relu(
    relu: bool, out_channels: int, ratio: int, d: int, stride: int
) -> None:
    module = filled(GhostModule(3, out_channels, 3, stride, ratio=ratio, cheap_kernel_size=d, relu=relu))
    x = torch.randn(2, 3, 7, 5, dtype=torch.float64)

    def norm(maps: torch.Tensor, bn: nn.BatchNorm2d) -> torch.Tensor:
        scaled = (maps - bn.running_mean[:, None, None]) / (bn.running_var[:, None, None] + bn.eps).sqrt()
        maps = scaled * bn.weight[:, None, None] + bn.bias[:, None, None]
        return maps.clamp(min=0) if relu else maps

    conv, bn = module.primary_conv[0], module.primary_conv[1]
    expected = norm(nn.functional.conv2d(x, conv.weight, stride=stride, padding=1), bn)
    if module.cheap_operation is not None:
        cheap, bn = module.cheap_operation[0], module.cheap_operation[1]
        ghosts = [
            nn.functional.conv2d(expected[:, [i // (ratio - 1)]], cheap.weight[[i]], padding=d // 2)
            for i in range(len(cheap.weight))
        ]
        expected = torch.cat([expected, norm(torch.cat(ghosts, 1), bn)], 1)[:, :out_channels]
    torch.testing.assert_close(module(x), expected)


def test_its_keys_are_the_official_ones() -> None:
    keys = {key.rsplit(".", 1)[0] for key in GhostModule(4, 8).state_dict()}
    assert keys == {"primary_conv.0", "primary_conv.1", "cheap_operation.0", "cheap_operation.1"}
