"""A network small enough to train within a test, built as a user's own would be."""

from torch import Tensor, nn


class Tiny(nn.Module):
    """Two convolutions and a classifier for 3-channel images of any size."""

    def __init__(self, num_classes: int = 3, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        return self.head(self.conv2(x).relu().mean((2, 3)))


def for_three_classes() -> Tiny:
    return Tiny()


def for_two_classes() -> Tiny:
    return Tiny(2)


def wrapped() -> nn.Module:
    return nn.DataParallel(Tiny())


class Choosing(Tiny):
    """Chooses by the values of its maps what to do next."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x if x.sum() > 0 else -x


def returns_no_module(num_classes: int = 3) -> int:
    return num_classes


def fails() -> nn.Module:
    raise KeyError("no such part")
