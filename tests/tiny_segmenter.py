"""Networks with a map for each class, small enough to learn within a test, built as a user's own would be."""

import torch
from torch import Tensor, nn


def block(inputs: int, maps: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, maps, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(maps), nn.ReLU(inplace=True))


class UNet(nn.Module):
    """Two levels, joined again by transposed convolutions and concatenations."""

    def __init__(self, num_classes: int = 3, width: int = 8) -> None:
        super().__init__()
        self.fine, self.coarse = block(3, width), block(width, 2 * width, stride=2)
        self.deep = block(2 * width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join = block(2 * width, width)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        return self.head(self.join(torch.cat([fine, self.up(self.deep(self.coarse(fine)))], 1)))


class WithAux(UNet):
    """A mapping of two outputs, of which one is for training, as torchvision's; smaller than the image."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(num_classes)
        self.aux = nn.Conv2d(16, num_classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.head(self.fine(x)[..., ::2, ::2]), "aux": self.aux(self.coarse(self.fine(x)))}
