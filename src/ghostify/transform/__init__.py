"""Verbs that make another network of a network."""

from ghostify.transform.convert import convert
from ghostify.transform.plan import LayerPlan

__all__ = ["LayerPlan", "convert"]
