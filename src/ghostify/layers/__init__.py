"""Layers that make ghosts. They know of no network."""

from ghostify.layers.ghost_conv import GhostConv2d
from ghostify.layers.ghost_module import GhostModule

__all__ = ["GhostConv2d", "GhostModule"]
