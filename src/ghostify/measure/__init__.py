"""Numbers about a network: what it costs on paper and by the clock. Nothing here changes one."""

from ghostify.measure.count import count

__all__ = ["count"]
