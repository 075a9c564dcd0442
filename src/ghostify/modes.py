"""Borrow a network, or the random numbers, for a while, and give them back as they were."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

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
def without_inference_mode() -> Iterator[None]:
    """Leave ``torch.inference_mode``, and run meanwhile whatever enters it as if it did not.

    In it gradients are not recorded, hooks get tensors that cannot be saved for them, and operators that are made of
    others are not seen one by one. A network whose ``forward`` is decorated with it gives the same outputs without, as
    gradients are recorded or not as where this is entered: ``torch.no_grad`` and ``torch.enable_grad`` stay as they
    are. Other threads meanwhile stay out of it, too, which costs them a little time.

    Example:
        >>> network = nn.Linear(2, 1)
        >>> network.forward = torch.inference_mode()(network.forward)
        >>> network(torch.ones(1, 2)).requires_grad
        False
        >>> with without_inference_mode():
        ...     network(torch.ones(1, 2)).requires_grad
        True
    """

    def nothing(enabled: bool = True) -> Any:
        return nullcontext()

    modes: Any = torch._C  # where `torch.inference_mode` looks up what it enters
    entered, recorded = modes._InferenceMode, torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(recorded):
        modes._InferenceMode = nothing
        try:
            yield
        finally:
            modes._InferenceMode = entered
