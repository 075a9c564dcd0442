"""Borrow a network for a measurement and give it back as it was; how its maps may lie in memory."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put networks into eval mode and give every submodule its own mode back at the end."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def memory_format_for(model: nn.Module, example: Tensor) -> torch.memory_format:
    """Channels last, in which convolutions learn faster, where the network takes it; a ``view`` of maps may not.

    Args:
        example: An input ``[batch, channels, height, width]``.
    """
    trial = copy.deepcopy(model).eval().to(memory_format=torch.channels_last)
    try:
        trial(example.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        return torch.contiguous_format
    return torch.channels_last
