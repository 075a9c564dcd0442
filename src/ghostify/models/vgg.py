"""VGG-16 for CIFAR-sized images, and the ghosts of both VGG-16s."""

from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torchvision.models import VGG, vgg16_bn
from torchvision.models.vgg import cfgs

from ghostify.layers import GhostModule

Block = Callable[[int, int], list[nn.Module]]


def vgg16_features(block: Block, first: Block | None = None) -> nn.Sequential:
    """The 13 convolutions and 5 poolings of VGG-16 (Simonyan & Zisserman 2015, arXiv:1409.1556, column D).

    Args:
        block: Makes the layers of one convolution from its input and output channels.
        first: The same for the first convolution, where that differs.
    """

    def layers() -> Iterator[nn.Module]:
        channels, make = 3, first or block
        for step in cfgs["D"]:
            if isinstance(step, int):
                yield from make(channels, step)
                channels, make = step, block
            else:
                yield nn.MaxPool2d(2, 2)

    return nn.Sequential(*layers())


class VGGCifar(nn.Module):
    """VGG-16 for 32×32 images: 13 convolutions with BatchNorm, then 512-512-classes.

    The network that Han et al. 2020, arXiv:1911.11907, table 5, start from.

    Shape:
        ``[batch, 3, 32, 32]`` → logits ``[batch, num_classes]``.
    """

    def __init__(self, features: nn.Sequential, num_classes: int) -> None:
        super().__init__()
        self.features = features
        self.classifier = nn.Sequential(nn.Linear(512, 512), nn.ReLU(inplace=True), nn.Linear(512, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, 3, 32, 32]`` to logits ``[batch, num_classes]``."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def conv_bn_relu(in_channels: int, out_channels: int) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


def ghost_features(ratio: int, cheap_kernel_size: int, ghost_first: bool) -> nn.Sequential:
    """VGG-16's convolutions as ghost modules, without a second BatchNorm or ReLU behind them."""

    def ghost(in_channels: int, out_channels: int) -> list[nn.Module]:
        return [GhostModule(in_channels, out_channels, 3, ratio=ratio, cheap_kernel_size=cheap_kernel_size)]

    return vgg16_features(ghost, None if ghost_first else conv_bn_relu)


def vgg16_cifar(num_classes: int = 10) -> VGGCifar:
    return VGGCifar(vgg16_features(conv_bn_relu), num_classes)


def ghost_vgg16_cifar(
    num_classes: int = 10, *, ratio: int = 2, cheap_kernel_size: int = 3, ghost_first: bool = True
) -> VGGCifar:
    """Ghost-VGG-16. ``ghost_first=False`` leaves the first convolution; the published counts have it ghosted."""
    return VGGCifar(ghost_features(ratio, cheap_kernel_size, ghost_first), num_classes)


def ghost_vgg16_bn(
    num_classes: int = 1000, *, ratio: int = 2, cheap_kernel_size: int = 3, ghost_first: bool = True
) -> VGG:
    """torchvision's ``vgg16_bn`` with its convolutions as ghost modules."""
    model = vgg16_bn(num_classes=num_classes)
    model.features = ghost_features(ratio, cheap_kernel_size, ghost_first)
    return model
