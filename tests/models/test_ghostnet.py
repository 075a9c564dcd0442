"""GhostNet is the official one."""

import pytest
import timm
import torch
from torch import nn

from ghostify import create_model


@pytest.mark.parametrize("size", [224, 97])  # 97: odd maps at every stride
def test_timms_ghostnet_100_loads_strictly_and_gives_the_same_logits(size: int) -> None:
    theirs = timm.create_model("ghostnet_100", pretrained=False)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    ours = create_model("ghostnet_100")
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected, got = theirs.eval()(x), ours.eval()(x)
    assert expected.std() > 1e-3  # logits that differ, or agreement would say nothing
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_the_head_is_not_scaled_by_width() -> None:
    assert create_model("ghostnet_050").classifier.in_features == 1280
