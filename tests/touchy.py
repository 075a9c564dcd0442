"""Networks of a user's own whose constructors use the values of their weights, which other builds do without."""

import random
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class HalvedConv(nn.Conv2d):
    """Sets its weights itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weight.data = self.weight.data.abs() / 2 + torch.zeros(1)


class Touchy(nn.Module):
    """Two convolutions and a classifier."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv2(self.conv1(x).relu()).relu().mean((2, 3)))


class OwnLayers(Touchy):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = HalvedConv(3, 16, 3, padding=1)


class Data(Touchy):
    def __init__(self) -> None:
        super().__init__()
        self.conv2.weight.data = torch.rand_like(self.conv2.weight.data.to("cpu")) / 100


class Orthogonal(Touchy):
    def __init__(self) -> None:
        super().__init__()
        nn.init.orthogonal_(self.conv2.weight)


class FromNumpy(Touchy):
    """Draws by NumPy's and Python's generators."""

    def __init__(self) -> None:
        super().__init__()
        drawn = np.random.normal(size=self.conv1.weight.numpy(force=True).shape) * random.random()
        self.conv1.weight = nn.Parameter(torch.from_numpy(drawn).float())


class Asked(Touchy):
    def __init__(self) -> None:
        super().__init__()
        assert self.conv1.weight.abs().max().item() > 0


class Moved(Touchy):
    def __init__(self) -> None:
        super().__init__()
        self.to("cpu")


class FromFile(Touchy):
    """Reads its weights from a file that a program wrote before."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.load_state_dict(torch.load(path, weights_only=True))
        self.conv1.weight.data /= self.conv1.weight.norm().item()


class Buffered(Touchy):
    """Keeps what it computed of weights that are drawn anew in each build."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", self.conv1.weight.detach().mean((1, 2, 3)))
        self.register_buffer("gain", torch.rand(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain + self.mean.sum()


class Holding(Touchy):
    """Has a tensor that is drawn anew in each build, and is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.rand(4)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain


class HoldingDeep(Touchy):
    """Has such tensors in lists, tuples and mappings."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: Any = {"gains": [(torch.rand(4), "first"), (torch.rand(4), "second")], 3: torch.rand(4)}
        self.last: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = super().forward(x)  # which is no part of the network
        return sum(gain * self.last for gain, _ in self.tables["gains"]) + self.tables[3]


class Recurrent(Touchy):
    """Has a module that keeps a list of its own parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.recurrent(super().forward(x))[0]  # the batch as a sequence
        return found


class Growing(Touchy):
    """Its buffer takes the size of what was run last."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grid", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.grid = torch.linspace(0, 1, x.shape[-1], device=x.device)
        return super().forward(x + self.grid)


class Kinds:
    """A class in a class."""

    class Inner(Touchy):
        pass


STANDING = Touchy()
HALF_AS_WIDE = partial(Touchy, width=8)


class WithOwnRows(Touchy):
    """Layers of other classes than PyTorch's that have numbers for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.slopes, self.scale = nn.PReLU(16), Scaling(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv2(self.scale(self.slopes(self.conv1(x)))).relu().mean((2, 3)))


class Scaling(nn.Module):
    """A parameter and a buffer beside a layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(1, channels, 1, 1))
        self.register_buffer("shift", torch.rand(channels, 1, 1))
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x * self.gamma + self.shift)
