"""Layers that make ghosts, for any network."""

from ghostify.layers.ghost_block import GhostBlock
from ghostify.layers.ghost_conv import GhostConv2d
from ghostify.layers.ghost_module import GhostModule

# All that a convolution, or a block, may have been replaced by.
GHOST_LAYERS = (GhostBlock, GhostConv2d, GhostModule)

__all__ = ["GHOST_LAYERS", "GhostBlock", "GhostConv2d", "GhostModule"]
