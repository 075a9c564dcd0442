"""BatchNorms are folded into the convolutions in front of them, and only where that changes nothing."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock
from torchvision.ops import FrozenBatchNorm2d

from ghostify.structure.norms import without_norms


class NormAndReLU(nn.BatchNorm2d):
    """A BatchNorm that is more than one, as timm has them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class TwoTakers(nn.Module):
    """What its convolution gives goes past the BatchNorm, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.bn(y) + y


class TwoNorms(nn.Module):
    """Its convolution runs twice, each time in front of another BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3), nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.bn[1](self.conv(self.bn[0](self.conv(x))))


class ReadsItsNorm(nn.Module):
    """Its code asks its BatchNorm for a number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)) * self.bn.eps


def norms_in(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("network", "left"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)), 0),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False)), 0),
        (nn.Sequential(nn.Conv2d(3, 16, 3), InvertedResidual(16, 16, 1, 6)), 0),
        (nn.Sequential(nn.Conv2d(3, 8, 3), BasicBlock(8, 8)), 0),
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)), 0),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3)), 1),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)), 1),
        (nn.Sequential(nn.Conv2d(3, 8, 3), NormAndReLU(8)), 1),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)), 1),
        (nn.Sequential(nn.Conv2d(3, 8, 3), FrozenBatchNorm2d(8)), 0),
        (nn.Sequential(nn.ConvTranspose2d(3, 8, 3), nn.BatchNorm2d(8)), 1),
        (TwoTakers(), 1),
        (TwoNorms(), 2),
        (ReadsItsNorm(), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_network_without_its_norms_computes_the_same(network: nn.Module, left: int) -> None:
    model = network.eval()
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 2)  # statistics as after training
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(2, 3, 12, 12)
    folded = without_norms(model, x)
    assert norms_in(folded) == left
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
