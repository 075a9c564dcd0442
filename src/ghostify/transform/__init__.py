"""Verbs that make another network of a network."""

from ghostify.transform.convert import convert

__all__ = ["convert"]
