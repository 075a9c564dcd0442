"""Faster convolutional networks by ghost maps, measured."""
