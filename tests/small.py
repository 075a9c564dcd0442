"""Small networks that several tests plan for, and norms as after training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ghostify import count
from ghostify.planning.candidates import Candidate, find_candidates, offer_for

SHAPE = (3, 8, 8)


class Net(nn.Module):
    """A stem, a convolution whose channels can be pruned, and one whose channels meet a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.conv1 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((x + self.conv2(self.norm1(self.conv1(x)).relu())).relu().mean((2, 3)))


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(16), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))).relu()


class Blocks(nn.Module):
    """A stem and three residual blocks, which may change as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.Sequential(*(Block() for _ in range(3)))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x).relu()).mean((2, 3)))


def candidates_of(model: nn.Module) -> dict[str, Candidate]:
    """What of a network that takes ``SHAPE`` may change, for multiply-adds."""
    return find_candidates(model, torch.zeros(1, *SHAPE), count(model, SHAPE), offer_for("macs"))


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


@torch.no_grad()
def outputs_of(model: nn.Module, batches: Sequence[Tensor]) -> Tensor:
    """A network's outputs for all images."""
    return torch.cat([model(batch) for batch in batches])
