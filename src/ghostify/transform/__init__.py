"""Verbs that make another network of a network."""
