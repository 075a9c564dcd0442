"""GhostModule: the published block, with normalisation and activation inside."""

import math
from collections.abc import Callable

from torch import Tensor, nn

from ghostify.layers.ghost_conv import check_ghost_arguments, join_maps, mark_intrinsic


class GhostModule(nn.Module):
    """The ghost module as published: convolution and cheap operation, each with BatchNorm and ReLU.

    Han et al. 2020, arXiv:1911.11907, section 3.1, in the authors' PyTorch key layout: a primary
    convolution (padding k // 2) makes ``ceil(out_channels / ratio)`` intrinsic maps, a depthwise d×d
    filter makes ``ratio - 1`` ghosts of each, both are joined and cut to ``out_channels``. Unlike
    ``GhostConv2d`` it is not linear: put no second BatchNorm or ReLU behind it.

    Args:
        kernel_size: k of the primary convolution.
        ratio: s, at least 1; with 1 there are no ghosts.
        cheap_kernel_size: d, odd.
        relu: Put the activation behind each BatchNorm.
        activation: Makes the activation, for networks with another than ReLU.
    Shape:
        ``[batch, in_channels, h, w]`` → ``[batch, out_channels, ceil(h / stride), ceil(w / stride)]``
        for odd k.
    Raises:
        InputError: If ratio or cheap_kernel_size is outside the above.
    Example:
        >>> import torch
        >>> GhostModule(8, 5, relu=True)(torch.ones(2, 8, 7, 5)).shape
        torch.Size([2, 5, 7, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        ratio: int = 2,
        cheap_kernel_size: int = 3,
        relu: bool = True,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        check_ghost_arguments(ratio, cheap_kernel_size)
        self.out_channels = out_channels
        self.intrinsic = intrinsic = math.ceil(out_channels / ratio)
        self.ghosts = ghosts = intrinsic * (ratio - 1)
        k, d = kernel_size, cheap_kernel_size

        def conv_bn(conv: nn.Conv2d) -> nn.Sequential:
            tail = [activation()] if relu else []
            return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), *tail)

        self.primary_conv = conv_bn(nn.Conv2d(in_channels, intrinsic, k, stride, k // 2, bias=False))
        self.cheap_operation = (
            conv_bn(nn.Conv2d(intrinsic, ghosts, d, padding=d // 2, groups=intrinsic, bias=False)) if ghosts else None
        )

    @property
    def intrinsic_maps(self) -> Tensor:
        """The output maps that the convolution makes, the others being ghosts: bool ``[out_channels]``."""
        return mark_intrinsic(self.intrinsic, self.ghosts, self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[batch, in_channels, h, w]`` to ``[batch, out_channels, h', w']``, intrinsic maps first."""
        intrinsic: Tensor = self.primary_conv(x)
        if self.cheap_operation is None:
            return intrinsic
        return join_maps(intrinsic, self.cheap_operation(intrinsic), self.out_channels)
