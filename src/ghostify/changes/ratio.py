"""The ghosts of the paper: one channel in s is computed (Han et al. 2020, arXiv:1911.11907, section 3.1)."""

from dataclasses import dataclass

from torch import nn

from ghostify.changes.depthwise import DepthwiseGhosts
from ghostify.changes.keep import Keep
from ghostify.changes.layer_plan import LayerPlan
from ghostify.changes.pointwise import PointwiseGhosts
from ghostify.layers import GhostConv2d
from ghostify.layers.ghost_conv import Cheap, check_ghost_arguments, intrinsic_channels


@dataclass(frozen=True)
class GhostRatio:
    """Ghosts of one ratio, for any convolution.

    Args:
        ratio: s, whole.
        cheap: Operation that makes the ghosts.
        cheap_kernel_size: d of depthwise cheap filters, odd.
    Raises:
        InputError: If no ghost can be made so.
    """

    ratio: int = 2
    cheap: Cheap = "depthwise"
    cheap_kernel_size: int = 3

    def __post_init__(self) -> None:
        check_ghost_arguments(self.ratio, self.cheap_kernel_size, self.cheap)

    def plan(self, channels: int) -> LayerPlan:
        """The plan of a convolution with ``channels`` output channels."""
        kept = intrinsic_channels(channels, self.ratio)
        if kept == channels:
            return LayerPlan(Keep(channels))
        if self.cheap == "pointwise":
            return LayerPlan(PointwiseGhosts(kept, channels - kept))
        return LayerPlan(DepthwiseGhosts(kept, channels - kept, cheap_kernel_size=self.cheap_kernel_size))

    def layer(self, conv: nn.Conv2d) -> GhostConv2d:
        """A ghost of a convolution, with the filters of its first channels and new cheap ones."""
        return GhostConv2d.like(conv, ratio=self.ratio, cheap_kernel_size=self.cheap_kernel_size, cheap=self.cheap)

    def macs_per_pixel(self, conv: nn.Conv2d) -> tuple[int, int]:
        """Multiply-adds per output pixel of a convolution and of its ghost."""
        per_channel = conv.weight[0].numel()
        intrinsic = intrinsic_channels(conv.out_channels, self.ratio)
        if self.cheap == "depthwise":
            ghosts = intrinsic * (self.ratio - 1) * self.cheap_kernel_size**2
        else:
            ghosts = (conv.out_channels - intrinsic) * intrinsic
        return conv.out_channels * per_channel, intrinsic * per_channel + ghosts
