"""Weights from what a network computes on some images."""
