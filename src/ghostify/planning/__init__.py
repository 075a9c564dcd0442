"""Choose for each convolution what becomes of its maps: as fast as wanted, at the least harm."""

from ghostify.planning.planner import plan

__all__ = ["plan"]
