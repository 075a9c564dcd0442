"""Borrow a network, or the random numbers, for a while, and give them back as they were."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from threading import get_ident
from typing import Any

import numpy as np
import torch
from torch import nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put networks into eval mode, and every submodule back into its own mode at the end."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        if any(training for _, training in modes):
            for model in models:
                model.eval()
        yield
    finally:
        for module, training in modes:
            if module.training != training:  # setting it takes much longer than looking
                module.training = training


@contextmanager
def on_device(model: nn.Module, device: str) -> Iterator[None]:
    """Put a network on a device, and back to its own at the end."""
    before = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), None)
    model.to(device)
    try:
        yield
    finally:
        if before is not None:
            model.to(before)


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


class OwnAutocast(torch.autocast):
    """``torch.autocast`` that works also in ``without_autocast``.

    Inside another one, weights that were cast are remembered until that ends, and would be old ones where they learn:
    give ``cache_enabled=False``.
    """

    __enter__, __exit__ = torch.autocast.__enter__, torch.autocast.__exit__


@contextmanager
def without_autocast() -> Iterator[None]:
    """Leave ``torch.autocast``, and run meanwhile whatever enters it in this thread as if it did not.

    A part of a network that ran in it gives the same, but for rounding; its maps have the type of its weights, so that
    each of its layers can run alone.

    Example:
        >>> network = nn.Linear(2, 1)
        >>> network.forward = torch.autocast("cpu", torch.bfloat16)(network.forward)
        >>> network(torch.ones(1, 2)).dtype
        torch.bfloat16
        >>> with without_autocast():
        ...     network(torch.ones(1, 2)).dtype
        torch.float32
    """
    kind: Any = torch.autocast
    entered, left, thread = kind.__enter__, kind.__exit__, get_ident()

    def enter(self: Any) -> Any:
        return self if get_ident() == thread else entered(self)

    def leave(self: Any, *error: Any) -> Any:
        return False if get_ident() == thread else left(self, *error)

    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(OwnAutocast(device, enabled=False, cache_enabled=False))
        kind.__enter__, kind.__exit__ = enter, leave
        try:
            yield
        finally:
            kind.__enter__, kind.__exit__ = entered, left
