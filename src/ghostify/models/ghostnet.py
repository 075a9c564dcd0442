"""GhostNet, in the authors' PyTorch layout."""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from ghostify.layers import GhostModule

# Kernel size, expansion, output channels, squeeze-excite ratio, stride of each bottleneck, stage by
# stage: Han et al. 2020, arXiv:1911.11907, table 1, as cut into stages by the authors' code.
STAGES: tuple[tuple[tuple[int, int, int, float, int], ...], ...] = (
    ((3, 16, 16, 0, 1),),
    ((3, 48, 24, 0, 2),),
    ((3, 72, 24, 0, 1),),
    ((5, 72, 40, 0.25, 2),),
    ((5, 120, 40, 0.25, 1),),
    ((3, 240, 80, 0, 2),),
    ((3, 200, 80, 0, 1), (3, 184, 80, 0, 1), (3, 184, 80, 0, 1), (3, 480, 112, 0.25, 1), (3, 672, 112, 0.25, 1)),
    ((5, 672, 160, 0.25, 2),),
    ((5, 960, 160, 0, 1), (5, 960, 160, 0.25, 1), (5, 960, 160, 0, 1), (5, 960, 160, 0.25, 1)),
)
HEAD_CHANNELS = 1280  # not scaled by width


def divisible(channels: float, divisor: int = 4) -> int:
    """The multiple of ``divisor`` next to ``channels``, and never less than 90 % of it.

    Example:
        >>> divisible(16 * 1.1), divisible(72 * 0.25), divisible(5)
        (16, 20, 8)
    """
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


class SqueezeExcite(nn.Module):
    """A gate for each map from the means of all maps (Hu et al. 2018, arXiv:1709.01507), with a hard sigmoid."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.conv_expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, h, w]`` → the same shape, each map scaled by its gate in 0..1."""
        gate = self.conv_expand(F.relu(self.conv_reduce(x.mean((2, 3), keepdim=True))))
        return x * F.hardsigmoid(gate)


class GhostBottleneck(nn.Module):
    """Expand by a ghost module, (stride), (squeeze-excite), project by a ghost module, add the input.

    Han et al. 2020, arXiv:1911.11907, section 3.2. Only the two depthwise convolutions of a striding bottleneck are of
    ``kernel_size``.
    """

    def __init__(
        self,
        in_channels: int,
        expanded: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        se_ratio: float,
        ghost: partial[GhostModule],
    ) -> None:
        super().__init__()
        self.ghost1 = ghost(in_channels, expanded)
        if stride > 1:
            self.conv_dw = depthwise(expanded, kernel_size, stride)
            self.bn_dw = nn.BatchNorm2d(expanded)
        self.stride = stride
        self.se = SqueezeExcite(expanded, divisible(expanded * se_ratio)) if se_ratio else None
        self.ghost2 = ghost(expanded, out_channels, relu=False)
        self.shortcut = nn.Sequential()
        if stride > 1 or in_channels != out_channels:
            self.shortcut.extend(
                [
                    depthwise(in_channels, kernel_size, stride),
                    nn.BatchNorm2d(in_channels),
                    nn.Conv2d(in_channels, out_channels, 1, bias=False),
                    nn.BatchNorm2d(out_channels),
                ]
            )

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in_channels, h, w]`` → ``[batch, out_channels, ceil(h / stride), ceil(w / stride)]``."""
        y = self.ghost1(x)
        if self.stride > 1:
            y = self.bn_dw(self.conv_dw(y))
        if self.se is not None:
            y = self.se(y)
        out: Tensor = self.ghost2(y) + self.shortcut(x)
        return out


class ConvBnAct(nn.Module):
    """A 1×1 convolution with BatchNorm and ReLU, under the names of the official state dict."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in_channels, h, w]`` → ``[batch, out_channels, h, w]``."""
        return F.relu(self.bn1(self.conv(x)))


class GhostNet(nn.Module):
    """GhostNet (Han et al. 2020, arXiv:1911.11907, table 1); loads the official state dicts.

    Args:
        width: Factor on all channels but the 1280 of the head.
        num_classes: Outputs.
        ratio: s of every ghost module.
        cheap_kernel_size: d of every ghost module.
        dropout: Probability before the classifier.
    Shape:
        ``[batch, 3, height, width]`` → logits ``[batch, num_classes]``.
    """

    def __init__(
        self,
        width: float = 1.0,
        num_classes: int = 1000,
        *,
        ratio: int = 2,
        cheap_kernel_size: int = 3,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        ghost = partial(GhostModule, ratio=ratio, cheap_kernel_size=cheap_kernel_size)
        channels = divisible(16 * width)
        self.conv_stem = nn.Conv2d(3, channels, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        stages: list[nn.Module] = []
        for stage in STAGES:
            blocks = []
            for kernel_size, expansion, out, se_ratio, stride in stage:
                expanded, out_channels = divisible(expansion * width), divisible(out * width)
                blocks.append(GhostBottleneck(channels, expanded, out_channels, kernel_size, stride, se_ratio, ghost))
                channels = out_channels
            stages.append(nn.Sequential(*blocks))
        stages.append(nn.Sequential(ConvBnAct(channels, divisible(960 * width))))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(divisible(960 * width), HEAD_CHANNELS, 1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(HEAD_CHANNELS, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, 3, height, width]`` to logits ``[batch, num_classes]``."""
        x = self.blocks(F.relu(self.bn1(self.conv_stem(x))))
        x = F.relu(self.conv_head(x.mean((2, 3), keepdim=True)))
        logits: Tensor = self.classifier(self.dropout(x.flatten(1)))
        return logits


def depthwise(channels: int, kernel_size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel_size, stride, kernel_size // 2, groups=channels, bias=False)
