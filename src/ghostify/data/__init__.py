"""Reading labelled images."""

from ghostify.data.images import ImageData
from ghostify.data.sources import load_data

__all__ = ["ImageData", "load_data"]
