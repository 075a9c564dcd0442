"""Layers that make ghosts, for any network."""

from ghostify.layers.ghost_block import GhostBlock
from ghostify.layers.ghost_conv import GhostConv2d
from ghostify.layers.ghost_module import GhostModule

__all__ = ["GhostBlock", "GhostConv2d", "GhostModule"]
