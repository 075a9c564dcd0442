"""Layers that make ghosts, and what they need, for any network."""

from ghostify.layers.ghost_block import GhostBlock
from ghostify.layers.ghost_conv import GhostConv2d
from ghostify.layers.ghost_module import GhostModule
from ghostify.layers.padded_conv import PaddedConv2d

# All that a convolution, or a block, may have been replaced by.
GHOST_LAYERS = (GhostBlock, GhostConv2d, GhostModule)

__all__ = ["GHOST_LAYERS", "GhostBlock", "GhostConv2d", "GhostModule", "PaddedConv2d"]
