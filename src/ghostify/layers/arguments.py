"""The arguments that make a layer again."""

from typing import Any

from torch import nn

from ghostify.layers.ghost_block import GhostBlock
from ghostify.layers.ghost_conv import GhostConv2d, intrinsic_channels

CONVOLUTION = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)
NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")


def conv_arguments(conv: nn.Conv2d) -> dict[str, Any]:
    """Arguments of a ``Conv2d``."""
    return {name: getattr(conv, name) for name in CONVOLUTION} | {"bias": conv.bias is not None}


def ghost_arguments(ghost: GhostConv2d) -> dict[str, Any]:
    """Arguments of a ``GhostConv2d``."""
    own = {"ratio": ghost.ratio, "cheap_kernel_size": ghost.cheap_kernel_size, "cheap": ghost.cheap_kind}
    intrinsic = ghost.primary.out_channels
    if intrinsic != intrinsic_channels(ghost.out_channels, ghost.ratio, ghost.groups):
        own["intrinsic"] = intrinsic
    if ghost.order is not None:
        own["ordered"] = True
    if ghost.merge is not None:
        own["merged"] = ghost.merge.out_channels
    shape = {name: getattr(ghost, name) for name in CONVOLUTION}
    return shape | {"bias": ghost.primary.bias is not None} | own


def ghost_block_arguments(block: GhostBlock) -> dict[str, Any]:
    """Arguments of a ``GhostBlock``."""
    return {"channels": block.channels, "kernel_size": block.kernel_size, "relu": block.relu}


def linear_arguments(linear: nn.Linear) -> dict[str, Any]:
    """Arguments of a ``Linear``."""
    return {
        "in_features": linear.in_features,
        "out_features": linear.out_features,
        "bias": linear.bias is not None,
    }


def norm_arguments(norm: nn.BatchNorm2d) -> dict[str, Any]:
    """Arguments of a ``BatchNorm2d``."""
    return {name: getattr(norm, name) for name in NORM}
