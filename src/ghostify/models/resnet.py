"""CIFAR ResNets with option-A shortcuts, and the ghosts of them and of ResNet-50."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import ResNet, resnet50
from torchvision.models.resnet import Bottleneck

from ghostify.layers import GhostModule

# Makes a 3×3 convolution with its BatchNorm from input channels, output channels and stride.
Conv3x3 = Callable[[int, int, int], nn.Module]


class PadShortcut(nn.Module):
    """A shortcut without parameters: every second pixel, and zeros for the maps that are new.

    Option A of He et al. 2016, arXiv:1512.03385, section 4.2.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.padding = (out_channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in_channels, h, w]`` → ``[batch, out_channels, ceil(h / 2), ceil(w / 2)]``."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    return PadShortcut(in_channels, out_channels) if stride > 1 or in_channels != out_channels else nn.Sequential()


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a parameter-free shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in_channels, h, w]`` → ``[batch, out_channels, ceil(h / stride), ceil(w / stride)]``."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class GhostBasicBlock(nn.Module):
    """``BasicBlock`` with ghost modules in place of its convolutions with BatchNorm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, ghost: partial[GhostModule]) -> None:
        super().__init__()
        self.conv1 = ghost(in_channels, out_channels, 3, stride)
        self.conv2 = ghost(out_channels, out_channels, 3, relu=False)
        self.shortcut = shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in_channels, h, w]`` → ``[batch, out_channels, ceil(h / stride), ceil(w / stride)]``."""
        return F.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


class ResNetCifar(nn.Module):
    """The ResNets for 32×32 images of He et al. 2016, arXiv:1512.03385, section 4.2: 6n + 2 layers.

    Args:
        blocks: n, blocks in each of the three stages of 16, 32 and 64 maps.
        num_classes: Outputs.
        block: Makes a residual block from input channels, output channels and stride.
    Shape:
        ``[batch, 3, height, width]`` → logits ``[batch, num_classes]``.
    """

    def __init__(self, blocks: int, num_classes: int, block: Conv3x3 = BasicBlock) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(block, blocks, 16, 16, 1)
        self.layer2 = stage(block, blocks, 16, 32, 2)
        self.layer3 = stage(block, blocks, 32, 64, 2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, 3, height, width]`` to logits ``[batch, num_classes]``."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def stage(block: Conv3x3, blocks: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    first = block(in_channels, out_channels, stride)
    return nn.Sequential(first, *(block(out_channels, out_channels, 1) for _ in range(blocks - 1)))


def resnet_cifar(blocks: int, num_classes: int = 10) -> ResNetCifar:
    return ResNetCifar(blocks, num_classes)


def ghost_resnet_cifar(
    blocks: int, num_classes: int = 10, *, ratio: int = 2, cheap_kernel_size: int = 3, ghost_first: bool = True
) -> ResNetCifar:
    """A CIFAR ResNet with every convolution a ghost module; ``ghost_first=False`` leaves the first."""
    ghost = partial(GhostModule, ratio=ratio, cheap_kernel_size=cheap_kernel_size)
    model = ResNetCifar(blocks, num_classes, partial(GhostBasicBlock, ghost=ghost))
    if ghost_first:
        model.conv1 = ghost(3, 16, 3)  # type: ignore[assignment]  # another layer takes the place
        model.bn1 = nn.Identity()  # type: ignore[assignment]  # likewise
    return model


def ghost_resnet50(num_classes: int = 1000, *, ratio: int = 2, cheap_kernel_size: int = 3) -> ResNet:
    """torchvision's ``resnet50`` with every convolution but the stem a ghost module."""

    def ghost_of(conv: nn.Conv2d, relu: bool) -> GhostModule:
        return GhostModule(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size[0],
            conv.stride[0],
            ratio=ratio,
            cheap_kernel_size=cheap_kernel_size,
            relu=relu,
        )

    model = resnet50(num_classes=num_classes)
    for block in model.modules():
        if isinstance(block, Bottleneck):
            for index, relu in ((1, True), (2, True), (3, False)):
                setattr(block, f"conv{index}", ghost_of(getattr(block, f"conv{index}"), relu))
                setattr(block, f"bn{index}", nn.Identity())
            if block.downsample is not None:
                block.downsample = ghost_of(block.downsample[0], relu=False)
    return model
