"""Plan the change of each layer, as fast as asked and with the least output error, and carry it out."""

from ghostify.planning.convert import convert
from ghostify.planning.planner import plan

__all__ = ["convert", "plan"]
