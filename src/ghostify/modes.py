"""Borrow a network, or the random numbers, for a while, and give them back as they were."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put networks into eval mode, and every submodule back into its own mode at the end."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def random_state_kept(model: nn.Module) -> Iterator[None]:
    """Let random numbers be drawn on the CPU and on a network's GPUs, and put their generators back at the end."""
    devices = sorted({tensor.device.index for tensor in model.parameters() if tensor.is_cuda})
    with torch.random.fork_rng(devices, device_type="cuda"):
        yield


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Let PyTorch's, NumPy's and Python's random numbers be drawn on the CPU, and put their generators back."""
    numbers, others = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng([]):
            yield
    finally:
        np.random.set_state(numbers)
        random.setstate(others)
